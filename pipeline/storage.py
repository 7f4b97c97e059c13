"""Where files go: the same few operations on a local folder and on any fsspec store.

A file appears under its final name whole or not at all. Locally: unique temporary name, fsync, rename. On an object
store: one upload of a finished local file, never a stream to the final key, because the common clients publish a
truncated object when the body raises; then a look at what lies there.

Calls of a store are tried again while its errors may pass (`pipeline/stores.py`); what is left is an OSError.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec

from pipeline.beside import beside, sync_folder
from pipeline.stores import Store, persist
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
        Store(final).upload(local)
        return
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    os.replace(local, final)
    sync_folder(os.path.dirname(final))


def publish_bytes(data: bytes, final: str) -> None:
    """Publish a small file from memory."""
    if is_remote(final):
        Store(final).put(data)
        return
    make_dirs(os.path.dirname(final))
    with beside(final) as file:
        file.write(data)


def publish_json(value: Any, final: str) -> None:
    publish_bytes(_json_bytes(value), final)


def publish_json_once(value: Any, final: str) -> bool:
    """Publish a JSON file unless there is one; return whether the one that is there says this.

    Atomic on a store that knows conditional writes. Elsewhere, and locally, two writers at the very same moment may
    both succeed, one over the other.
    """
    if is_remote(final):
        return Store(final).put_once(_json_bytes(value))
    there = read_json(final)
    if there is None:
        publish_json(value, final)
    return bool(there is None or there == value)


def _json_bytes(value: Any) -> bytes:
    return (canonical_json(value) + "\n").encode()


def read_bytes(path: str) -> bytes | None:
    """Return a file's content, or None where there is no such file."""
    if is_remote(path):
        return Store(path).get()
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
    except (ValueError, RecursionError):  # nested a thousand deep
        return None


def copy(source: str, target: str) -> None:
    """Copy a file within a dataset's folder, over what has that name; a store copies it by itself."""
    if is_remote(target):
        filesystem, key = fsspec.core.url_to_fs(source, use_listings_cache=False)
        persist(lambda: filesystem.cp_file(key, filesystem._strip_protocol(target)), target)
        return
    make_dirs(os.path.dirname(target.removeprefix("file://")))
    shutil.copyfile(source.removeprefix("file://"), target.removeprefix("file://"))


def move(source: str, target: str) -> None:
    """Move a file within a dataset's folder, over what has that name; a store copies it whole, then removes it."""
    if is_remote(target):
        copy(source, target)
        remove(source)
        return
    final = target.removeprefix("file://")
    make_dirs(os.path.dirname(final))
    os.replace(source.removeprefix("file://"), final)
    sync_folder(os.path.dirname(final))


def remove(path: str) -> None:
    """Remove a file that may not be there."""
    if is_remote(path):
        Store(path).remove()
    else:
        Path(path.removeprefix("file://")).unlink(missing_ok=True)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it; it may not be there.

    Raises:
        OSError: if a store does not let it be removed. What of a local folder cannot be removed stays.
    """
    if not is_remote(path):
        shutil.rmtree(path.removeprefix("file://"), ignore_errors=True)
        return
    filesystem, key = fsspec.core.url_to_fs(path, use_listings_cache=False)

    def once() -> None:
        with suppress(FileNotFoundError):
            if filesystem.exists(key):
                filesystem.rm(key, recursive=True)

    persist(once, path)


def file_size(path: str) -> int | None:
    """Return a file's size in bytes, or None where there is no such file."""
    if is_remote(path):
        return Store(path).size()
    try:
        return os.stat(path.removeprefix("file://")).st_size
    except FileNotFoundError:
        return None


def list_names(folder: str) -> dict[str, int]:
    """Return the names and sizes of the files in a folder; empty where it does not exist."""
    if is_remote(folder):
        return {name: item["size"] for name, item in Store(folder).children().items()}
    try:
        return {name: found.st_size for name, found in _scanned(folder)}
    except FileNotFoundError:
        return {}


def list_states(folder: str) -> dict[str, str]:
    """Return the names of the files in a folder, each with something that changes when it is written again."""
    if is_remote(folder):
        return {name: repr(item) for name, item in Store(folder).children().items()}
    try:
        return {name: str(found.st_mtime_ns) for name, found in _scanned(folder)}
    except FileNotFoundError:
        return {}


def _scanned(folder: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files of a folder; those that go while it is read are left out.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.is_file():
                    yield entry.name, entry.stat()
