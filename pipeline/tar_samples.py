"""The samples of a shard as they lie in its tar, byte for byte, read once from front to back."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipeline.dataset import BadDataset

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER = 2**31
"""A member beyond this is no clip; it is refused before anything is read into memory."""


class TarSample(NamedTuple):
    """One sample.

    Attributes:
        key: the part of its members' names before the first dot.
        start: where it begins in the tar.
        raw: its bytes in the tar: headers, contents and padding of its members.
        members: their contents by extension, in order.
    """

    key: str
    start: int
    raw: bytes
    members: dict[str, bytes]


class _Member(NamedTuple):
    key: str
    extension: str
    raw: bytes
    content: bytes


def tar_samples(file: BinaryIO, name: str) -> Iterator[TarSample]:
    """Yield the samples of a shard that our sink wrote, one in memory at a time.

    Raises:
        BadDataset: naming the shard and the byte, if it breaks off or is no plain tar of KEY.EXTENSION files.
    """
    key, start, at = "", 0, 0
    raw: list[bytes] = []
    members: dict[str, bytes] = {}
    while (member := _next_member(file, name, at)) is not None:
        if member.key != key and members:
            yield TarSample(key, start, b"".join(raw), members)
            start, raw, members = at, [], {}
        if member.extension in members:
            raise _damaged(name, at, f"a second {member.key}.{member.extension}")
        key = member.key
        raw.append(member.raw)
        members[member.extension] = member.content
        at += len(member.raw)
    if members:
        yield TarSample(key, start, b"".join(raw), members)
    _require_end(file, name, at)


def _next_member(file: BinaryIO, name: str, at: int) -> _Member | None:
    """Read a member, or the first block of the end."""
    header = file.read(BLOCK)
    if len(header) < BLOCK:
        raise _damaged(name, at, "it breaks off")
    if not any(header):
        return None
    try:
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.TarError as error:
        raise _damaged(name, at, str(error)) from error
    key, _, extension = info.name.partition(".")
    if info.type != tarfile.REGTYPE or not key or not extension or "/" in info.name or not 0 <= info.size <= MAX_MEMBER:
        raise _damaged(name, at, f"{info.name!r} is no plain KEY.EXTENSION file")
    padded = file.read(-(-info.size // BLOCK) * BLOCK)
    if len(padded) < info.size or len(padded) % BLOCK:
        raise _damaged(name, at, "it breaks off")
    return _Member(key, extension, header + padded, padded[: info.size])


def _require_end(file: BinaryIO, name: str, at: int) -> None:
    """Check that nothing but the zeros of the end follows, one block of which was read."""
    rest = file.read(2 * tarfile.RECORDSIZE)
    if any(rest) or BLOCK + len(rest) != len(end_of_tar(at)):
        raise _damaged(name, at, "it does not end as a tar does")


def end_of_tar(at: int) -> bytes:
    """Return the zeros that close a tar whose members take `at` bytes: two blocks, filled up to a record."""
    return bytes(2 * BLOCK + -(at + 2 * BLOCK) % tarfile.RECORDSIZE)


def _damaged(name: str, at: int, detail: str) -> BadDataset:
    return BadDataset(f"{name} is damaged at byte {at}: {detail}")
