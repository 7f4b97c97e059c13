"""Verify finds what is wrong in every kind of file, all of it at once, and blames the right file."""

import errno
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.commit import commit_path
from pipeline.dataset import BadDataset, Dataset
from pipeline.findings import Problem
from pipeline.plan import load_rows
from pipeline.remove import remove
from pipeline.removed import Removed, digest, write_removed
from pipeline.storage import publish_json, read_json
from pipeline.tar_samples import end_of_tar, tar_samples
from pipeline.verify import Verified, VerifyFailed, as_json, examine, verify
from schemas.canonical import sha256_hex
from tests.audit_builders import hostile_dataset
from tests.takedown_builders import SPLITS, build_dataset, tree, utterance_id


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset with a removal; every test leaves it as it was."""
    root = tmp_path_factory.mktemp("verify") / "dataset"
    build_dataset(str(root))
    remove(str(root), lambda *_: None, ids=[utterance_id(3, 0)])
    return root


@pytest.fixture
def dataset(tmp_path: Path, shared: Path) -> Path:
    """A copy that may be damaged."""
    for name, data in tree(str(shared)).items():
        path = tmp_path / "dataset" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "dataset"


def told(root: Path, **options: Any) -> set[tuple[str, str]]:
    return {(finding.path, finding.problem.value) for finding in examine(str(root), **options).findings}


def files(found: Verified) -> set[str]:
    return {finding.path for finding in found.findings}


def test_a_sound_dataset_is_sound(dataset: Path) -> None:
    found = verify(str(dataset))
    assert found.records == Dataset.open(str(dataset)).info["records"] == 3 * SPLITS - 1
    assert found.planned
    assert examine(str(dataset), workers=2) == found


def test_progress_ends_with_every_split(dataset: Path) -> None:
    seen: list[tuple[int, int]] = []
    examine(str(dataset), progress=lambda done, planned, *_: seen.append((done, planned)))
    assert seen == [(done, SPLITS) for done in range(SPLITS + 1)]


def test_a_flipped_bit_in_every_file_is_found_and_blamed_on_it(dataset: Path) -> None:
    for name, data in tree(str(dataset)).items():
        for at in {0, len(data) - 1} if data else ():
            (dataset / name).write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
            if name == "recipe.yaml" and at:
                continue
            found = examine(str(dataset))
            assert name in files(found), (name, at)
            assert files(found) <= {name, *blamed_too(name)}, (name, at)
        (dataset / name).write_bytes(data)
    verify(str(dataset))


def blamed_too(name: str) -> set[str]:
    """Files that may be named beside a damaged one: those that only it vouches for."""
    if name in ("plan/splits.parquet", "plan/plan.json"):
        return {"plan/plan.json", "plan/splits.parquet", "dataset.json", "removed.jsonl"} | {
            f"shards/rejects-{split:06d}.jsonl" for split in range(SPLITS)
        }
    if name == "removed.jsonl":
        return {"shards/rejects-000003.jsonl"}
    if name == "recipe.yaml":
        return {"dataset.json"}
    return {"shards.parquet", "artifacts/artifacts.json"} if name == "dataset.json" else set()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_of_a_committed_file_or_record_is_found(dataset: Path, data: st.DataObject) -> None:
    names = [name for name in sorted(tree(str(dataset))) if name.startswith("shards/") and tree(str(dataset))[name]]
    name = data.draw(st.sampled_from(names))
    path = dataset / name
    whole = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :])
    try:
        split = int(name.split("-")[1][:6])
        assert split in {finding.split for finding in examine(str(dataset), only=[split]).findings}
    finally:
        path.write_bytes(whole)


def test_every_missing_file_is_found(dataset: Path) -> None:
    for name, data in tree(str(dataset)).items():
        (dataset / name).unlink()
        found = examine(str(dataset)).findings
        assert name in {f.path for f in found}, name
        if name != "artifacts/artifacts.json":
            assert Problem.MISSING in {f.problem for f in found if f.path == name}, name
        (dataset / name).write_bytes(data)
    verify(str(dataset))


def test_all_that_is_wrong_is_told_at_once(dataset: Path) -> None:
    (dataset / "shards" / "shard-000000.tar").unlink()
    tar = dataset / "shards" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-512])
    (dataset / "shards" / "shard-000002.commit.json").unlink()
    (dataset / "shards" / "shard-000001.tar.tmp-1234").write_text("left over")
    info = read_json(f"{dataset}/dataset.json")
    publish_json({**info, "records": 99}, f"{dataset}/dataset.json")
    assert told(dataset) == {
        ("shards/shard-000000.tar", "missing"),
        ("shards/shard-000001.tar", "size"),
        ("shards/shard-000002.commit.json", "missing"),
        ("shards/shard-000001.tar.tmp-1234", "unnamed"),
        ("dataset.json", "totals"),
    }
    assert told(dataset, workers=2) == told(dataset)
    with pytest.raises(VerifyFailed, match=r"shard-000000\.tar: missing.*shard-000002\.commit\.json"):
        verify(str(dataset))


def forge(dataset: Path, change: Callable[[dict[str, Any]], Any], split: int = 1) -> str:
    """Change a commit record and write it as a commit would."""
    record = read_json(commit_path(str(dataset), split))
    change(record)
    publish_json(record, commit_path(str(dataset), split))
    return f"shards/shard-{split:06d}.commit.json"


def more(name: str) -> Callable[[dict[str, Any]], Any]:
    return lambda record: record.update({name: record[name] + 1})


@pytest.mark.parametrize(
    "change",
    [
        *(more(name) for name in ("documents", "num_samples", "num_words", "text_tokens", "hubert_runs")),
        lambda record: record.update(records=record["records"] + 1, inputs=record["inputs"] + 1),
        lambda record: record.update(records=record["records"] - 1, rejects=record["rejects"] + 1),
        lambda record: record.update(reasons={"silent": 2}),
        lambda record: record.update(reasons={"clipped": 1}),
        lambda record: record["unit_counts"]["hubert"].reverse(),
        lambda record: record.update(split=2),
        lambda record: record.update(plan="0" * 16),
        lambda record: record.update(format="interloom-commit/9"),
        lambda record: record.pop("documents"),
        lambda record: record.update(loudness=3),
        lambda record: record.update(records=True),
        lambda record: record["files"].pop("shard-000001.tar"),
        lambda record: record["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}),
        lambda record: record["files"]["shard-000001.tar"].update(sha256="0"),
        lambda record: record.update(files=[]),
    ],
)
def test_a_forged_commit_record_is_found(dataset: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    name = forge(dataset, change)
    assert (name, "forged") in told(dataset)


def reforge(dataset: Path, name: str, data: bytes, split: int = 1) -> None:
    """Replace a file and let the commit record vouch for it: what someone does who knows the format."""
    (dataset / "shards" / name).write_bytes(data)
    said = {"bytes": len(data), "sha256": sha256_hex(data)}
    forge(dataset, lambda record: record["files"].update({name: said}), split)


def test_an_index_that_disagrees_with_its_tar_is_found(dataset: Path) -> None:
    offsets = struct.unpack("<4Q", (dataset / "shards" / "shard-000001.tar.idx").read_bytes())
    moved = struct.pack("<4Q", offsets[0], offsets[1] + 512, *offsets[2:])
    reforge(dataset, "shard-000001.tar.idx", moved)
    assert told(dataset) == {("shards/shard-000001.tar.idx", "index")}


@pytest.mark.parametrize("column", ["id", "num_words", "hubert_runs", "score_worst", "speaker"])
def test_statistics_that_disagree_with_their_shard_are_found(dataset: Path, column: str) -> None:
    path = dataset / "shards" / "shard-000001.stats.parquet"
    rows = pq.read_table(path).to_pylist()
    rows[1][column] = "x" if isinstance(rows[1][column], str) else rows[1][column] + 1
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(path)), path)
    reforge(dataset, path.name, path.read_bytes())
    assert ("shards/shard-000001.stats.parquet", "stats") in told(dataset)


def shard_without_first(dataset: Path, damage: Callable[[bytes], bytes]) -> bytes:
    with open(dataset / "shards" / "shard-000001.tar", "rb") as file:
        first, *rest = [sample.raw for sample in tar_samples(file, "")]
    body = b"".join([damage(first), *rest])
    return body + end_of_tar(len(body))


def test_an_unreadable_record_is_named(dataset: Path) -> None:
    key = next(row.key for row in load_rows(f"{dataset}/plan/splits.parquet", 1, ""))
    reforge(dataset, "shard-000001.tar", shard_without_first(dataset, lambda raw: raw.replace(b"NUMPY", b"NUMPX")))
    found = [f for f in examine(str(dataset)).findings if f.problem is Problem.UNREADABLE]
    assert [f.path for f in found] == ["shards/shard-000001.tar"]
    assert repr(key) in found[0].detail


def test_a_record_that_is_lost_with_its_hashes_mended_is_found(dataset: Path) -> None:
    reforge(dataset, "shard-000001.tar", shard_without_first(dataset, lambda raw: b""))
    assert {
        ("shards/shard-000001.commit.json", "forged"),
        ("shards/shard-000001.stats.parquet", "stats"),
        ("shards/rejects-000001.jsonl", "unreadable"),
    } & told(dataset)
    assert ("shards/shard-000001.tar.idx", "index") in told(dataset)


def test_a_truncated_tar_is_found_even_where_its_hash_holds(dataset: Path) -> None:
    data = (dataset / "shards" / "shard-000001.tar").read_bytes()
    reforge(dataset, "shard-000001.tar", data[: len(data) // 3])
    assert ("shards/shard-000001.tar", "unreadable") in told(dataset)


def test_rejects_of_other_rows_are_found(dataset: Path) -> None:
    line = json.loads((dataset / "shards" / "rejects-000001.jsonl").read_text())
    reforge(dataset, "rejects-000001.jsonl", (json.dumps({**line, "key": "another"}) + "\n").encode())
    assert told(dataset) == {("shards/rejects-000001.jsonl", "unreadable")}


def test_a_record_of_a_split_that_is_not_planned_is_found(dataset: Path) -> None:
    for path in (dataset / "shards").glob("*000001*"):
        (path.parent / path.name.replace("000001", "000007")).write_bytes(path.read_bytes())
    assert {problem for _, problem in told(dataset)} == {"unplanned"}
    assert len(told(dataset)) == 5


def test_totals_that_disagree_are_found(dataset: Path) -> None:
    info = read_json(f"{dataset}/dataset.json")
    for name in ("inputs", "records", "rejects", "num_samples", "splits"):
        publish_json({**info, name: info[name] + 1}, f"{dataset}/dataset.json")
        assert told(dataset) == {("dataset.json", "totals")}
    publish_json({**info, "reasons": {}}, f"{dataset}/dataset.json")
    assert told(dataset) == {("dataset.json", "totals")}
    rows = pq.read_table(dataset / "shards.parquet").to_pylist()
    rows[2]["num_words"] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(dataset / "shards.parquet")), dataset / "t")
    data = (dataset / "t").read_bytes()
    (dataset / "t").unlink()
    (dataset / "shards.parquet").write_bytes(data)
    publish_json({**info, "shards": {"bytes": len(data), "sha256": sha256_hex(data)}}, f"{dataset}/dataset.json")
    assert told(dataset) == {("shards.parquet", "totals")}


def test_a_plan_with_other_rows_is_found(dataset: Path) -> None:
    path = dataset / "plan" / "splits.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[5]["text"] = "another"
    with pq.ParquetWriter(path, table.schema) as writer:
        for split in range(SPLITS):
            part = pa.Table.from_pylist([row for row in rows if row["split"] == split], schema=table.schema)
            writer.write_table(part)
    assert told(dataset) == {("plan/splits.parquet", "hash")}


def test_what_should_have_been_removed_is_found(dataset: Path) -> None:
    listed = Removed.of(ids={digest(utterance_id(3, 0)): "", digest(utterance_id(1, 0)): ""})
    write_removed(str(dataset), listed)
    assert told(dataset) == {("shards/shard-000001.tar", "removed")}
    (dataset / "removing").mkdir()
    (dataset / "removing" / "000001.json").write_text("{}")
    assert ("removing", "removed") in told(dataset)


def test_a_list_that_names_nothing_or_is_gone_is_found(dataset: Path) -> None:
    write_removed(str(dataset), Removed.of(ids={digest(utterance_id(3, 0)): "", "0" * 64: ""}))
    assert told(dataset) == {("removed.jsonl", "unreadable")}
    (dataset / "removed.jsonl").unlink()
    assert ("removed.jsonl", "missing") in told(dataset)


@pytest.mark.parametrize("kept", [0, 1], ids=["all", "one"])
@pytest.mark.parametrize(
    "also", ["", "shards/rejects-000003.jsonl", "shards/shard-000003.commit.json", "shards/shard-000003.tar"]
)
def test_lost_lines_of_the_list_are_blamed_on_the_list(dataset: Path, kept: int, also: str) -> None:
    remove(str(dataset), lambda *_: None, ids=[utterance_id(1, 0)])
    listed = [digest(utterance_id(number, 0)) for number in (1, 3)]
    write_removed(str(dataset), Removed.of(ids=dict.fromkeys(listed[:kept], "")))
    if also:
        (dataset / also).unlink()
    found = told(dataset)
    assert ("removed.jsonl", "missing") in found
    assert {path for path, _ in found if path.startswith("shards/")} == ({also} if also else set())


def test_a_list_that_names_a_row_rejected_before_is_a_removal_to_be_ended(dataset: Path) -> None:
    listed = Removed.of(ids={digest(utterance_id(3, 0)): "", digest(utterance_id(1, 3)): ""})
    write_removed(str(dataset), listed)
    assert told(dataset) == {("shards/rejects-000001.jsonl", "removed")}
    remove(str(dataset), lambda *_: None, ids=[utterance_id(1, 3)])
    assert told(dataset) == set()


def test_a_copy_without_its_plan_is_checked_as_far_as_it_goes(dataset: Path) -> None:
    for name in ("plan/plan.json", "plan/splits.parquet", "recipe.yaml"):
        (dataset / name).unlink()
    assert told(dataset) == set()
    assert not examine(str(dataset)).planned
    forge(dataset, more("records"))
    assert ("shards/shard-000001.commit.json", "forged") in told(dataset)


def test_only_some_splits_may_be_read(dataset: Path) -> None:
    for split in (1, 2):
        path = dataset / "shards" / f"shard-{split:06d}.tar"
        path.write_bytes(b"x" * path.stat().st_size)
    assert told(dataset, only=[2]) == {("shards/shard-000002.tar", "hash")}
    assert told(dataset, only=[]) == set()


def test_a_folder_that_is_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"dataset\.json"):
        examine(str(tmp_path))


def test_what_is_printed_as_json(dataset: Path) -> None:
    (dataset / "shards" / "shard-000000.tar").unlink()
    value = as_json("d", examine(str(dataset)))
    assert (value["sound"], value["findings"][0]["path"], value["findings"][0]["split"]) == (
        False,
        "shards/shard-000000.tar",
        0,
    )
    assert json.loads(json.dumps(value)) == value


def test_a_shard_without_a_commit_record_does_not_count(tmp_path: Path) -> None:
    hostile_dataset(tmp_path)
    (tmp_path / "shards" / "shard-000000.commit.json").unlink()
    with pytest.raises(BadDataset, match="commit"):
        list(Dataset.open(str(tmp_path)).records(0))


def test_a_shard_with_another_number_of_records_is_refused(tmp_path: Path) -> None:
    hostile_dataset(tmp_path)
    path = tmp_path / "shards" / "shard-000000.commit.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "records": record["records"] + 1}))
    with pytest.raises(BadDataset, match="promises"):
        list(Dataset.open(str(tmp_path)).records(0))


@pytest.mark.parametrize("what", ["folder", "loop"])
def test_what_cannot_be_read_is_told_for_every_file_beside_what_else_is_wrong(dataset: Path, what: str) -> None:
    def spoil(path: Path) -> None:
        path.unlink()
        path.mkdir() if what == "folder" else path.symlink_to(path.name)

    def unreadable() -> set[str]:
        return {f.path for f in examine(str(dataset)).findings if f.problem is Problem.UNREADABLE}

    said = "Is a directory" if what == "folder" else "Too many levels of symbolic links"
    for name, data in tree(str(dataset)).items():
        spoil(dataset / name)
        findings = examine(str(dataset)).findings
        assert (Problem.UNREADABLE, name) in {(f.problem, f.path) for f in findings}, name
        if name.startswith(("shards/", ".nv-meta", "dataset.json")):
            assert said in {f.detail for f in findings if f.path == name}, name
        (dataset / name).rmdir() if what == "folder" else (dataset / name).unlink()
        (dataset / name).write_bytes(data)
    names = {"shards/shard-000001.tar", ".nv-meta/split.yaml", "recipe.yaml", "removed.jsonl"}
    for name in names:
        spoil(dataset / name)
    (dataset / "shards" / "shard-000000.tar.idx").unlink()
    assert names <= unreadable()
    assert ("shards/shard-000000.tar.idx", "missing") in told(dataset)


def test_an_error_of_the_system_is_no_finding(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: str) -> int:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr("pipeline.verify_split.file_size", fails)
    with pytest.raises(OSError, match="Input/output"):
        examine(str(dataset))
