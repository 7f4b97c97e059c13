"""The files of a split, as anyone may find them: missing, damaged, or sound."""

import errno
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeVar

import fsspec

from pipeline.dataset import BadDataset
from pipeline.storage import file_size, is_remote, read_bytes
from schemas.path_errors import OF_THE_PATH
from schemas.rejects import Reject

PIECE = 2**20

Answer = TypeVar("Answer")


def is_of_the_path(error: OSError, path: str) -> bool:
    """Tell whether an error is one of what lies at a path of this machine: a folder, a loop of links, no permission."""
    return isinstance(error, FileNotFoundError) or (
        not is_remote(path) and (error.errno in OF_THE_PATH or error.errno == errno.EISDIR)
    )


def found_by(read: Callable[[str], Answer], path: str) -> Answer | None:
    """Return what `read` gives for a path, None where nothing there can be read; see `why_unreadable`.

    Raises:
        OSError: if the system or the store failed.
    """
    try:
        return read(path)
    except OSError as error:
        if not is_of_the_path(error, path):
            raise
        return None


def lies(path: str) -> bool:
    """Tell whether anything is at a path, be it unreadable."""
    try:
        return file_size(path) is not None
    except OSError as error:
        if not is_of_the_path(error, path):
            raise
        return True


def why_unreadable(path: str) -> str | None:
    """Return what the system says where something lies at a path and cannot be read, else None.

    Raises:
        OSError: if the system or the store failed.
    """
    try:
        with fsspec.open(path, "rb") as file:
            file.read(1)
    except FileNotFoundError:
        return None
    except OSError as error:
        if not is_of_the_path(error, path):
            raise
        return error.strerror or type(error).__name__
    return None


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open a file that must be there.

    Raises:
        BadDataset: if it is not, or cannot be read.
    """
    try:
        with fsspec.open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise BadDataset(f"{path} is missing") from None
    except OSError as error:
        if not is_of_the_path(error, path):
            raise
        raise BadDataset(f"{path} cannot be read: {error.strerror}") from None


def sha256_of(path: str) -> str:
    """Return the sha256 of a file, "" where there is none that can be read; reads it in pieces."""
    found = hashlib.sha256()
    try:
        with opened(path) as file:
            while piece := file.read(PIECE):
                found.update(piece)
    except BadDataset:
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
    data = found_by(read_bytes, path)
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
