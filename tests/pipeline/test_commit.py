"""The commit rule: whatever is interrupted wherever, a record is there only when all it names is."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import commit as module
from pipeline.commit import (
    commit,
    commit_path,
    committed_splits,
    keep_valid,
    scratch_folder,
    valid_commit,
    valid_commits,
)
from pipeline.dataset import BadDataset, Dataset
from pipeline.storage import list_names, read_json

FACTS = {"inputs": 1, "records": 1, "rejects": 0}
STEPS = 4
"""Three files and the record."""


class Interrupted(Exception):
    """The machine stops here."""


def scratch(root: Path, split: int, text: str = "x") -> Path:
    folder = scratch_folder(str(root), split)
    for name in ("a", "b", "c"):
        (folder / f"{name}-{split:06d}.txt").write_text(name + text)
    return folder


def contents(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "shards").iterdir()}


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("step", range(STEPS))
def test_an_interruption_anywhere_leaves_no_record_or_a_whole_split(
    tmp_path: Path, step: int, before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = commit(str(tmp_path / "calm"), 3, "plan", scratch(tmp_path / "calm", 3), FACTS)
    root, count = tmp_path / "storm", 0

    def interrupted(name: str) -> Any:
        real = getattr(module, name)

        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step + 1 and before:
                raise Interrupted
            answer = real(*arguments)
            if count == step + 1:
                raise Interrupted
            return answer

        return call

    with monkeypatch.context() as patched:
        for name in ("publish_file", "publish_json_once"):
            patched.setattr(module, name, interrupted(name))
        with pytest.raises(Interrupted):
            commit(str(root), 3, "plan", scratch(root, 3), FACTS)
    if Path(commit_path(str(root), 3)).exists():
        assert contents(root) == contents(tmp_path / "calm")
    done = valid_commit(str(root), "plan", 3)
    assert (done is None) is not (step == STEPS - 1 and not before)
    assert valid_commits(str(root), "plan", [3]) == ({} if done is None else {3: expected})
    assert commit(str(root), 3, "plan", scratch(root, 3), FACTS) == expected
    assert contents(root) == contents(tmp_path / "calm")
    assert len(list((root / "work" / "tmp").iterdir())) == 1  # of the interrupted one: the driver removes it


def test_many_commits_of_one_split_at_once_are_one(tmp_path: Path) -> None:
    folders = [scratch(tmp_path, 0) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda folder: commit(str(tmp_path), 0, "plan", folder, FACTS), folders))
    assert all(record == records[0] for record in records)
    assert sorted(list_names(str(tmp_path / "shards"))) == sorted(
        ["a-000000.txt", "b-000000.txt", "c-000000.txt", Path(commit_path("", 0)).name]
    )


@given(st.sets(st.integers(0, 10**7)), st.sets(st.text("shard-0123456789.comitjsnp", max_size=30)))
def test_only_records_name_splits(splits: set[int], others: set[str]) -> None:
    names = {Path(commit_path("root", split)).name for split in splits}
    noise = {name for name in others if not name.endswith(".commit.json")}
    assert committed_splits(names | noise | {name + ".tmp-1" for name in names}) == splits


NOT_FILES: list[Any] = [None, [], "a", 3, {"a-000000.txt": 3}, {"a-000000.txt": {}}, {"../a": {"bytes": 1}}, {"\0": {}}]


@pytest.mark.parametrize("files", [*NOT_FILES, {"\ud800": {"bytes": 1}}, {"none.txt": {"bytes": None}}, "missing"])
def test_a_record_of_another_form_does_not_count_and_is_done_again(tmp_path: Path, files: Any) -> None:
    root = str(tmp_path)
    expected = commit(root, 0, "plan", scratch(tmp_path, 0), FACTS)
    damaged = {name: value for name, value in expected.items() if name != "files"}
    damaged |= {} if files == "missing" else {"files": files}
    Path(commit_path(root, 0)).write_text(json.dumps(damaged))
    assert valid_commit(root, "plan", 0) is None
    assert keep_valid(root, "plan", [0]) == {}
    assert not Path(commit_path(root, 0)).exists()
    assert commit(root, 0, "plan", scratch(tmp_path, 0), FACTS) == expected


def test_what_is_nested_too_deep_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    path = Path(commit_path(str(tmp_path), 0))
    (tmp_path / "dataset.json").write_text("[" * 100_000)
    with pytest.raises(BadDataset, match="is not valid JSON"):
        Dataset.open(str(tmp_path))
    for damage in ("[" * 100_000, "{", "[]", "{}", '{"records": "3"}'):
        path.write_text(damage)
        with pytest.raises(BadDataset, match="so its shard does not count; run `interloom repair"):
            Dataset(root=str(tmp_path), info={}).commit(0)
    path.write_text("[" * 100_000)
    assert read_json(str(path)) is None
