"""Object stores through fsspec: whole objects only, errors that may pass are tried again, listings are never cached."""

import errno
import hashlib
import inspect
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from schemas.store_errors import is_away, is_unknown

WAITS = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts: about half a minute in all, on top of what a client does by itself."""
FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
"""Errors that stay, however often one asks."""
CONNECTIONS = 32
"""Requests to S3 at once, and prefixes that are listed at once; its client allows 10 unless told."""
PART_BYTES = 50 * 2**20
"""Files twice as large go to S3 in parts of this size, and those over 10,000 parts in larger ones."""

Answer = TypeVar("Answer")
_md5 = partial(hashlib.md5, usedforsecurity=False)


def is_transient(error: BaseException) -> bool:
    """Whether a call of a store that failed so may succeed later."""
    if isinstance(error, OSError):
        return not isinstance(error, FINAL) and error.errno != errno.ENOSPC
    return is_away(error)


def persist(call: Callable[[], Answer], what: str) -> Answer:
    """Call until it succeeds, while its errors may pass.

    Raises:
        OSError: EIO, naming `what`, when the last attempt failed so; other errors as they come.
        PermissionError: if there are no credentials for the store, or none that hold.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except BaseException as error:
            if is_unknown(error):
                told = f"no credentials for the store ({type(error).__name__})"
                raise PermissionError(errno.EACCES, told, what) from error
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
        self._s3 = url.startswith(("s3://", "s3a://"))
        # A cached listing would hide what another process has written.
        options = {"use_listings_cache": False, **(_s3_options() if self._s3 else {})}
        self._files, self._key = fsspec.core.url_to_fs(url, **options)

    def upload(self, local: Path) -> None:
        """Put a finished local file under the key, and look whether it arrived."""
        part = max(PART_BYTES, -(-local.stat().st_size // 10_000))

        def once() -> None:
            try:
                # Only S3's tags depend on the size of the parts.
                self._files.put_file(str(local), self._key, **({"chunksize": part} if self._s3 else {}))
            except FileNotFoundError as error:
                if not _is_lost_upload(error):
                    raise
                # The parts became the object and that answer was lost; or the store threw them away.
                if self._info() is None:
                    raise OSError(errno.EIO, "the store lost the parts of an upload", self._url) from error
            self._verify(local, part)

        persist(once, self._url)

    def put(self, data: bytes) -> None:
        persist(lambda: self._files.pipe_file(self._key, data), self._url)

    def put_now(self, data: bytes) -> None:
        """Put an object, or raise whatever the client does: for what is soon written again."""
        try:
            self._files.pipe_file(self._key, data)
        except BaseException as error:
            if is_away(error) or is_unknown(error):
                raise OSError(errno.EIO, f"the store failed with {type(error).__name__}", self._url) from error
            raise

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

    def children(self, prefixes: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """Return what the store says of each object in the folder, by name.

        Args:
            prefixes: only names that begin so. A store gives a thousand names an answer, one answer after the other;
                one that lists by prefix is asked for `CONNECTIONS` of these at once.
        """
        if prefixes and "prefix" in inspect.signature(self._files.find).parameters:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                found = list(chain.from_iterable(pool.map(self._listed, prefixes)))
        else:
            found = self._listed()
        named = {item["name"].rsplit("/", 1)[-1]: item for item in found if item["type"] == "file"}
        return {name: item for name, item in named.items() if name.startswith(tuple(prefixes) or "")}

    def _listed(self, prefix: str = "") -> list[dict[str, Any]]:
        def once() -> list[dict[str, Any]]:
            try:
                if prefix:
                    below = self._files.find(self._key, prefix=prefix, detail=True).values()
                    depth = self._key.rstrip("/").count("/") + 1
                    return [item for item in below if item["name"].count("/") == depth]
                return list(self._files.ls(self._key, detail=True))
            except FileNotFoundError:
                return []

        return persist(once, self._url)

    def _create(self, data: bytes) -> None:
        """Raise an OSError if there is an object; where a store cannot say so, the look before must do."""
        try:
            self._files.pipe_file(self._key, data, mode="create")
        except (NotImplementedError, TypeError, ValueError):
            self._files.pipe_file(self._key, data)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP):
                raise
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

    def _verify(self, local: Path, part: int) -> None:
        """Compare the size, and the tag: the MD5 of a simple object, that of the parts' MD5s of one sent in parts.

        Tags that say neither (encrypted objects, parts of another size) cost reading the object back.
        """
        size, info = local.stat().st_size, self._info() or {}
        if info.get("size") != size:
            raise OSError(errno.EIO, f"{info.get('size')} bytes arrived of {size}", self._url)
        tag = re.fullmatch(r"([0-9a-f]{32})(-\d+)?", str(info.get("ETag", "")).strip('"'))
        if tag is None or tag[0] == (_tag_of_parts(local, part) if tag[2] else _md5_of(local)):
            return
        if self._md5_there() != _md5_of(local):
            raise OSError(errno.EIO, "other bytes arrived than were sent", self._url)

    def _md5_there(self) -> str:
        with self._files.open(self._key, "rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest()


def _s3_options() -> dict[str, Any]:
    given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"config_kwargs": {"max_pool_connections": CONNECTIONS, **given}}


def _is_lost_upload(error: OSError) -> bool:
    """Whether S3 does not know an upload in parts any more."""
    return bool(getattr(error.__cause__, "response", {}).get("Error", {}).get("Code") == "NoSuchUpload")


def _md5_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _tag_of_parts(path: Path, part: int) -> str:
    with open(path, "rb") as file:
        digests = [_md5(data).digest() for data in iter(lambda: file.read(part), b"")]
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"
