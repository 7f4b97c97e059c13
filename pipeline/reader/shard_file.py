"""Random access to the samples of a local shard through its index, reading no more than the sample's bytes.

The tar is read by a strict reader of its own: regular files in plain ustar, as our writer makes them and nothing else.
A sample costs microseconds where `tarfile` takes hundreds, and a header cannot lead outside the sample that the index
gives. The headers of a shard are checked together when it is opened; the samples that are not alike, one by one.
"""

import hashlib
import mmap
import re
from collections.abc import Collection, Mapping
from struct import Struct
from typing import IO, Any, Self
from zlib import adler32

import numpy as np
import numpy.typing as npt

from pipeline.reader.shard_cache import Committed
from pipeline.reader.source import BadShard
from pipeline.reader.tar_headers import BLOCK, layout_of

_HEADER = Struct("100s 24x 12s 12x 8s c 100s 8s 80x 155s 12x")
"""Name, size, checksum, type, link name, magic with version, prefix (POSIX.1-1988, ustar)."""
_MEMBER = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_.]+)\0*")
_NUMBER = re.compile(rb"([0-7]+)[\0 ]+")
_NO_LINK, _NO_PREFIX, _USTAR = bytes(100), bytes(155), b"ustar\x0000"
_SPACES = 8 * ord(" ")
_ADLER = 65521
"""The lower half of Adler-32 is one more than the sum of the bytes modulo this (RFC 1950, 8.2)."""


class ShardFile:
    """An open shard: `members(i)` gives its i-th sample."""

    def __init__(self, name: str, offsets: npt.NDArray[np.uint64], data: mmap.mmap) -> None:
        self._name = name
        self._offsets: list[int] = offsets.tolist()
        self._data = data
        self._layout = layout_of(data, offsets)
        self._wanted: tuple[Collection[str], list[tuple[str, int]]] = ((), [])

    @classmethod
    def open(cls, name: str, file: IO[bytes], index: bytes, commit: Mapping[str, Any], *, verify: bool) -> Self:
        """Map an open shard into memory; `file` may be closed afterwards.

        Args:
            name: path or URL of the shard.
            file: the shard, a real file.
            index: content of its `.tar.idx`.
            commit: the shard's commit record.
            verify: compare the sha256 of the whole shard, which reads it once; that of the index always is.

        Raises:
            BadShard: if the shard or its index is not what the commit record says.
        """
        shard, records = committed(commit, name), int(commit["records"])
        whole(committed(commit, f"{name}.idx"), index)
        size = file.seek(0, 2)
        if size != shard.bytes:
            raise damaged(name, f"it has {size} bytes, its commit record says {shard.bytes}")
        offsets = np.frombuffer(index, dtype="<u8") if len(index) % 8 == 0 else np.empty(0, dtype="<u8")
        if len(offsets) != records + 1:
            raise damaged(f"{name}.idx", f"{len(index)} bytes do not hold {records} offsets and the end")
        if offsets[0] != 0 or int(offsets[-1]) > size or np.any(offsets[1:] <= offsets[:-1]) or np.any(offsets % BLOCK):
            raise damaged(f"{name}.idx", "its offsets do not ascend in blocks of 512 bytes within the shard")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if verify and hashlib.sha256(data).hexdigest() != shard.sha256:
            data.close()
            raise damaged(name, "its sha256 is not the one in its commit record")
        return cls(name, offsets, data)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def members(self, index: int, wanted: Collection[str]) -> tuple[str, dict[str, bytes]]:
        """Return a sample's key and those of its members whose extension is wanted, by extension.

        Raises:
            BadShard: if a header is damaged or not of the kind that our writer makes; other members' content is not
                looked at.
        """
        if not self._layout.sound[index]:
            return self._members(index, wanted)
        if self._wanted[0] is not wanted:
            columns = [(name, n) for n, name in enumerate(self._layout.extensions) if name in wanted]
            self._wanted = wanted, columns
        bodies, sizes = self._layout.bodies[index].tolist(), self._layout.sizes[index].tolist()
        at, data = self._offsets[index], self._data
        found = {name: data[bodies[n] : bodies[n] + sizes[n]] for name, n in self._wanted[1]}
        return data[at : data.find(b".", at)].decode(), found

    def _members(self, index: int, wanted: Collection[str]) -> tuple[str, dict[str, bytes]]:
        """Return what `members` does, header by header."""
        at, end = self._offsets[index], self._offsets[index + 1]
        key, found, seen = b"", dict[str, bytes](), set[bytes]()
        while at < end:
            own, extension, size = self._header(at, index)
            body = at + BLOCK
            at = body + -(-size // BLOCK) * BLOCK
            if at > end:
                raise self._damaged(index, f"a member of {size} bytes does not fit into the sample")
            if (seen and own != key) or extension in seen:
                raise self._damaged(index, f"unexpected member {own.decode()}.{extension.decode()}")
            key = own
            seen.add(extension)
            if (name := extension.decode()) in wanted:
                found[name] = self._data[body : body + size]
        return key.decode(), found

    def _header(self, at: int, index: int) -> tuple[bytes, bytes, int]:
        """Return key, extension and size of the member whose header begins at a byte."""
        header = self._data[at : at + BLOCK]
        if len(header) != BLOCK:
            raise self._damaged(index, "it breaks off")
        name, size, checksum, kind, link, magic, prefix = _HEADER.unpack(header)
        stored, length, member = _NUMBER.fullmatch(checksum), _NUMBER.fullmatch(size), _MEMBER.fullmatch(name)
        # The sum of the header's bytes, its checksum field counted as spaces; a tenth of the time of sum().
        found = ((adler32(header) & 0xFFFF) - 1 - (adler32(checksum) & 0xFFFF) + 1 + _SPACES) % _ADLER
        if stored is None or int(stored[1], 8) != found:
            raise self._damaged(index, "the checksum of a header does not hold")
        if length is None or member is None or kind != b"0" or (link, magic, prefix) != (_NO_LINK, _USTAR, _NO_PREFIX):
            raise self._damaged(index, "a header is not that of a plain ustar file named KEY.EXTENSION")
        return member[1], member[2], int(length[1], 8)

    def _damaged(self, index: int, detail: str) -> BadShard:
        return damaged(self._name, f"sample {index} at byte {self._offsets[index]}: {detail}")

    def close(self) -> None:
        self._data.close()


def damaged(name: str, detail: str) -> BadShard:
    """Return the error for a file of a shard that is not what was committed."""
    return BadShard(f"{name} is damaged ({detail}); copy it again, or delete its commit record and run the build again")


def committed(commit: Mapping[str, Any], url: str) -> Committed:
    """Return a file of a shard as the shard's commit record describes it.

    Raises:
        BadShard: if the record does not.
    """
    try:
        facts = commit["files"][url.rsplit("/", 1)[-1]]
        return Committed(url, int(facts["bytes"]), str(facts["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadShard(
            f"{url} is not described by its commit record; delete the record and run the build again"
        ) from error


def whole(file: Committed, data: bytes) -> bytes:
    """Return the content of a small file, compared with its commit record.

    Raises:
        BadShard: if its size or sha256 is another.
    """
    if len(data) != file.bytes:
        raise damaged(file.url, f"it has {len(data)} bytes, its commit record says {file.bytes}")
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise damaged(file.url, "its sha256 is not the one in its commit record")
    return data
