"""Plans in several files, in bounded memory, and equal to what a few lines make of all rows at once."""

import gc
import hashlib
import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import plan as plan_module
from pipeline import plan_files
from pipeline.manifest import ManifestError
from pipeline.plan import all_rows, load_rows, read_plan, seconds_of, target_seconds, write_plan
from pipeline.plan_files import hashed_forms, rows_file, rows_files
from schemas.canonical import canonical_json
from schemas.clock import Samples
from schemas.records import Utterance
from schemas.rejects import Reason, Reject
from schemas.tables import ROWS

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)


def utterance(index, recording, seconds, text="text"):
    return Utterance(
        key=f"k{index}", id=f"k/{index}", audio="a.wav", location="/base/a.wav", text=text, recording=recording,
        index=index, length=Samples(int(seconds * 16_000)),
    )  # fmt: skip


@st.composite
def manifests(draw):
    """Recordings of some utterances with rejected rows in between."""
    rows = []
    for number in range(draw(st.integers(1, 12))):
        for _ in range(draw(st.integers(1, 4))):
            rows.append(utterance(len(rows), f"r{number}", draw(st.floats(0, 99)), draw(TEXTS)))
            if draw(st.integers(0, 5)) == 0:
                key = f"bad~{len(rows)}"
                rows.append(Reject(key=key, id="bad", stage="plan", reason=Reason.BAD_ROW, detail=draw(TEXTS)))
    return rows


def said(row, split):
    """What a row says: what the fingerprint of a plan is made of."""
    if isinstance(row, Reject):
        where = {"split": split, "index": -1, "key": row.key, "id": row.id, "offset": 0}
        empty = dict.fromkeys(("audio", "text", "recording", "speaker", "language", "license", "source"), "")
        return {**empty, **where, "reason": row.reason.value, "detail": row.detail}
    names = ("index", "key", "id", "audio", "text", "recording", "offset", "length", "channel")
    names += ("speaker", "language", "license", "source")
    return {"split": split, **{name: getattr(row, name) for name in names}}


def expected(rows, hours):
    """The plan as its definition says it, all rows at once: splits and fingerprint."""
    seconds = seconds_of(rows)
    total = sum(seconds)
    count = max(1, round(total / target_seconds(total, hours)))
    names, name = [], "leading"
    for row in rows:
        name = row.recording if isinstance(row, Utterance) else name
        names.append(name)
    splits, done, last = [], 0.0, -1
    for name in dict.fromkeys(names):
        weight = sum(s for s, n in zip(seconds, names, strict=True) if n == name)
        wanted = int((done + weight / 2) / total * count) if total else 0
        last = min(max(last, 0, wanted), last + 1)
        splits += [last] * names.count(name)
        done += weight
    hashed = hashlib.sha256()
    for row, split in zip(rows, splits, strict=True):
        hashed.update(canonical_json(said(row, split)).encode())
    return splits, hashed.hexdigest()[:16]


@given(
    rows=manifests(),
    hours=st.sampled_from([0.003, 0.01, 0.1, "auto"]),
    files=st.integers(1, 3),
    chunk=st.integers(1, 7),
)
@settings(max_examples=25, deadline=None)
def test_a_plan_is_what_its_definition_says_however_it_is_written(rows, hours, files, chunk):
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(plan_module, "SPOOLED_ROWS", chunk)
        patch.setattr(plan_module, "SPLITS_PER_FILE", files)
        patch.setattr(plan_files, "SPLITS_PER_FILE", files)
        patch.setattr(plan_files, "GROUPS_PER_FILE", files)
        plan = write_plan(folder, "/base", iter(rows), hours)
        splits, fingerprint = expected(rows, hours)
        assert plan.fingerprint == fingerprint
        assert list(plan.inputs) == [splits.count(split) for split in range(splits[-1] + 1)]
        assert read_plan(folder) == plan
        assert list(all_rows(plan)) == rows
        assert [len(load_rows(plan.rows_path, s, "/base")) for s in range(len(plan.inputs))] == list(plan.inputs)
        names = {Path(path).name for path in rows_files(plan.rows_path, len(plan.inputs))}
        assert names | {"plan.json"} == set(os.listdir(folder))
        assert len(names) == -(-len(plan.inputs) // files)
        for number, path in enumerate(rows_files(plan.rows_path, len(plan.inputs))):
            column = [
                split
                for g in range(pq.ParquetFile(path).num_row_groups)
                for split in {*pq.ParquetFile(path).read_row_group(g)["split"].to_pylist()}
            ]
            assert column == list(range(number * files, min(len(plan.inputs), (number + 1) * files)))


def test_a_file_of_the_spool_has_few_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_files, "GROUPS_PER_FILE", 3)
    rows = [plan_module._to_row(utterance(index, f"r{index}", 5)) for index in range(7)]
    with plan_files.Spool(tmp_path) as spool:
        for row in rows:
            spool.add([row], [0.5])
    assert [pq.ParquetFile(path).num_row_groups for path in sorted(tmp_path.iterdir())] == [3, 3, 1]
    assert [recording for recording, _ in spool.recordings()] == [f"r{index}" for index in range(7)]
    assert sum(table.num_rows for table, _ in spool.tables()) == spool.count == 7


def test_small_plans_have_one_file_and_names_sort_as_numbers():
    assert rows_files("p/splits.parquet", 256) == ["p/splits.parquet"]
    assert rows_files("p/splits.parquet", 257) == ["p/splits.parquet", "p/splits-000001.parquet"]
    assert rows_file("p/splits.parquet", 256 * 390 + 255) == "p/splits-000390.parquet"
    files = rows_files("p/splits.parquet", 300_000)
    assert files[1:] == sorted(files[1:])


PLAIN = st.fixed_dictionaries(
    {
        name: TEXTS
        for name in ROWS.names
        if name not in ("split", "index", "offset", "length", "channel", "reason", "detail")
    }
    | {name: st.integers(-(2**62), 2**62) for name in ("index", "offset", "length")}
    | {"split": st.integers(0, 9), "channel": st.none() | st.integers(0, 9)}
    | {"reason": st.none() | TEXTS, "detail": TEXTS}
)


@given(rows=st.lists(PLAIN, max_size=3))
def test_the_hashed_form_is_canonical_json(rows):
    found = list(hashed_forms(pa.Table.from_pylist(rows, schema=ROWS)))
    without = [("reason", "detail") if row["reason"] is None else ("length", "channel") for row in rows]
    wanted = [{k: v for k, v in row.items() if k not in out} for row, out in zip(rows, without, strict=True)]
    assert found == [canonical_json(row).encode() for row in wanted]
    assert [json.loads(data)["text"] for data in found] == [row["text"] for row in rows]


def test_rows_are_taken_one_after_another_and_never_kept(tmp_path):
    alive, most = 0, 0

    class Counted(Utterance):
        __slots__ = ()

        def __del__(self):
            nonlocal alive
            alive -= 1

    def rows():
        nonlocal alive, most
        for index in range(5000):
            alive += 1
            most = max(most, alive)
            yield Counted(
                key=f"k{index}", id="i", audio="a", location="/a", text="t", recording=f"r{index // 10}", index=index,
                length=Samples(16_000),
            )  # fmt: skip

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_module, "SPOOLED_ROWS", 100)
        assert sum(write_plan(str(tmp_path), "/", rows(), 0.01).inputs) == 5000
    assert most <= 210


@pytest.mark.parametrize("enabled", [True, False])
def test_planning_leaves_the_search_for_cycles_as_it_was(tmp_path, enabled):
    def rows():
        assert not gc.isenabled()
        yield utterance(0, "a", 5)

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        write_plan(str(tmp_path), "/", rows(), 1.0)
        assert gc.isenabled() == enabled
        with pytest.raises(ManifestError):
            write_plan(str(tmp_path), "/", [], 1.0)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_a_failed_plan_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    torn = [utterance(0, "a", 5), utterance(1, "b", 5), utterance(2, "a", 5)]
    with pytest.raises(ManifestError, match=r"'a' do not follow each other \(row 2"):
        write_plan(str(tmp_path / "plan"), "/", torn, 1.0)
    with pytest.raises(ManifestError, match="no row"):
        write_plan(str(tmp_path / "plan"), "/", [], 1.0)
    assert not list((tmp_path / "tmp").iterdir())
    assert not (tmp_path / "plan").exists()


def test_a_plan_in_an_object_store_has_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_files, "SPLITS_PER_FILE", 2)
    monkeypatch.setattr(plan_module, "SPLITS_PER_FILE", 2)
    rows = [utterance(i, f"r{i}", 10) for i in range(9)]
    local = write_plan(str(tmp_path / "plan"), "/b", rows, 10 / 3600)
    try:
        remote = write_plan("memory://planned/plan", "/b", rows, 10 / 3600)
        assert (remote.fingerprint, remote.inputs) == (local.fingerprint, local.inputs)
        for path, other in zip(rows_files(local.rows_path, 9), rows_files(remote.rows_path, 9), strict=True):
            assert MemoryFileSystem().cat_file(other.removeprefix("memory:/")) == Path(path).read_bytes()
    finally:
        MemoryFileSystem().rm("/planned", recursive=True)
