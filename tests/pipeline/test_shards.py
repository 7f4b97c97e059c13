"""Shards: exact bytes, readable by webdataset alone, indexed, counted."""

import hashlib
import json
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import BadDataset, samples
from pipeline.shards import ShardSink, ShardSinkConfig, num_runs
from schemas.clock import Samples
from schemas.records import Aligned, Artifact, Checked, Clip, Encoded, F0Track, UnitStream, Utterance, Word
from schemas.rejects import Reason, Reject
from schemas.tables import STATS
from schemas.unit_record import BadRecord, UnitRecord

CONFIG = ShardSinkConfig(
    store_audio=True,
    store_f0=True,
    tokenizer=Artifact(path="", sha256=""),
    codebook_sizes=(("hubert", 100), ("pitch", 64), ("style", 16)),
)


def encoded(index: int) -> Encoded:
    rng = np.random.default_rng(index)
    count = 16_000 + 100 * index
    utterance = Utterance(
        key=f"k{9 - index}",
        id=f"id.{index}",
        audio="a.wav",
        location="/x/a.wav",
        text="Hello, «world» 42",
        recording="r",
        index=index,
        speaker="s",
        license="CC0-1.0",
    )
    clip = Clip(
        utterance=utterance,
        pcm=rng.integers(-9000, 9000, count).astype(np.int16),
        source_rate=44_100,
        source_channels=2,
    )
    words = (
        Word("Hello,", Samples(0), Samples(4_000), -3.123456),
        Word("«world»", None, None, None),
        Word("42", Samples(4_000), Samples(9_000), -4.0),
    )
    aligned = Aligned(clip=clip, words=words, score_all=-5.0, score_words=-3.6, fallback=False)
    hz = np.where(rng.random(100) < 0.5, 0, 120).astype(np.float32)
    streams = (("hubert", 25, 100), ("pitch", 13, 64), ("style", 1, 16))
    return Encoded(
        checked=Checked(aligned=aligned, doubtful=(1,)),
        streams=tuple(UnitStream(name, rng.integers(0, k, n).astype(np.uint16)) for name, n, k in streams),
        f0=F0Track(hz=hz, hop=Samples(160)),
    )


def write(folder: Path) -> dict[str, object]:
    reject = Reject(key="bad", id="b.d", stage="decode", reason=Reason.SILENT, detail="b.wav: silent")
    return ShardSink(CONFIG, str.split).write(3, [encoded(0), reject, encoded(1), encoded(2)], folder)


def test_the_same_outcomes_give_the_same_bytes_and_nothing_of_this_machine(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.append([(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files])
    assert digests[0] == digests[1]
    with tarfile.open(tmp_path / "a" / "shard-000003.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.uname, member.gname) == (0, 0, 0, "", "")


def test_samples_keep_their_order_and_their_members_are_sorted(tmp_path: Path) -> None:
    write(tmp_path)
    found = list(samples(str(tmp_path / "shard-000003.tar")))
    assert [key for key, _ in found] == ["k9", "k8", "k7"]
    assert all(list(members) == sorted(members) for _, members in found)


def test_the_index_points_at_every_sample_and_the_end(tmp_path: Path) -> None:
    write(tmp_path)
    data = (tmp_path / "shard-000003.tar").read_bytes()
    index = (tmp_path / "shard-000003.tar.idx").read_bytes()
    offsets = struct.unpack(f"<{len(index) // 8}Q", index)
    assert len(offsets) == 4
    assert [data[at : at + 100].rstrip(b"\0").split(b".")[0] for at in offsets[:-1]] == [b"k9", b"k8", b"k7"]
    assert set(data[offsets[-1] :]) == {0}


def test_counts_stats_and_rejects_agree(tmp_path: Path) -> None:
    facts = write(tmp_path)
    assert (facts["inputs"], facts["records"], facts["rejects"]) == (4, 3, 1)
    assert facts["reasons"] == {"silent": 1}
    table = pq.read_table(tmp_path / "shard-000003.stats.parquet")
    assert table.schema.equals(STATS)
    first = table.to_pylist()[0]
    assert (first["num_words"], first["num_unaligned"], first["speech_samples"]) == (3, 1, 9_000)
    assert first["text_tokens"] == 3
    assert (
        facts["unit_counts"]["hubert"]
        == np.bincount(  # type: ignore[index]
            np.concatenate([encoded(i).streams[0].ids for i in range(3)]), minlength=100
        ).tolist()
    )
    (line,) = (tmp_path / "rejects-000003.jsonl").read_text().splitlines()
    assert json.loads(line)["reason"] == "silent"


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    write(tmp_path)
    key, members = next(iter(samples(str(tmp_path / "shard-000003.tar"))))
    record, original = UnitRecord.from_members(key, members), encoded(0)
    assert record.words[0] == Word("Hello,", Samples(0), Samples(4_000), -3.1235)
    assert record.words[1] == Word("«world»", None, None, None)
    assert all(np.array_equal(record.streams[s.name], s.ids) for s in original.streams)
    assert record.meta["id"] == "id.0"


def test_webdataset_alone_reads_a_shard(tmp_path: Path) -> None:
    """A fresh interpreter outside the project: no import of ours can help."""
    write(tmp_path)
    code = """
import io, json, sys, numpy, soundfile, webdataset
found = []
for sample in webdataset.WebDataset(sys.argv[1], shardshuffle=False):
    body = json.loads(sample["json"])
    units = numpy.load(io.BytesIO(sample["hubert.npy"]), allow_pickle=False)
    audio, rate = soundfile.read(io.BytesIO(sample["flac"]))
    assert rate == 16000 and len(audio) == body["num_samples"] and body["words"][0][0] == "Hello,"
    found.append([sample["__key__"], str(units.dtype), len(units)])
assert not {"schemas", "stages", "pipeline", "jobs"} & set(sys.modules)
print(json.dumps(found))
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path / "shard-000003.tar")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[key, "uint16", 25] for key in ("k9", "k8", "k7")]


@pytest.mark.parametrize("keep", [0.3, 0.6])
def test_a_torn_shard_is_named(tmp_path: Path, keep: float) -> None:
    write(tmp_path)
    path = tmp_path / "shard-000003.tar"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(BadDataset, match="shard-000003"):
        list(samples(str(path)))


@pytest.mark.parametrize(
    "damage",
    [
        {"json": b"{"},
        {"json": b"[]"},
        {"json": b"{}"},
        {"hubert.npy": b"\x93NUMPY"},
        {"hubert.npy": b""},
        {"pitch.npy": b"junk"},
    ],
)
def test_a_damaged_record_is_named(damage: dict[str, bytes]) -> None:
    members = UnitRecord.from_encoded(encoded(0), flac=None, store_f0=False).to_members()
    with pytest.raises(BadRecord, match="'k9'"):
        UnitRecord.from_members("k9", {**members, **damage})


@given(st.lists(st.integers(0, 3), max_size=30))
def test_runs_are_what_deduplication_leaves(ids: list[int]) -> None:
    kept = [a for i, a in enumerate(ids) if i == 0 or ids[i - 1] != a]
    assert num_runs(np.array(ids, np.uint16)) == len(kept)
