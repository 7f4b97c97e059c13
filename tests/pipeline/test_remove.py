"""Removal: only the splits concerned change, to what a build without the rows gives, whenever it is interrupted."""

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build import RunSettings
from pipeline.commit import commit_path
from pipeline.dataset import BadDataset, Dataset
from pipeline.drive import EngineSettings
from pipeline.folder_lock import FolderInUse
from pipeline.manifest import read_manifest
from pipeline.plan import all_rows, load_rows
from pipeline.removal_checks import RemoveFailed, unfinished
from pipeline.remove import Takedown, remove
from pipeline.removed import BadRemovedList, Removed, digest, is_removed, read_removed, write_removed
from pipeline.repair import repair
from pipeline.storage import join, publish_bytes, publish_json, read_bytes, read_json
from pipeline.storage import remove as remove_file
from pipeline.verify import examine
from schemas.records import Samples, Utterance
from schemas.rejects import Reason, Reject
from tests.takedown_builders import (
    PER_RECORDING,
    SPLITS,
    Killed,
    Mortal,
    build_dataset,
    build_split,
    finish_dataset,
    reject_lines,
    tree,
    utterance_id,
)

THREE = (utterance_id(0, 1), utterance_id(2, 0), utterance_id(2, 3))


def quiet(*_: object) -> None:
    """No progress is shown."""


def take_out(root: str, *ids: str, **more: object) -> Takedown:
    return remove(root, quiet, ids=ids, **more)  # type: ignore[arg-type]


def rebuilt(root: str, removed: Removed) -> dict[str, bytes]:
    """The oracle: what a build from nothing gives with this list."""
    write_removed(root, removed)
    build_dataset(root)
    return tree(root)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A finished dataset of four splits."""
    root = str(tmp_path / "dataset")
    build_dataset(root)
    return root


def test_only_the_splits_of_the_ids_change(dataset: str) -> None:
    before = tree(dataset)
    found = take_out(dataset, *THREE, reason="ticket 7")
    assert (found.rows, found.splits, found.missing) == (4, (0, 2), ())  # id 1 of recording 0 stands in two rows
    side = {"dataset.json", "shards.parquet", ".nv-meta/.info.json", "removed.jsonl"}
    own = {name for name in before if name.startswith("shards/") and name.split("-")[1][:6] in ("000000", "000002")}
    assert changed(before, tree(dataset)) == side | own
    assert not (Path(dataset) / "removing").exists()
    assert not list((Path(dataset) / "work" / "tmp").iterdir())


def test_what_is_left_is_what_a_build_without_the_rows_gives(dataset: str, tmp_path: Path) -> None:
    take_out(dataset, *THREE, reason="ticket 7")
    listed = Removed.of(ids={digest(name): "ticket 7" for name in THREE})
    assert changed(tree(dataset), rebuilt(str(tmp_path / "other"), listed)) == set()


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(st.integers(0, SPLITS - 1), st.integers(0, PER_RECORDING - 1)), min_size=1, max_size=12, unique=True
    ),
    st.integers(1, 12),
)
def test_any_removals_in_any_portions_equal_a_build(rows: list[tuple[int, int]], cut: int) -> None:
    root, other = f"memory://r{uuid4().hex}", f"memory://o{uuid4().hex}"
    try:
        build_dataset(root)
        ids = [utterance_id(*row) for row in rows]
        for portion in (ids[:cut], ids[cut:]):
            take_out(root, *portion)
        assert changed(tree(root), rebuilt(other, Removed.of(ids={digest(name): "" for name in ids}))) == set()
        info = Dataset.open(root).info
        assert info["inputs"] == info["records"] + info["rejects"]
    finally:
        for used in (root, other):
            fsspec.core.url_to_fs(used)[0].rm(used.removeprefix("memory:/"), recursive=True)


def test_a_whole_recording_goes(dataset: str, tmp_path: Path) -> None:
    found = remove(dataset, quiet, recordings=["rec1"])
    assert (found.rows, found.splits) == (PER_RECORDING, (1,))
    assert list(Dataset.open(dataset).records(1)) == []
    listed = Removed.of(recordings={digest("rec1"): ""})
    assert changed(tree(dataset), rebuilt(str(tmp_path / "other"), listed)) == set()


def test_a_recording_takes_the_duplicates_of_its_ids_along(dataset: str, tmp_path: Path) -> None:
    found = remove(dataset, quiet, recordings=["rec0"], reason="ticket 7")
    assert (found.rows, found.splits, found.missing) == (PER_RECORDING + 1, (0,), ())
    assert not [path for path, data in tree(dataset).items() if b"rec0" in data and not path.startswith("plan/")]
    listed = Removed.of(ids={digest(utterance_id(0, 1)): "ticket 7"}, recordings={digest("rec0"): "ticket 7"})
    assert changed(tree(dataset), rebuilt(str(tmp_path / "other"), listed)) == set()


def test_copies_that_a_repair_has_set_aside_go_too(dataset: str) -> None:
    aside = Path(dataset) / "work" / "damaged" / "shards"
    aside.mkdir(parents=True)
    for split in (1, 2):
        shutil.copy(f"{dataset}/shards/shard-{split:06d}.tar", aside)
        shutil.copy(commit_path(dataset, split), aside)
    take_out(dataset, utterance_id(2, 0))
    assert sorted(path.name for path in aside.iterdir()) == ["shard-000001.commit.json", "shard-000001.tar"]


def test_ids_that_went_with_their_recording_are_no_strangers(dataset: str) -> None:
    remove(dataset, quiet, recordings=["rec0"])
    before = tree(dataset)
    found = take_out(dataset, utterance_id(0, 0), utterance_id(0, 1))
    assert (found.rows, found.already, found.missing) == (0, 2, ())
    assert changed(before, tree(dataset)) == set()


@pytest.mark.parametrize("kept", [0, 1])
def test_a_list_that_lost_lines_is_refused_before_anything_changes(dataset: str, kept: int) -> None:
    take_out(dataset, *THREE)
    write_removed(dataset, Removed.of(ids=dict.fromkeys(map(digest, THREE[:kept]), "")))
    before = tree(dataset)
    with pytest.raises(RemoveFailed, match=r"removed\.jsonl lacks rows .* run `interloom repair"):
        take_out(dataset, utterance_id(2, 0))
    assert changed(before, tree(dataset)) == set()


def test_nothing_that_names_a_removed_utterance_is_left_beside_the_plan(dataset: str) -> None:
    name = utterance_id(2, 1)
    key = next(row.key for row in load_rows(f"{dataset}/plan/splits.parquet", 2, "") if row.id == name)
    (Path(dataset) / "report.html").write_text("the river 1")
    take_out(dataset, name)
    for path, data in tree(dataset).items():
        if not path.startswith("plan/"):
            assert name.encode() not in data, path
            assert key.encode() not in data, path
    assert "report.html" not in tree(dataset)


def test_the_reject_stands_at_the_rows_place_and_tells_a_hash(dataset: str) -> None:
    take_out(dataset, utterance_id(2, 0))
    first, second = reject_lines(dataset, 2)
    assert first == {
        "detail": "taken down; see removed.jsonl",
        "id": "sha256:" + digest(utterance_id(2, 0)),
        "key": f"removed-{digest(utterance_id(2, 0))[:12]}~8",
        "reason": "removed",
        "stage": "plan",
    }
    assert second["reason"] == "silent"


def test_a_second_time_nothing_happens(dataset: str) -> None:
    take_out(dataset, *THREE)
    times = {path: path.stat().st_mtime_ns for path in Path(dataset).rglob("*") if path.is_file()}
    found = take_out(dataset, *THREE, reason="another")
    assert (found.rows, found.splits, found.already, found.missing) == (0, (), 3, ())
    now = {path: path.stat().st_mtime_ns for path in Path(dataset).rglob("*") if path.is_file()}
    assert {path for path in now if now[path] != times.get(path)} <= {Path(dataset) / "work" / "lock"}


def test_ids_that_are_not_there_are_told_and_not_listed(dataset: str) -> None:
    found = take_out(dataset, "nobody", THREE[0])
    assert (found.missing, found.rows) == (("nobody",), 2)
    assert set(read_removed(dataset).ids) == {digest(THREE[0])}
    before = tree(dataset)
    assert take_out(dataset, "nobody").missing == ("nobody",)
    assert changed(before, tree(dataset)) == set()


def test_a_rebuild_of_a_split_and_another_finish_change_nothing(dataset: str) -> None:
    take_out(dataset, *THREE)
    before = tree(dataset)
    Path(commit_path(dataset, 2)).unlink()
    build_split(dataset, 2)
    finish_dataset(dataset)
    assert changed(before, tree(dataset)) == set()


def test_what_was_fitted_is_named(dataset: str) -> None:
    assert take_out(dataset, THREE[0]).fitted == ("tokenizer", "units")


@pytest.fixture
def store() -> Iterator[str]:
    """A store that a process can die on, with a dataset."""
    Mortal.live(float("inf"))
    Mortal.store.clear()
    Mortal.pseudo_dirs[:] = [""]
    build_dataset("mortal://bucket/dataset")
    yield "mortal://bucket/dataset"
    Mortal.live(float("inf"))
    Mortal.store.clear()


def readable(root: str) -> list[str] | None:
    """What a reader finds that trusts the dataset's own records; None where it is told that nothing is finished."""
    try:
        opened = Dataset.open(root)
        keys = [record.key for split in range(opened.num_splits) for record in opened.records(split)]
    except BadDataset:
        return None
    assert len(keys) == opened.info["records"] == sum(opened.shard_table["records"].to_pylist())
    return keys


@pytest.mark.parametrize("after", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_killed_at_every_step_and_run_again(store: str, after: bool) -> None:
    start, whole = dict(Mortal.store), readable(store)
    Mortal.live(10**6)
    take_out(store, *THREE, reason="r")
    steps = int(10**6 - Mortal.left)
    assert steps > 20
    end, rest = tree(store), readable(store)
    seen = []
    for step in range(steps):
        Mortal.store.clear()
        Mortal.store.update(start)
        Mortal.live(step, after=after)
        with pytest.raises(Killed):
            take_out(store, *THREE, reason="r")
        Mortal.live(float("inf"))
        seen.append(readable(store))
        assert seen[-1] in (whole, rest, None)
        take_out(store, *THREE, reason="r")
        assert changed(end, tree(store)) == set(), f"killed at step {step}"
    told = [keys is not None for keys in seen]
    assert told == sorted(told[: told.index(False)], reverse=True) + sorted(told[told.index(False) :])


@pytest.mark.slow
def test_killed_at_every_step_twice_and_with_more_ids(store: str) -> None:
    """The second attempt is killed too, and the third asks for another id in the same split."""
    start = dict(Mortal.store)
    Mortal.live(10**6)
    take_out(store, *THREE)
    steps = int(10**6 - Mortal.left)
    take_out(store, utterance_id(2, 1))
    end = tree(store)
    for step in range(0, steps, 2):
        Mortal.store.clear()
        Mortal.store.update(start)
        for _ in range(2):
            Mortal.live(step)
            try:
                take_out(store, *THREE)
            except Killed:
                continue
        Mortal.live(float("inf"))
        take_out(store, utterance_id(2, 1))
        take_out(store, *THREE)
        assert changed(end, tree(store)) == set(), f"killed at step {step}"


@pytest.mark.slow
def test_killed_at_every_step_and_built_instead(store: str) -> None:
    """A build that runs in between finishes with the same bytes, once the old commit records are withdrawn."""
    start = dict(Mortal.store)
    Mortal.live(10**6)
    take_out(store, *THREE)
    steps = int(10**6 - Mortal.left)
    end = tree(store)
    for step in range(steps):
        Mortal.store.clear()
        Mortal.store.update(start)
        Mortal.live(step)
        with pytest.raises(Killed):
            take_out(store, *THREE)
        Mortal.live(float("inf"))
        for split in range(SPLITS):
            if read_json(commit_path(store, split)) is None:
                build_split(store, split)
        finish_dataset(store)
        take_out(store, *THREE)
        assert changed(end, tree(store)) == set(), f"killed at step {step}"


@pytest.mark.parametrize("name", ["shard-000002.tar", "shard-000002.stats.parquet", "rejects-000002.jsonl"])
def test_a_damaged_file_stops_it_before_anything_changes(dataset: str, name: str) -> None:
    path = Path(dataset) / "shards" / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = tree(dataset)
    with pytest.raises(RemoveFailed, match=f"{name}.*repair"):
        take_out(dataset, *THREE)
    assert changed(before, tree(dataset)) == set()


def test_a_missing_commit_record_of_any_split_stops_it(dataset: str) -> None:
    Path(commit_path(dataset, 3)).unlink()
    before = tree(dataset)
    with pytest.raises(RemoveFailed, match=r"000003.*repair"):
        take_out(dataset, *THREE)
    assert changed(before, tree(dataset)) == set()


def test_a_commit_record_with_fields_of_another_version_is_refused(dataset: str) -> None:
    record = read_json(commit_path(dataset, 2))
    publish_json({**record, "loudness": 3}, commit_path(dataset, 2))
    with pytest.raises(RemoveFailed, match="loudness"):
        take_out(dataset, *THREE)


def test_files_that_were_tampered_with_in_between_are_refused(store: str) -> None:
    start = dict(Mortal.store)
    Mortal.live(11)
    with pytest.raises(Killed):
        take_out(store, *THREE)
    Mortal.live(float("inf"))
    assert len(Mortal.store) != len(start)
    victim = f"{store}/shards/shard-000002.tar"
    data = bytearray(read_bytes(victim) or b"")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        at = tar.getmembers()[6].offset_data  # of a record that stays
    data[at] ^= 1
    publish_bytes(bytes(data), victim)
    with pytest.raises(RemoveFailed, match="repair"):
        take_out(store, *THREE)


def test_a_folder_without_a_plan_or_without_a_dataset_is_refused(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(RemoveFailed, match=r"plan\.json"):
        take_out(str(tmp_path / "none"), "a")
    (Path(dataset) / "dataset.json").unlink()
    with pytest.raises(BadDataset, match=r"dataset\.json"):
        take_out(dataset, "a")


def test_two_do_not_work_in_one_folder(dataset: str) -> None:
    import fcntl

    with open(Path(dataset) / "work" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderInUse):
            take_out(dataset, *THREE)


@pytest.fixture
def stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A dataset whose manifest names but two recordings; `a.wav` comes again, and `a.wav#1` is a file."""
    manifest = tmp_path / "m.jsonl"
    files = ["a.wav", "a.wav", "b.wav", "a.wav", "a.wav", "a.wav#1", "c.wav", "c.wav", "a.wav"]
    rows: list[dict[str, object]] = [
        {"audio_filepath": name, "text": f"the river {i}", "duration": 1, "id": f"u{i}.x"}
        for i, name in enumerate(files)
    ]
    rows[6]["recording"], rows[7]["recording"] = "c.wav#3", "c.wav"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("tests.takedown_builders.rows_of", lambda base: list(read_manifest(str(manifest))))
    root = str(tmp_path / "stretches")
    build_dataset(root)
    return root


def ids_of(root: str) -> list[str]:
    opened = Dataset.open(root)
    return [record.meta["id"] for split in range(opened.num_splits) for record in opened.records(split)]


def test_all_stretches_of_a_file_go_with_its_name(stretches: str, tmp_path: Path) -> None:
    found = remove(stretches, quiet, recordings=["a.wav"], reason="r")
    assert (found.rows, found.missing) == (5, ())
    assert ids_of(stretches) == ["u2.x", "u5.x", "u6.x", "u7.x"]
    named = ("a.wav", "a.wav#3", "a.wav#8")
    assert read_removed(stretches) == Removed.of(recordings={digest(name): "r" for name in named})
    assert examine(stretches).findings == ()
    assert changed(tree(stretches), rebuilt(str(tmp_path / "other"), read_removed(stretches))) == set()
    again = remove(stretches, quiet, recordings=["a.wav"])
    assert (again.rows, again.splits, again.missing) == (0, (), ())


def test_a_name_that_the_manifest_gave_is_no_stretch(stretches: str) -> None:
    assert remove(stretches, quiet, recordings=["c.wav"]).rows == 1
    assert "u6.x" in ids_of(stretches)
    assert remove(stretches, quiet, recordings=["a.wav#3"]).rows == 2
    assert ids_of(stretches) == ["u0.x", "u1.x", "u2.x", "u5.x", "u6.x", "u8.x"]


def test_a_stretch_whose_first_row_is_out_already_goes_too(stretches: str) -> None:
    take_out(stretches, "u3.x")
    assert remove(stretches, quiet, recordings=["a.wav"]).rows == 4
    assert ids_of(stretches) == ["u2.x", "u5.x", "u6.x", "u7.x"]


def test_a_recording_whose_rows_all_went_by_their_ids_is_no_stranger(dataset: str) -> None:
    take_out(dataset, *(utterance_id(1, number) for number in range(PER_RECORDING)))
    before = tree(dataset)
    found = remove(dataset, quiet, recordings=["rec1"])
    assert (found.rows, found.already, found.missing) == (0, 1, ())
    assert changed(before, tree(dataset)) == set()


@pytest.mark.parametrize("damage", [b"", b"PAR1 and nothing", None])
def test_rows_that_cannot_be_read_are_one_line(dataset: str, damage: bytes | None) -> None:
    path = Path(dataset) / "plan" / "splits.parquet"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    with pytest.raises(RemoveFailed, match=rf"^{path} is .*interloom repair {dataset} --manifest"):
        take_out(dataset, *THREE)


def steps_of(root: str) -> int:
    Mortal.live(10**6)
    take_out(root, *THREE, reason="r")
    return int(10**6 - Mortal.left)


def test_a_list_that_is_lost_amid_a_removal_comes_back_with_its_ids(store: str) -> None:
    start, steps = dict(Mortal.store), steps_of(store)
    end = tree(store)
    for step in range(2, steps):
        Mortal.store.clear()
        Mortal.store.update(start)
        Mortal.live(step)
        with pytest.raises(Killed):
            take_out(store, *THREE, reason="r")
        Mortal.live(float("inf"))
        if unfinished(store) and read_json(commit_path(store, 2)) is None:
            remove_file(join(store, "removed.jsonl"))
            with pytest.raises(RemoveFailed, match=r"removed\.jsonl .* and no others"):
                take_out(store, utterance_id(1, 0))
            take_out(store, *THREE, reason="r")
            assert changed(end, tree(store)) == set(), f"killed at step {step}"


def broken_off(root: str) -> None:
    """Begin a removal that dies before the first split is written anew."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.remove.write_without", killed)
        with pytest.raises(Killed):
            take_out(root, *THREE)


def killed(*_: object) -> None:
    raise Killed


@pytest.mark.parametrize("data", [b"", b"{}", b'{"before": {}}'])
@pytest.mark.parametrize("name", ["removing/000000.json", "removing/dataset.json"])
def test_a_removal_whose_copies_are_damaged_is_given_up_as_told(
    dataset: str, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings_ = RunSettings(out=dataset, engine=EngineSettings(workers=1))
    audio = tmp_path / "audio"
    audio.mkdir()
    for number in range(SPLITS):
        (audio / f"{number}.wav").touch()
    publish_json({**read_json(f"{dataset}/plan/plan.json"), "base": str(audio)}, f"{dataset}/plan/plan.json")
    broken_off(dataset)
    (Path(dataset) / name).write_bytes(data)
    with pytest.raises(RemoveFailed, match=rf"{name} .*delete the folder {dataset}/removing, run .interloom repair"):
        take_out(dataset, *THREE)

    def build_rest(*_: object, repairing: bool) -> None:
        assert repairing
        for split in range(SPLITS):
            if read_json(commit_path(dataset, split)) is None:
                build_split(dataset, split)
        finish_dataset(dataset)

    monkeypatch.setattr("pipeline.repair.run_build", build_rest)
    shutil.rmtree(f"{dataset}/removing")
    repair(settings_, quiet)
    take_out(dataset, *THREE)
    assert examine(dataset).findings == ()
    assert set(THREE).isdisjoint(ids_of(dataset))


def test_a_damaged_description_amid_a_removal_is_written_from_its_copy(dataset: str, tmp_path: Path) -> None:
    broken_off(dataset)
    (Path(dataset) / "dataset.json").write_text("")
    take_out(dataset, *THREE)
    listed = Removed.of(ids={digest(name): "" for name in THREE})
    assert changed(tree(dataset), rebuilt(str(tmp_path / "other"), listed)) == set()


def utterance(row_id: str, recording: str) -> Utterance:
    return Utterance(
        key="k", id=row_id, audio="a", location="/a", text="t", recording=recording, index=5, length=Samples(1)
    )


@given(st.lists(st.text(), max_size=5), st.lists(st.text(), max_size=5), st.text(), st.text())
def test_the_list_covers_what_was_put_on_it_and_comes_back(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str], recordings: list[str], row_id: str, recording: str
) -> None:
    removed = Removed.of({digest(i): "why \n" for i in ids}, {digest(r): "" for r in recordings})
    row = utterance(row_id, recording)
    assert is_removed(removed.apply(row)) == (row_id in ids or (recording != "" and recording in recordings))
    assert removed.apply(removed.apply(row)) == removed.apply(row)
    root = str(tmp_path_factory.mktemp("list"))
    write_removed(root, removed)
    assert read_removed(root) == removed
    bad = Reject(key="x~7", id=row_id, stage="plan", reason=Reason.BAD_ROW, detail="")
    assert removed.apply(bad).key == (f"removed-{digest(row_id)[:12]}~7" if row_id in ids else "x~7")


def test_the_digest_is_that_of_sha256sum() -> None:
    # printf %s 'story01/003' | sha256sum
    assert digest("story01/003") == "7b702c5c146d06a545861a96986dcc10a031894bc81806bd2b7d0a1e8b15183e"


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"kind":"id","reason":"","sha256":"12"}',
        '{"kind":"who","reason":"","sha256":"' + "0" * 64 + '"}',
        '{"kind":"id","reason":1,"sha256":"' + "0" * 64 + '"}',
    ],
)
def test_a_damaged_list_keeps_everyone_from_building(dataset: str, line: str) -> None:
    (Path(dataset) / "removed.jsonl").write_text(line + "\n")
    with pytest.raises(BadRemovedList, match=r"removed\.jsonl:1"):
        load_rows(f"{dataset}/plan/splits.parquet", 0, "")
    with pytest.raises(BadRemovedList):
        take_out(dataset, *THREE)


def test_rows_of_the_plan_are_rejects_once_listed(dataset: str) -> None:
    from pipeline.build import planned

    take_out(dataset, *THREE)
    removed = [row.key for row in all_rows(planned(dataset)) if is_removed(row)]
    assert len(removed) == 4
    assert len(set(removed)) == 4
    assert (
        read_json(join(dataset, "plan", "plan.json"))["fingerprint"]
        == json.loads(tree(dataset)["dataset.json"])["plan"]
    )
