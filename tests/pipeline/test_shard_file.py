"""Random access to shards: equal to tarfile's reading, and strict about everything that a header could lie about."""

import hashlib
import io
import struct
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.dataset import samples
from pipeline.reader.shard_file import ShardFile
from pipeline.reader.source import BadShard
from pipeline.shards import add_member
from schemas.unit_record import npy_array, npy_bytes, unit_ids

ALL = frozenset({"json", "hubert.npy", "pitch.npy", "style.npy", "flac"})
SAMPLES = [
    ("a-1", {"hubert.npy": b"h" * 700, "json": b"{}", "style.npy": b""}),
    ("b_2", {"flac": b"f" * 5000, "hubert.npy": b"H" * 512, "json": b"[]"}),
    ("c", {"json": b"x"}),
]


def tar_of(items: Sequence[tuple[str, dict[str, bytes]]]) -> tuple[bytes, list[int]]:
    """A shard as the sink writes it, and the offsets of its samples and its end."""
    buffer, offsets = io.BytesIO(), []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in items:
            offsets.append(tar.offset)
            for extension, data in members.items():
                add_member(tar, f"{key}.{extension}", data)
        offsets.append(tar.offset)
    return buffer.getvalue(), offsets


def described(data: bytes) -> dict[str, object]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def opened(
    folder: Path, data: bytes, offsets: Sequence[int], *, records: int | None = None, verify: bool = False
) -> ShardFile:
    """Open a shard whose commit record vouches for these very bytes."""
    index = struct.pack(f"<{len(offsets)}Q", *offsets)
    name = str(folder / "shard-000000.tar")
    Path(name).write_bytes(data)
    files = {"shard-000000.tar": described(data), "shard-000000.tar.idx": described(index)}
    commit = {"files": files, "records": len(offsets) - 1 if records is None else records}
    with open(name, "rb") as file:
        return ShardFile.open(name, file, index, commit, verify=verify)


keys = st.text("abcXYZ019-_", min_size=1, max_size=60)
contents = st.dictionaries(st.sampled_from(sorted(ALL)), st.binary(max_size=1100), min_size=1)


@given(items=st.lists(st.tuples(keys, contents), max_size=5), order=st.randoms())
def test_any_order_gives_what_reading_from_front_to_back_gives(tmp_path_factory, items, order) -> None:
    items = list({key: (key, dict(sorted(members.items()))) for key, members in items}.values())
    folder = tmp_path_factory.mktemp("shard")
    data, offsets = tar_of(items)
    shard = opened(folder, data, offsets, verify=True)
    places = list(range(len(items)))
    order.shuffle(places)
    assert len(shard) == len(items)
    assert {i: shard.members(i, ALL) for i in places} == dict(enumerate(items))
    assert dict(enumerate(samples(str(folder / "shard-000000.tar")))) == dict(enumerate(items))
    shard.close()


def test_only_wanted_members_are_read(tmp_path: Path) -> None:
    data, offsets = tar_of(SAMPLES)
    shard = opened(tmp_path, data, offsets)
    assert shard.members(1, {"json"}) == ("b_2", {"json": b"[]"})
    assert shard.members(0, {"pitch.npy"}) == ("a-1", {})


HEADER = 1536
"""Where the header of the JSON member of the first sample begins: after a header and 700 bytes in two blocks."""


def field(at: int, value: bytes) -> Callable[[bytearray], None]:
    """Overwrite a field of the JSON member's header and make its checksum hold again."""

    def change(data: bytearray) -> None:
        data[HEADER + at : HEADER + at + len(value)] = value
        header = data[HEADER : HEADER + 512]
        total = sum(header[:148]) + sum(header[156:]) + 8 * 32
        data[HEADER + 148 : HEADER + 156] = b"%06o\0 " % total

    return change


def flip(at: int) -> Callable[[bytearray], None]:
    def change(data: bytearray) -> None:
        data[HEADER + at] ^= 1

    return change


NOT_PLAIN = "a header is not that of a plain ustar file named KEY.EXTENSION"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip(0), "the checksum of a header does not hold"),
        (flip(511), "the checksum of a header does not hold"),
        (flip(148), "the checksum of a header does not hold"),
        (field(0, b"zz9.json"), r"unexpected member zz9\.json"),
        (field(0, b"a-1.hubert.npy"), r"unexpected member a-1\.hubert\.npy"),
        (field(0, b"../a.json"), NOT_PLAIN),
        (field(0, b"a-1/json\0"), NOT_PLAIN),
        (field(0, b".json\0\0\0"), NOT_PLAIN),
        (field(0, b"a-1.\0json"), NOT_PLAIN),
        (field(0, b"a\xff1.json"), NOT_PLAIN),
        (field(124, b"77777777777"), r"a member of 8589934591 bytes does not fit into the sample"),
        (field(124, b"00000002001"), r"a member of 1025 bytes does not fit into the sample"),
        (field(124, b"0000000000x"), NOT_PLAIN),
        (field(124, b"-0000000001"), NOT_PLAIN),
        (field(124, b"\x80\0\0\0\0\0\0\0\0\0\x01"), NOT_PLAIN),
        (field(156, b"5"), NOT_PLAIN),
        (field(156, b"2"), NOT_PLAIN),
        (field(156, b"L"), NOT_PLAIN),
        (field(157, b"elsewhere"), NOT_PLAIN),
        (field(257, b"ustar  \0"), NOT_PLAIN),
        (field(345, b"folder"), NOT_PLAIN),
    ],
)
def test_a_header_that_is_damaged_or_lies_is_named(tmp_path: Path, change, message: str) -> None:
    data, offsets = tar_of(SAMPLES)
    changed = bytearray(data)
    change(changed)
    shard = opened(tmp_path, bytes(changed), offsets)
    with pytest.raises(
        BadShard, match=rf"shard-000000\.tar is damaged \(sample 0 at byte 0: {message}\); .*run the build again"
    ):
        shard.members(0, ALL)
    assert shard.members(1, ALL) == SAMPLES[1]


def test_a_size_may_not_reach_into_the_next_sample(tmp_path: Path) -> None:
    """Nothing is read for a member that says it is longer than its sample, whatever lies behind."""
    data, offsets = tar_of([("a", {"json": b"x"}), ("b", {"json": b"secret" * 200})])
    changed = bytearray(data)
    changed[124:135] = b"%011o" % 1500
    changed[148:156] = b"%06o\0 " % (sum(changed[:148]) + sum(changed[156:512]) + 8 * 32)
    with pytest.raises(BadShard, match="a member of 1500 bytes does not fit"):
        opened(tmp_path, bytes(changed), offsets).members(0, ALL)


@pytest.mark.parametrize(
    "change",
    [
        lambda o: [1, *o[1:]],
        lambda o: [512, *o[1:]],
        lambda o: [o[0], o[2], o[1], *o[3:]],
        lambda o: [o[0], o[0], *o[2:]],
        lambda o: [*o[:-1], 1 << 40],
        lambda o: [*o[:-1], (1 << 64) - 512],
        lambda o: [o[0], o[1] + 8, *o[2:]],
    ],
)
def test_an_index_that_makes_no_sense_is_named(tmp_path: Path, change) -> None:
    data, offsets = tar_of(SAMPLES)
    with pytest.raises(BadShard, match=r"shard-000000\.tar\.idx is damaged \(its offsets do not ascend"):
        opened(tmp_path, data, change(offsets))


def test_an_index_of_another_shard_is_noticed(tmp_path: Path) -> None:
    data, offsets = tar_of(SAMPLES)
    with pytest.raises(BadShard, match=r"\.idx is damaged \(32 bytes do not hold 4 offsets and the end"):
        opened(tmp_path, data, offsets, records=4)
    inside = opened(tmp_path, data, [offsets[0], 512, *offsets[1:]])
    with pytest.raises(BadShard, match="does not fit into the sample"):
        inside.members(0, ALL)


def test_a_commit_record_that_names_no_bytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(b"")
    with open(tmp_path / "s.tar", "rb") as file, pytest.raises(BadShard, match="is not described by its commit record"):
        ShardFile.open(str(tmp_path / "s.tar"), file, b"", {"files": {}, "records": 0}, verify=False)


def test_an_empty_shard_has_no_samples(tmp_path: Path) -> None:
    assert len(opened(tmp_path, *tar_of([]), verify=True)) == 0


@given(values=st.lists(st.integers(0, 65_535), max_size=50))
def test_the_fast_reader_of_units_reads_what_numpy_writes(values: list[int]) -> None:
    data = npy_bytes(np.array(values, dtype=np.uint16))
    assert unit_ids(data).tolist() == npy_array(data, np.uint16).tolist() == values


@given(at=st.integers(0, 139), value=st.integers(0, 255), cut=st.integers(0, 12))
def test_spoilt_units_are_read_as_numpy_reads_them_or_refused(at: int, value: int, cut: int) -> None:
    """Stricter than numpy in one thing: bytes beyond the array are refused."""
    data = bytearray(npy_bytes(np.arange(6, dtype=np.uint16)))
    data[at] = value
    spoilt = bytes(data[: len(data) - cut])
    found = _outcome(unit_ids, spoilt)
    assert found == _outcome(lambda d: npy_array(d, np.uint16), spoilt)
    if found is not None:
        assert found == np.load(io.BytesIO(spoilt), allow_pickle=False).tolist()


def _outcome(read: Callable[[bytes], np.ndarray], data: bytes) -> list[int] | None:
    try:
        return read(data).tolist()
    except ValueError:
        return None


def test_other_kinds_of_arrays_are_refused() -> None:
    for array in (np.arange(3, dtype=np.int16), np.zeros((2, 2), np.uint16), np.array(3, np.uint16)):
        with pytest.raises(ValueError, match="expected a one-dimensional uint16 array"):
            unit_ids(npy_bytes(array))
    older = io.BytesIO()
    np.lib.format.write_array(older, np.arange(3, dtype=np.uint16), version=(2, 0))
    assert unit_ids(older.getvalue()).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="array, got object"):
        unit_ids(_pickled())
    endless = npy_bytes(np.arange(3, dtype=np.uint16)).replace(b"(3,), }" + b" " * 12, b"(3000000000000,), }")
    with pytest.raises(ValueError, match="6 bytes do not hold 3000000000000 of uint16"):
        unit_ids(endless)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


ALIKE = [(f"key-{n}", {"flac": b"f" * (300 * n), "hubert.npy": b"h" * 600, "json": b"{}"}) for n in range(5)]


def outcome(read: Callable[[], object]) -> object:
    try:
        return read()
    except BadShard as error:
        return str(error)


@given(
    header=st.integers(0, 14),
    at=st.one_of(st.integers(0, 511), st.sampled_from([0, 4, 5, 6, 9, 10, 99, 124, 130, 134, 135, 148, 156, 157, 257])),
    value=st.one_of(st.integers(0, 255), st.sampled_from(list(b"01789./-_a\0 "))),
    mended=st.booleans(),
)
def test_headers_checked_together_are_judged_as_one_by_one(tmp_path_factory, header, at, value, mended) -> None:
    data, offsets = tar_of(ALIKE)
    places = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    spoilt = bytearray(data)
    spoilt[places[header] + at] = value
    if mended:
        block = spoilt[places[header] : places[header] + 512]
        total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        spoilt[places[header] + 148 : places[header] + 156] = b"%06o\0 " % total
    shard = opened(tmp_path_factory.mktemp("shard"), bytes(spoilt), offsets)
    together = [outcome(lambda i=i: shard.members(i, ALL)) for i in range(5)]
    shard._layout.sound[:] = False
    assert together == [outcome(lambda i=i: shard.members(i, ALL)) for i in range(5)]
    shard.close()


@pytest.mark.parametrize("odd", range(3))
def test_one_sample_of_another_kind_leaves_the_others_what_they_are(tmp_path: Path, odd: int) -> None:
    items = [*ALIKE]
    items[2 * odd] = ("other", {"flac": b"1", "json": b"2"} if odd else {"json": b"1", "style.npy": b"2"})
    data, offsets = tar_of(items)
    shard = opened(tmp_path, data, offsets)
    assert [shard.members(i, ALL) for i in range(5)] == items
    assert shard._layout.sound.sum() == (1 if odd == 0 else 4)


def test_most_samples_are_found_without_their_headers(tmp_path: Path) -> None:
    data, offsets = tar_of(ALIKE)
    assert opened(tmp_path, data, offsets)._layout.sound.all()
