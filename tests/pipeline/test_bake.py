"""Baking: the reader's blocks, byte-identical however they were made, and never mixed with others."""

import hashlib
import io
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.bake import BakeConfig, BakedSinkConfig, BakeExists, bake
from pipeline.commit import commit_path
from pipeline.drive import EngineSettings, RunFailed
from pipeline.engines import EngineName
from pipeline.job import Job, Limits
from pipeline.reader import Block, block_of, open_reader
from pipeline.reader.baked_blocks import BakedBlock, block_members, ids_dtype, packed_of
from pipeline.reader.baked_source import BakedSource, baked_vocabulary
from pipeline.reader.source import Packed
from schemas.sequence import SequenceSection, SpiritLmPolicy, VocabularySection
from tests.bake_builders import bake_here, quiet
from tests.sequence_builders import corpus, write_dataset

SEQUENCE = SequenceSection(context=64, policy=SpiritLmPolicy(text_words=(2, 5), speech_words=(2, 4)))
LOCAL = EngineSettings(engine="local", workers=2, stall_seconds=60)
EPOCHS, STREAMS = 2, 3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    records = corpus(10)
    return str(write_dataset(tmp_path_factory.mktemp("data") / "d", [records[:12], records[12:24], records[24:]]))


@pytest.fixture(scope="module")
def config(dataset: str) -> BakeConfig:
    return BakeConfig(dataset=dataset, sequence=SEQUENCE, seed=5, epochs=EPOCHS, streams=STREAMS)


@pytest.fixture(scope="module")
def baked(config: BakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("baked") / "b"
    bake(config, str(out), LOCAL, Limits(), quiet)
    return out


def read(config: BakeConfig, **options: Any) -> list[Block]:
    return list(
        open_reader(config.dataset, config.sequence, seed=config.seed, epochs=config.epochs, streams=STREAMS, **options)
    )


def contents(out: Path) -> dict[str, str]:
    files = [*(out / "shards").iterdir(), *(out / "artifacts").iterdir(), out / "baked.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def samples_of(tar: Path) -> dict[str, dict[str, bytes]]:
    """Read a shard with tarfile alone."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as opened:
        for member in opened:
            key, _, extension = member.name.partition(".")
            body = opened.extractfile(member)
            assert body is not None
            found.setdefault(key, {})[extension] = body.read()
    return found


def equal(a: Block, b: Block) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a)


def test_every_array_of_every_block_is_the_readers(config: BakeConfig, baked: Path) -> None:
    source = BakedSource(str(baked), baked_vocabulary(str(baked)))
    by_stream: list[list[Block]] = [[] for _ in range(STREAMS)]
    for number, (name, count) in enumerate(json.loads((baked / "baked.json").read_text())["shards"]):
        shard = source.open(number)
        by_stream[int(name.split("-")[1])] += [block_of(shard.item(i, 0), SEQUENCE.context) for i in range(count)]
    for stream in range(STREAMS):
        wanted = read(config, rank=stream, world_size=STREAMS)
        assert len(by_stream[stream]) == len(wanted) > 5
        assert all(equal(a, b) for a, b in zip(by_stream[stream], wanted, strict=True))
    # One reader of all streams takes a block of each in turn, as long as it has some.
    turns = [stream[i] for i in range(max(map(len, by_stream))) for stream in by_stream if i < len(stream)]
    assert all(equal(a, b) for a, b in zip(turns, read(config), strict=True))


def test_the_format_can_be_read_with_tarfile_and_numpy(config: BakeConfig, baked: Path) -> None:
    info = json.loads((baked / "baked.json").read_text())
    assert (info["format"], info["dtype"], info["context"]) == ("interloom-baked/2", "<u2", 64)
    wanted = {s: read(config, rank=s, world_size=STREAMS) for s in range(STREAMS)}
    speech = tokens = 0
    epochs = []
    for name, count in info["shards"]:
        found = samples_of(baked / "shards" / name)
        assert len(found) == count
        for index, (key, members) in enumerate(found.items()):
            assert list(members) == ["ids.npy", "json", "lengths.npy", "runs.npy"]
            ids, lengths, runs = (
                np.load(io.BytesIO(members[f"{part}.npy"]), allow_pickle=False) for part in ("ids", "lengths", "runs")
            )
            body = json.loads(members["json"])
            assert key == f"{body['stream']:06d}-{body['index']:09d}"
            assert body["index"] == index
            assert (ids.dtype, lengths.dtype, runs.dtype) == ("<u2", "<u4", "<u4")
            modality, which = [], body["first_modality"]
            for run in runs:
                modality += [which] * run
                which = 1 - which
            documents = [number for number, length in enumerate(lengths) for _ in range(length)]
            block = wanted[body["stream"]][index]
            used = block["document_ids"] >= 0
            assert block["input_ids"][used].tolist() == ids.tolist()
            assert block["modality"][used].tolist() == modality
            assert block["document_ids"][used].tolist() == documents
            speech, tokens = speech + sum(modality), tokens + len(ids)
            epochs.append(body["epoch"])
    assert (info["speech_tokens"], info["tokens"], info["blocks"]) == (speech, tokens, len(epochs))
    assert set(epochs) == {0, 1}


def test_indices_lead_to_the_samples(baked: Path) -> None:
    for tar in (baked / "shards").glob("*.tar"):
        data = tar.with_suffix(".tar.idx").read_bytes()
        offsets = struct.unpack(f"<{len(data) // 8}Q", data)
        with tarfile.open(tar) as opened:
            firsts = [member.offset for member in opened if member.name.endswith("ids.npy")]
            assert list(offsets) == [*firsts, opened.offset]


@st.composite
def packed_blocks(draw: st.DrawFn) -> Packed:
    modality = draw(st.lists(st.integers(0, 1), min_size=1, max_size=40))
    ids = draw(st.lists(st.integers(0, 2**16), min_size=len(modality), max_size=len(modality)))
    cuts = sorted({0, len(ids), *draw(st.lists(st.integers(0, len(ids))))})
    return Packed(np.array(ids, np.int64), np.array(modality, np.int8), np.diff(cuts).astype(np.int64))


@given(packed=packed_blocks())
def test_a_block_comes_back_as_it_was(packed: Packed) -> None:
    members = block_members(BakedBlock(packed, 7), stream=1, index=2, dtype="<u4")
    again = packed_of(members, context=40, vocabulary_size=2**16 + 1)
    for ours, theirs in zip(packed, again, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(("size", "dtype"), [(1, "<u2"), (2**16, "<u2"), (2**16 + 1, "<u4")])
def test_ids_take_two_bytes_as_long_as_they_fit(size: int, dtype: str) -> None:
    assert ids_dtype(size) == dtype
    packed = Packed(np.array([size - 1]), np.array([0], np.int8), np.array([1]))
    members = block_members(BakedBlock(packed, 0), stream=0, index=0, dtype=dtype)
    assert packed_of(members, context=1, vocabulary_size=size).ids.tolist() == [size - 1]


def npy(values: list[int], dtype: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("member", "data", "message"),
    [
        ("ids.npy", None, "no ids.npy"),
        ("runs.npy", None, "no runs.npy"),
        ("json", b"{}", "no first_modality"),
        ("json", b'{"first_modality":2}', "no first_modality"),
        ("ids.npy", npy([1, 2, 300], "<u2"), "up to 300 do not fit"),
        ("ids.npy", npy([1] * 9, "<u2"), "9 ids .* do not fit a context of 8"),
        ("ids.npy", npy([], "<u2"), "0 ids"),
        ("ids.npy", npy([1, 2, 3], "<u4"), "expected a one-dimensional uint16 array, got uint32"),
        ("ids.npy", npy([1, 2, 3], "<u2")[:-2], "."),
        ("ids.npy", npy([1, 2, 3], "<u2") + b"xx", "8 bytes do not hold 3"),
        ("lengths.npy", npy([2, 2], "<u4"), "do not add up to 3"),
        ("lengths.npy", npy([3, 0], "<u4"), "do not add up to 3"),
        ("runs.npy", npy([1], "<u4"), "do not add up to 3"),
        ("runs.npy", npy([0, 3], "<u4"), "do not add up to 3"),
        ("runs.npy", b"", "."),
    ],
)
def test_a_damaged_block_is_refused(member: str, data: bytes | None, message: str) -> None:
    packed = Packed(np.array([1, 2, 3]), np.array([0, 1, 1], np.int8), np.array([2, 1]))
    members = block_members(BakedBlock(packed, 0), stream=0, index=0, dtype="<u2")
    assert packed_of(members, context=8, vocabulary_size=10).modality.tolist() == [0, 1, 1]
    changed = {**members, member: data} if data is not None else {k: v for k, v in members.items() if k != member}
    with pytest.raises((ValueError, EOFError), match=message):
        packed_of(changed, context=8, vocabulary_size=10)


@settings(max_examples=25)
@given(counts=st.lists(st.integers(1, 12), max_size=3), per_shard=st.integers(1, 8))
def test_a_stream_takes_as_many_shards_as_it_needs(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], per_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("t")
    blocks = [BakedBlock(Packed(np.array([n]), np.array([1], np.int8), np.array([1])), 0) for n in range(sum(counts))]
    facts = BakedSinkConfig(dtype="<u2", blocks_per_shard=per_shard).setup().write(4, iter(blocks), folder)
    found = [samples_of(folder / name) for name in sorted(facts["shards"])]
    assert [len(samples) for samples in found] == list(facts["shards"].values())
    assert all(len(samples) == per_shard for samples in found[:-1])
    keys = [key for samples in found for key in samples]
    assert keys == [f"000004-{index:09d}" for index in range(len(blocks))]
    assert facts["inputs"] == facts["records"] == facts["tokens"] == facts["speech_tokens"] == len(blocks)
    assert {path.name for path in folder.iterdir()} == {n + s for n in facts["shards"] for s in ("", ".idx")}


def test_a_rerun_touches_no_shard_and_mends_what_is_damaged(config: BakeConfig, baked: Path) -> None:
    before = contents(baked)
    times = {path: path.stat().st_mtime_ns for path in (baked / "shards").iterdir()}
    bake(config, str(baked), LOCAL, Limits(), quiet)
    assert {path: path.stat().st_mtime_ns for path in (baked / "shards").iterdir()} == times
    victim = next((baked / "shards").glob("baked-000001-*.tar"))
    victim.write_bytes(victim.read_bytes()[:-512])
    (baked / "baked.json").unlink()
    bake(config, str(baked), EngineSettings(engine="local", workers=1), Limits(), quiet)
    assert contents(baked) == before


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"epochs": 1},
        {"streams": 2},
        {"streams": 4},
        {"sequence": SEQUENCE.model_copy(update={"context": 65})},
        {"sequence": SEQUENCE.model_copy(update={"gap": "left"})},
        {"sequence": SEQUENCE.model_copy(update={"vocabulary": VocabularySection(layout="append", first_id=900)})},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_bake_is_refused_before_anything_is_written(
    config: BakeConfig, baked: Path, change: dict[str, Any], finished: bool
) -> None:
    description = (baked / "baked.json").read_bytes()
    if not finished:
        (baked / "baked.json").unlink()
    before = sorted(path for path in baked.rglob("*") if "work" not in path.parts)
    try:
        with pytest.raises(BakeExists, match="use another --out"):
            bake(replace(config, **change), str(baked), LOCAL, Limits(), quiet)
        assert sorted(path for path in baked.rglob("*") if "work" not in path.parts) == before
    finally:
        (baked / "baked.json").write_bytes(description)


def test_another_dataset_and_a_dataset_as_the_output_are_refused(
    config: BakeConfig, baked: Path, tmp_path: Path
) -> None:
    other = replace(config, dataset=str(write_dataset(tmp_path / "other", [corpus(4)])))
    with pytest.raises(BakeExists):
        bake(other, str(baked), LOCAL, Limits(), quiet)
    with pytest.raises(BakeExists):
        bake(config, other.dataset, LOCAL, Limits(), quiet)


def test_a_dataset_that_lost_a_record_is_another_one(config: BakeConfig, tmp_path: Path) -> None:
    records = corpus(4)
    root = write_dataset(tmp_path / "d", [records])
    one = replace(config, dataset=str(root), epochs=1)
    bake_here(one, tmp_path / "b")
    fingerprint = json.loads((root / "dataset.json").read_text())["fingerprint"]
    shorter = write_dataset(tmp_path / "e", [records[:-1]])
    info = json.loads((shorter / "dataset.json").read_text())
    (shorter / "dataset.json").write_text(json.dumps({**info, "fingerprint": fingerprint}))
    with pytest.raises(BakeExists):
        bake_here(replace(one, dataset=str(shorter)), tmp_path / "b")


def test_where_the_dataset_lies_does_not_matter(config: BakeConfig, baked: Path, tmp_path: Path) -> None:
    Path(tmp_path / "link").symlink_to(config.dataset)
    bake(replace(config, dataset=str(tmp_path / "link")), str(baked), LOCAL, Limits(), quiet)
    assert str(tmp_path) not in (baked / "baked.json").read_text()
    assert config.dataset not in (baked / "baked.json").read_text()


@pytest.mark.slow
def test_a_damaged_dataset_fails_the_bake_by_name(config: BakeConfig, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [corpus(4)])
    shard = root / "shards" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(RunFailed, match=r"shard-000000\.tar"):
        bake(replace(config, dataset=str(root)), str(tmp_path / "b"), LOCAL, Limits(), quiet)
    assert not (tmp_path / "b" / "baked.json").exists()


def test_a_stream_without_documents_has_no_shard(config: BakeConfig, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "d", [corpus(1)])
    one = replace(config, dataset=str(root), epochs=1)
    info = bake_here(one, tmp_path / "b")
    assert len(info["shards"]) == 1
    assert all(Path(commit_path(str(tmp_path / "b"), stream)).exists() for stream in range(STREAMS))
    assert BakedSource(str(tmp_path / "b"), baked_vocabulary(str(tmp_path / "b"))).sizes.sum() == info["blocks"]


def test_shards_are_cut_by_tokens(config: BakeConfig, tmp_path: Path) -> None:
    one = replace(config, epochs=1, streams=1)
    info = bake_here(one, tmp_path / "b", tokens_per_shard=5 * SEQUENCE.context + 63)
    counts = [count for _, count in info["shards"]]
    assert len(counts) > 2
    assert set(counts[:-1]) == {5}


def test_numbers_that_make_no_sense_are_refused(config: BakeConfig) -> None:
    for change in ({"epochs": 0}, {"streams": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            replace(config, **change)


@pytest.mark.parametrize("given", [{}, {"rows_path": "p"}])
def test_a_job_has_rows_or_a_source(config: BakeConfig, given: dict[str, str]) -> None:
    sink = BakedSinkConfig(dtype="<u2", blocks_per_shard=1)
    source = config if given else None
    with pytest.raises(ValueError, match="either rows or a source"):
        Job(root="r", fingerprint="f", sink=sink, source=source, **given)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("engine", ["beam", "ray"])
def test_engines_agree(config: BakeConfig, baked: Path, tmp_path: Path, engine: EngineName) -> None:
    bake(config, str(tmp_path / "b"), EngineSettings(engine=engine, workers=2), Limits(), quiet)
    assert contents(tmp_path / "b") == contents(baked)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_at_random_moments_change_nothing(config: BakeConfig, tmp_path: Path) -> None:
    longer = replace(config, epochs=60, streams=12)
    bake(longer, str(tmp_path / "calm"), LOCAL, Limits(), quiet)
    code = (
        "import sys; from tests.pipeline.test_bake import *;"
        "bake(BakeConfig(dataset=sys.argv[1], sequence=SEQUENCE, seed=5, epochs=60, streams=12), sys.argv[2], LOCAL,"
        " Limits(), quiet)"
    )
    command = [sys.executable, "-c", code, config.dataset, str(tmp_path / "storm")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    shards, moments, counts = tmp_path / "storm" / "shards", random.Random(20261122), []

    def committed() -> int:
        return len(list(shards.glob("*.commit.json")))

    for wanted in (1, 3, 5):
        run = subprocess.Popen(command, env=environment)
        while committed() < wanted and run.poll() is None:
            time.sleep(0.005)
        time.sleep(moments.uniform(0.0, 0.05))
        run.send_signal(signal.SIGKILL)
        run.wait()
        counts.append(committed())
        time.sleep(1.0)  # its processes end with it, and with them the lock
    subprocess.run(command, env=environment, check=True)
    assert contents(tmp_path / "storm") == contents(tmp_path / "calm")
    assert min(counts) < 12, f"no kill came before the end: {counts}"
