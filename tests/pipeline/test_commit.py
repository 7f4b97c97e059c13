"""The commit rule: whatever is interrupted wherever, a record is there only when all it names is."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import commit as module
from pipeline.commit import commit, commit_path, committed_splits, scratch_folder, valid_commit, valid_commits
from pipeline.storage import list_names

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
