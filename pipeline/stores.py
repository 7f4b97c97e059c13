"""Object stores through fsspec: whole objects only, errors that may pass are tried again, listings are never cached."""

import errno
import hashlib
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec

WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts: about half a minute in all, on top of what a client does by itself."""
FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors that stay, however often one asks."""
PASSING = (
    ("aiohttp", ("ClientError",)),
    ("asyncio", ("TimeoutError",)),
    ("botocore.exceptions", ("ConnectionError", "HTTPClientError", "IncompleteReadError")),
    ("botocore.parsers", ("ResponseParserError",)),
    ("fsspec.exceptions", ("FSTimeoutError",)),
)

Answer = TypeVar("Answer")


def is_transient(error: BaseException) -> bool:
    """Whether a call of a store that failed so may succeed later."""
    if isinstance(error, OSError):
        return not isinstance(error, FINAL) and error.errno != errno.ENOSPC
    kinds = [getattr(sys.modules[module], name) for module, names in PASSING if module in sys.modules for name in names]
    return isinstance(error, tuple(kinds))


def persist(call: Callable[[], Answer], what: str) -> Answer:
    """Call until it succeeds, while its errors may pass.

    Raises:
        OSError: EIO, naming `what`, when the last attempt failed so; other errors as they come.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except BaseException as error:
            if not is_transient(error):
                raise
            last = error  # clients of stores have errors of their own, which share no base
        if wait is not None:
            time.sleep(wait)
    raise OSError(errno.EIO, f"the store failed {len(WAITS) + 1} times, at last with {type(last).__name__}", what)


class Store:
    """One object, or one folder of objects."""

    def __init__(self, url: str) -> None:
        self._url = url
        # A cached listing would hide what another process has written.
        self._files, self._key = fsspec.core.url_to_fs(url, use_listings_cache=False)

    def upload(self, local: Path) -> None:
        """Put a finished local file under the key, and look whether it arrived."""

        def once() -> None:
            self._files.put_file(str(local), self._key)
            self._verify(local.stat().st_size, lambda: _md5(local))

        persist(once, self._url)

    def put(self, data: bytes) -> None:
        persist(lambda: self._files.pipe_file(self._key, data), self._url)

    def put_once(self, data: bytes) -> bool:
        """Put an object unless there is one; return whether the one that is there holds these bytes.

        A response may be lost after the write: then our own object is found there, and all is well.
        """

        def once() -> bool:
            there = self._read()
            if there is None:
                try:
                    self._create(data)
                    return True
                except OSError:  # each client has an error of its own for an object that is there
                    there = self._read()
                    if there is None:
                        raise
            return there == data

        return persist(once, self._url)

    def get(self) -> bytes | None:
        return persist(self._read, self._url)

    def size(self) -> int | None:
        """Return the size in bytes, None where there is no such object."""
        info = persist(self._info, self._url)
        return None if info is None or info["type"] != "file" else int(info["size"])

    def remove(self) -> None:
        def once() -> None:
            if self._info() is not None:
                self._files.rm_file(self._key)

        persist(once, self._url)

    def children(self) -> dict[str, dict[str, Any]]:
        """Return what the store says of each object in the folder, by name."""

        def once() -> list[dict[str, Any]]:
            try:
                found: list[dict[str, Any]] = self._files.ls(self._key, detail=True)
                return found
            except FileNotFoundError:
                return []

        found = persist(once, self._url)
        return {item["name"].rsplit("/", 1)[-1]: item for item in found if item["type"] == "file"}

    def _create(self, data: bytes) -> None:
        """Raise an OSError if there is an object; where a store cannot say so, the look before must do."""
        try:
            self._files.pipe_file(self._key, data, mode="create")
        except (NotImplementedError, TypeError, ValueError):
            self._files.pipe_file(self._key, data)

    def _read(self) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(self._key)
            return data
        except FileNotFoundError:
            return None

    def _info(self) -> dict[str, Any] | None:
        try:
            info: dict[str, Any] = self._files.info(self._key)
            return info
        except FileNotFoundError:
            return None

    def _verify(self, size: int, md5: Callable[[], str]) -> None:
        """Compare the size, and the MD5 that many stores give as the tag of a simple object."""
        info = self._info() or {}
        if info.get("size") != size:
            raise OSError(errno.EIO, f"{info.get('size')} bytes arrived of {size}", self._url)
        tag = str(info.get("ETag", "")).strip('"')
        if re.fullmatch(r"[0-9a-f]{32}", tag) and tag != md5() and _md5_of(self._read() or b"") != md5():
            raise OSError(errno.EIO, "other bytes arrived than were sent", self._url)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
