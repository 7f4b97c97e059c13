"""Fuzz targets: shards read as a stream, by index, and the members of a record."""

import hashlib
import random
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from pipeline.dataset import BadDataset, samples
from pipeline.reader.shard_file import ShardFile
from pipeline.reader.source import BadShard
from schemas.unit_record import STREAMS, BadRecord, UnitRecord
from tests.fuzz.mutations import INTEGERS, mutated
from tests.fuzz.seeds_text import record_members, shard_seeds

KINDS = ("tar", "indexed", "json", "hubert.npy", "f0.npy")
EXTENSIONS = ("json", "hubert.npy", "pitch.npy", "f0.npy")


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


@cache
def _seeds(kind: str) -> tuple[bytes, ...]:
    if kind == "tar":
        return shard_seeds()
    if kind == "indexed":
        return shard_seeds()[:1]
    return (record_members("u1")[kind],)


def example(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(KINDS)
    data = mutated(rng, _seeds(kind))
    if kind not in ("tar", "indexed"):
        return kind, data
    if rng.random() < 0.5:
        data = with_checksums(data)
    if rng.random() < 0.5:
        data += bytes(-len(data) % 10240)
    if kind == "indexed":
        data = rng.randbytes(1) + data
    return kind, data


def with_checksums(data: bytes) -> bytes:
    """Return a tar whose headers, wherever a block looks like one, have the right checksum: damage gets past it."""
    found = bytearray(data)
    for at in range(0, len(found) - 511, 512):
        if found[at + 257 : at + 262] == b"ustar":
            found[at + 148 : at + 156] = b" " * 8
            found[at + 148 : at + 156] = b"%06o\0 " % sum(found[at : at + 512])
    return bytes(found)


def check(kind: str, data: bytes) -> None:
    if kind == "tar":
        _check_stream(data)
    elif kind == "indexed":
        _check_indexed(data[:1], data[1:])
    else:
        members = record_members("u1") | {kind: data}
        try:
            _check_record(UnitRecord.from_members("u1", members))
        except BadRecord as error:
            str(error).encode("utf-8", "backslashreplace")


def _check_record(record: UnitRecord) -> None:
    for name in STREAMS:
        ids = record.streams.get(name)
        assert ids is None or (ids.dtype == np.uint16 and ids.ndim == 1)
    assert all(len(word) == 4 for word in record.words)


def _check_stream(data: bytes) -> None:
    path = Path(_folder().name) / "shard-000000.tar"
    path.write_bytes(data)
    total = 0
    try:
        for key, members in samples(str(path)):
            assert "/" not in key
            total += sum(map(len, members.values()))
            assert total <= len(data), "more came out than went in"
            try:
                _check_record(UnitRecord.from_members(key, members))
            except BadRecord:
                continue
    except BadDataset:
        return


def _check_indexed(salt: bytes, data: bytes) -> None:
    """Open with an index that is right, or wrong in one offset, under a commit record that vouches for both."""
    name = "shard-000000.tar"
    path = Path(_folder().name) / "indexed" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    rng = random.Random(salt)
    offsets = [0, 512 * 14, 512 * 28]
    if salt[0] % 2:
        offsets[rng.randrange(3)] = rng.choice((*INTEGERS[:-1], 512, 1024, 512 * 13, len(data)))
    index = np.array(offsets, dtype="<u8").tobytes()
    files = {name: data, f"{name}.idx": index}
    commit = {
        "records": 2,
        "files": {n: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in files.items()},
    }
    try:
        with open(path, "rb") as file:
            shard = ShardFile.open(str(path), file, index, commit, verify=True)
        try:
            for i in range(len(shard)):
                key, members = shard.members(i, EXTENSIONS)
                assert sum(map(len, members.values())) <= len(data)
                _check_record(UnitRecord.from_members(key, members))
        finally:
            shard.close()
    except (BadShard, BadRecord):
        return
