"""Where files go: the same few operations on a local folder and on any fsspec store.

A file appears under its final name whole or not at all. Locally: unique temporary name, fsync, rename. On an object
store: one upload of a finished local file, never a stream to the final key, because the common clients publish a
truncated object when the body raises.
"""

import json
import os
import uuid
from pathlib import Path
from typing import Any

import fsspec

from schemas.canonical import canonical_json


def is_remote(root: str) -> bool:
    return "://" in root and not root.startswith("file://")


def join(root: str, *parts: str) -> str:
    return "/".join((root.rstrip("/"), *parts))


def make_dirs(path: str) -> None:
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def publish_file(local: Path, final: str) -> None:
    """Publish a finished local file under its final name.

    A local source must lie on the same file system as its destination.
    """
    if is_remote(final):
        filesystem, key = fsspec.core.url_to_fs(final)
        filesystem.put_file(str(local), key)
        return
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    os.replace(local, final)
    _fsync_dir(os.path.dirname(final))


def publish_bytes(data: bytes, final: str) -> None:
    """Publish a small file from memory."""
    if is_remote(final):
        filesystem, key = fsspec.core.url_to_fs(final)
        filesystem.pipe_file(key, data)
        return
    make_dirs(os.path.dirname(final))
    temporary = f"{final}.tmp-{uuid.uuid4().hex}"
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, final)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _fsync_dir(os.path.dirname(final))


def publish_json(value: Any, final: str) -> None:
    publish_bytes((canonical_json(value) + "\n").encode(), final)


def read_bytes(path: str) -> bytes | None:
    """Return a file's content, or None where there is no such file."""
    try:
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read()
            return data
    except FileNotFoundError:
        return None


def read_json(path: str) -> Any:
    """Return a parsed JSON file, or None where it is missing or damaged: such a file counts as never written."""
    data = read_bytes(path)
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError:
        return None


def remove(path: str) -> None:
    """Remove a file that may not be there."""
    filesystem, key = fsspec.core.url_to_fs(path)
    if filesystem.exists(key):
        filesystem.rm_file(key)


def file_size(path: str) -> int | None:
    """Return a file's size in bytes, or None where there is no such file."""
    filesystem, key = fsspec.core.url_to_fs(path)
    try:
        return int(filesystem.size(key))
    except FileNotFoundError:
        return None


def list_names(folder: str) -> dict[str, int]:
    """Return the names and sizes of the files in a folder; empty where it does not exist."""
    if is_remote(folder):
        filesystem, key = fsspec.core.url_to_fs(folder)
        filesystem.invalidate_cache(key)
        try:
            found = filesystem.ls(key, detail=True)
        except FileNotFoundError:
            return {}
        return {item["name"].rsplit("/", 1)[-1]: item["size"] for item in found if item["type"] == "file"}
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except FileNotFoundError:
        return {}


def _fsync_dir(path: str) -> None:
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
