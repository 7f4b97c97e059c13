"""The headers of all samples of a shard checked at once, where the samples are alike, as our writer makes them.

A header that is read by itself costs microseconds, most of what a small record costs to find; numpy checks a thousand
of them in the time of a hundred. What is not alike is left to the strict reader in `pipeline/reader/shard_file.py`,
which says what is wrong with it.
"""

import mmap
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BLOCK = 512
MOST_MEMBERS = 32

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]

_NAME, _SIZE, _SUM = slice(0, 100), slice(124, 135), slice(148, 154)
"""Fields of a header (POSIX.1-1988, ustar) without the NUL or space that ends a number."""
_FIXED = {135: b"\0", 154: b"\0 ", 156: b"0" + bytes(100) + b"ustar\x0000", 345: bytes(155)}
"""What else our writer's headers hold: kind, link name, magic with version, prefix."""
_EXTENSION_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.")
_KEY_BYTES = _EXTENSION_BYTES - {ord(".")} | {ord("-")}


class Layout(NamedTuple):
    """Where the members of a shard's samples lie.

    Attributes:
        extensions: of the members of a sample, in order.
        bodies: shape (samples, members): the byte at which each member begins.
        sizes: shape (samples, members): its bytes.
        sound: shape (samples,): whether a sample's headers are as said here; of another one nothing is known.
    """

    extensions: tuple[str, ...]
    bodies: Ints
    sizes: Ints
    sound: npt.NDArray[np.bool_]


def layout_of(data: mmap.mmap, offsets: npt.NDArray[np.uint64]) -> Layout:
    """Check the headers of all samples of a shard.

    Args:
        data: the shard.
        offsets: where each sample begins and the last one ends: multiples of 512, ascending, within the shard.
    """
    blocks = np.frombuffer(data, dtype=np.uint8, count=len(data) // BLOCK * BLOCK).reshape(-1, BLOCK)
    at, ends = offsets[:-1].astype(np.int64) // BLOCK, offsets[1:].astype(np.int64) // BLOCK
    sound = np.ones(len(at), dtype=np.bool_)
    extensions: list[str] = []
    bodies: list[Ints] = []
    sizes: list[Ints] = []
    keys: list[bytes] = []
    while len(extensions) < MOST_MEMBERS and np.any(going := sound & (at < ends)):
        headers = blocks[np.minimum(at, len(blocks) - 1)]
        names = headers[:, _NAME].copy().view("S100").ravel().tolist()
        if not keys:
            keys = [name.partition(b".")[0] for name in names]
            sound &= [key != b"" and _KEY_BYTES.issuperset(key) for key in keys]
        extension = names[int(going.argmax())].partition(b".")[2]
        if not extension or not _EXTENSION_BYTES.issuperset(extension) or extension.decode() in extensions:
            break
        extensions.append(extension.decode())
        size, is_number = _octal(headers[:, _SIZE])
        sound &= going & is_number & _is_ours(headers)
        sound &= [name == key + b"." + extension for name, key in zip(names, keys, strict=True)]
        bodies.append((at + 1) * BLOCK)
        sizes.append(size)
        at = np.where(sound, at + 1 + -(-size // BLOCK), at)
    sound &= at == ends
    if not extensions:
        sound[:] = False
        return Layout((), np.empty((len(at), 0), np.int64), np.empty((len(at), 0), np.int64), sound)
    return Layout(tuple(extensions), np.stack(bodies, axis=1), np.stack(sizes, axis=1), sound)


def _is_ours(headers: Bytes) -> npt.NDArray[np.bool_]:
    """Return which headers hold the fixed fields and their own checksum."""
    stored, sound = _octal(headers[:, _SUM])
    # The field of the checksum itself counts as spaces.
    sums = headers.sum(axis=1, dtype=np.int64) - headers[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    sound &= stored == sums
    for place, wanted in _FIXED.items():
        sound &= (headers[:, place : place + len(wanted)] == np.frombuffer(wanted, dtype=np.uint8)).all(axis=1)
    return sound


def _octal(digits: Bytes) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Return the numbers that rows of digits stand for, and which rows hold octal digits only."""
    values = digits.astype(np.int64) - ord("0")
    powers = 8 ** np.arange(digits.shape[1] - 1, -1, -1, dtype=np.int64)
    return values @ powers, np.all((values >= 0) & (values < 8), axis=1)
