"""The files of a split, as anyone may find them: missing, damaged, or sound."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import fsspec

from pipeline.dataset import BadDataset
from pipeline.storage import read_bytes
from schemas.rejects import Reject

PIECE = 2**20


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that must be there.

    Raises:
        BadDataset: if it is not.
    """
    try:
        with fsspec.open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise BadDataset(f"{path} is missing") from None


def sha256_of(path: str) -> str:
    """Return the sha256 of a file, "" where there is none; reads it in pieces."""
    found = hashlib.sha256()
    try:
        with opened(path) as file:
            while piece := file.read(PIECE):
                found.update(piece)
    except (BadDataset, IsADirectoryError):
        return ""
    return found.hexdigest()


def exists(path: str) -> bool:
    """Tell whether a file or a folder is there."""
    filesystem, key = fsspec.core.url_to_fs(path)
    return bool(filesystem.exists(key))


def read_rejects(path: str) -> list[dict[str, Any]]:
    """Read a `rejects-*.jsonl`.

    Raises:
        BadDataset: naming the line that is no reject.
    """
    data = read_bytes(path)
    if data is None:
        raise BadDataset(f"{path} is missing")
    rejects = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            reject = json.loads(line)
        except (ValueError, RecursionError):
            reject = None
        if not isinstance(reject, dict) or set(reject) != set(Reject.__slots__):
            raise BadDataset(f"{path}:{number} is no reject")
        rejects.append(reject)
    if not data.endswith(b"\n") and data:
        raise BadDataset(f"{path}:{len(rejects) + 1} breaks off")
    return rejects
