"""Has this name come before? Exact for hundreds of millions of names, in bounded memory.

Names are remembered by 128-bit digests: the latest in a set, the others in sorted runs on disk. A Bloom filter of 512
MiB says of nearly all new names that the runs need not be read; it is made when the first run is. Two names of 300
million share a digest with probability 1e-22.
"""

import hashlib
import os
import struct
import tempfile
from bisect import bisect_right
from typing import IO

import numpy as np

RECENT = 2_000_000
"""Digests in memory: about 100 bytes each."""
FILTER_BYTES = 2**29
"""One bit for each value of 32 bits: four words of a digest are four places in it."""
DIGEST_BYTES = 16
FENCE = 256
"""A run is read this many digests at a time."""
SPILL_PARTS = 16
"""A run enters the filter in so many parts: less memory for what numpy makes on the way."""

_WORDS = struct.Struct("<4I")


class Distinct:
    """A set of names that only grows. Its files have no name and go with the process, however that ends."""

    def __init__(self, recent: int = RECENT) -> None:
        self._limit = recent
        self._recent: set[bytes] = set()
        self._filter = memoryview(b"")
        self._runs: list[_Run] = []

    def add(self, name: str) -> bool:
        """Add a name; return whether it is new."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()
        if digest in self._recent:
            return False
        if self._runs and self._filtered(digest) and any(digest in run for run in self._runs):
            return False
        self._recent.add(digest)
        if len(self._recent) >= self._limit:
            self._spill()
        return True

    def _filtered(self, digest: bytes) -> bool:
        bits = self._filter
        for word in _WORDS.unpack(digest):  # noqa: SIM110 (three times as fast as `all`)
            if not bits[word >> 3] >> (word & 7) & 1:
                return False
        return True

    def _spill(self) -> None:
        """Write what is in memory as a run, and enter it in the filter."""
        if not self._filter:
            self._filter = np.zeros(FILTER_BYTES, np.uint8).data  # pages come as they are written
        data = b"".join(self._recent)
        self._recent = set()  # before the arrays are made: it is the largest
        ordered, bits = np.sort(np.frombuffer(data, f"S{DIGEST_BYTES}")), np.frombuffer(self._filter, np.uint8)
        del data
        for part in np.array_split(ordered, SPILL_PARTS):
            words = part.view("<u4")
            np.bitwise_or.at(bits, words >> 3, np.uint8(1) << (words & 7).astype(np.uint8))
        self._runs.append(_Run(ordered.tobytes()))


class _Run:
    """Sorted digests in a file, with every `FENCE`-th in memory."""

    def __init__(self, ordered: bytes) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the run)
        self._file.write(ordered)
        self._file.flush()
        starts = range(0, len(ordered), FENCE * DIGEST_BYTES)
        self._fences = [ordered[start : start + DIGEST_BYTES] for start in starts]

    def __contains__(self, digest: bytes) -> bool:
        block = bisect_right(self._fences, digest) - 1
        if block < 0:
            return False
        size = FENCE * DIGEST_BYTES
        data = os.pread(self._file.fileno(), size, block * size)
        at = data.find(digest)
        while at % DIGEST_BYTES and at >= 0:  # across two digests
            at = data.find(digest, at + 1)
        return at >= 0
