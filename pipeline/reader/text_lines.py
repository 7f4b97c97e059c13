"""JSON lines, read at random by byte offsets.

A file is read in parts of about `PART_BYTES`, so that a reader that shuffles parts and mixes the rows of a few at a
time reads near where it has read, and fetches a part of a remote file at once.
"""

import hashlib
import json
import mmap
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from pipeline.reader.text_files import HEAD, Found, Rows, Unusable, damaged, readable, usable
from pipeline.storage import is_remote, publish_bytes
from schemas.canonical import canonical_json
from schemas.unit_record import npy_bytes

PART_BYTES = 8 * 2**20
CHUNK = 16 * 2**20
KEPT_FROM = 16 * 2**20
"""Indices of smaller files are not kept on disk: making them again is as fast as finding them."""


class LinesFile:
    """JSON lines. `offsets` are where each line begins, and the file's end."""

    def __init__(self, found: Found, field: str, offsets: npt.NDArray[np.uint64]) -> None:
        self._found, self._field, self._offsets = found, field, offsets
        self._firsts = np.flatnonzero(np.diff(offsets[:-1] // PART_BYTES, prepend=np.uint64(2**63)))
        self.sizes = np.diff(self._firsts, append=len(offsets) - 1).astype(np.int64)

    def load(self, part: int) -> Rows:
        first = int(self._firsts[part])
        offsets = self._offsets[first : first + int(self.sizes[part]) + 1]
        if not is_remote(self._found.path):
            return Lines(self._found.path, self._field, offsets, None)
        with readable(self._found.path):
            filesystem, key = fsspec.core.url_to_fs(self._found.path)
            data = filesystem.cat_file(key, start=int(offsets[0]), end=int(offsets[-1]))
        if len(data) != int(offsets[-1] - offsets[0]):
            raise damaged(self._found.path, "it is shorter than it was")
        return Lines(self._found.path, self._field, offsets, _mapped(data))


class Lines:
    """A run of lines: read one by one from a local file, or from the mapped copy of a remote one's part."""

    def __init__(self, path: str, field: str, offsets: npt.NDArray[np.uint64], data: mmap.mmap | None) -> None:
        self._path, self._field, self._offsets, self._data = path, field, offsets, data

    @property
    def nbytes(self) -> int:
        return 0 if self._data is None else len(self._data)

    def text(self, row: int) -> str | Unusable:
        body = self._body(row)
        return usable(body.get(self._field, Unusable.NO_FIELD)) if isinstance(body, dict) else body

    def fields(self, row: int) -> tuple[str, ...]:
        body = self._body(row)
        return tuple(body) if isinstance(body, dict) else ()

    def _body(self, row: int) -> dict[str, Any] | Unusable:
        line = self._line(row)
        try:
            text = line.decode("utf-8-sig")
            body = json.loads(text) if text.strip() else Unusable.EMPTY
        except UnicodeDecodeError:
            return Unusable.BAD_UTF8
        except (ValueError, RecursionError):
            return Unusable.NOT_JSON
        return body if isinstance(body, dict | Unusable) else Unusable.NOT_AN_OBJECT

    def _line(self, row: int) -> bytes:
        start, stop = self._offsets[row : row + 2].tolist()
        if self._data is not None:
            return self._data[start - int(self._offsets[0]) : stop - int(self._offsets[0])]
        with readable(self._path):
            descriptor = os.open(self._path, os.O_RDONLY)
        try:
            line = os.pread(descriptor, stop - start, start)
        finally:
            os.close(descriptor)
        if len(line) != stop - start:
            raise damaged(self._path, "it is shorter than it was")
        return line


def line_offsets(found: Found, folder: str | None) -> npt.NDArray[np.uint64]:
    """Return where each line of a file begins, and its end; from `folder` if it was found out before."""
    if folder is None or found.size < KEPT_FROM:
        return _scanned(found)
    kept = Path(folder) / f"{_index_key(found)}.npy"
    with suppress(OSError, ValueError):
        offsets = np.load(kept, mmap_mode="r", allow_pickle=False)
        if offsets.dtype == np.uint64 and offsets.ndim == 1 and len(offsets) and int(offsets[-1]) == found.size:
            return np.asarray(offsets)
    offsets = _scanned(found)
    with suppress(OSError):  # a full or read-only disk costs a scan at the next start, nothing else
        publish_bytes(npy_bytes(offsets), str(kept))
    return offsets


def _index_key(found: Found) -> str:
    """Return a name that changes with the file: path, size, time, first and last bytes."""
    with found.open() as file:
        head = file.read(HEAD)
        file.seek(max(0, found.size - HEAD))
        ends = hashlib.sha256(head + file.read(HEAD)).hexdigest()
    return hashlib.sha256(canonical_json([found.path, found.size, found.changed, ends]).encode()).hexdigest()


def _scanned(found: Found) -> npt.NDArray[np.uint64]:
    starts, at = [np.zeros(1, np.uint64)], 0
    with readable(found.path), found.open() as file:
        while chunk := file.read(CHUNK):
            starts.append((np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + at + 1).astype(np.uint64))
            at += len(chunk)
    return np.unique(np.concatenate([*starts, np.array([at], np.uint64)]))


def _mapped(data: bytes) -> mmap.mmap:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
