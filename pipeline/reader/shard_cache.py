"""A bounded local folder of files from object stores, and a thread that fetches those that will be opened soon."""

import hashlib
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import fsspec

from pipeline.reader.source import BadShard
from pipeline.storage import is_remote

DEFAULT_BYTES = 32 << 30
DEFAULT_AHEAD = 4
ABANDONED_SECONDS = 24 * 3600
"""A download that has not moved for so long was left behind by a process that died."""


class Committed(NamedTuple):
    """A file as its commit record describes it; `url` may be a local path."""

    url: str
    bytes: int
    sha256: str


Announced = tuple[str, Callable[[], Sequence[Committed]]]
"""A name for a group of files that are opened together, and what says which they are, called in the thread."""

MOST_ANNOUNCED = 1024
"""Groups that wait to be fetched."""


class ShardCache:
    """Fetches files whole, keeps the ones used last within `max_bytes`, and fetches `ahead` groups ahead.

    A file is named by its sha256 and appears under its name only when that was found to hold, so processes share a
    folder without locks. What is evicted stays readable to whoever has it open.
    """

    def __init__(
        self, folder: str | Path | None = None, *, max_bytes: int = DEFAULT_BYTES, ahead: int = DEFAULT_AHEAD
    ) -> None:
        """Set up; the folder is made when first used, by default `interloom/shards` in the user's cache folder."""
        if max_bytes < 1 or ahead < 0:
            raise ValueError(f"max_bytes must be positive and ahead not negative, got {max_bytes} and {ahead}")
        self._folder = Path(folder) if folder is not None else _user_folder()
        self._max_bytes, self._ahead = max_bytes, ahead
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._announced: list[Announced] = []
        self._coming: OrderedDict[str, Future[None]] = OrderedDict()

    def expect(self, groups: Sequence[Announced]) -> None:
        """Announce groups, the next first; groups being fetched, or fetched and not yet taken, count as ahead.

        What other readers of this cache announced comes after, the oldest forgotten beyond `MOST_ANNOUNCED`.
        """
        if os.getpid() != self._pid:
            self._forget()  # a fork has no thread
        known = {name for name, _ in groups} | set(self._coming)
        new = [group for group in groups if group[0] not in self._coming]
        self._announced = [*new, *(group for group in self._announced if group[0] not in known)][:MOST_ANNOUNCED]
        self._fetch_ahead()

    def take(self, name: str) -> None:
        """Wait for a group if it is being fetched; what has not begun is left to `open`.

        Raises:
            BadShard: if the thread found a file missing or changed.
            OSError: if the store failed.
        """
        if os.getpid() != self._pid:
            self._forget()
        self._announced = [group for group in self._announced if group[0] != name]
        coming = self._coming.pop(name, None)
        self._fetch_ahead()
        if coming is not None and not coming.cancel():
            coming.result()

    def open(self, file: Committed) -> BinaryIO:
        """Return an open local copy of a file.

        Raises:
            BadShard: if it is missing, or its bytes are not those of its commit record.
            OSError: if the store failed.
        """
        path = self._folder / file.sha256
        try:
            found = open(path, "rb")  # noqa: SIM115
        except FileNotFoundError:
            return self._fetch(file)
        if os.fstat(found.fileno()).st_size != file.bytes:
            found.close()
            return self._fetch(file)
        os.utime(found.fileno())
        return found

    def close(self) -> None:
        """Stop the thread after the file that it is fetching."""
        if self._pool is not None and os.getpid() == self._pid:
            self._pool.shutdown(cancel_futures=True)
        self._forget()

    def _fetch_ahead(self) -> None:
        while self._announced and len(self._coming) < self._ahead:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="interloom-shards")
            name, describe = self._announced.pop(0)
            self._coming[name] = self._pool.submit(self._fetch_group, describe)

    def _fetch_group(self, describe: Callable[[], Iterable[Committed]]) -> None:
        for file in describe():
            self.open(file).close()

    def _fetch(self, file: Committed) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._make_room(file.bytes)
        temporary = self._folder / f"{file.sha256}.{uuid.uuid4().hex}.part"
        filesystem, key = fsspec.core.url_to_fs(file.url)
        try:
            try:
                filesystem.get_file(key, str(temporary))
            except FileNotFoundError as error:
                raise BadShard(f"{file.url} is missing; run the build again, or copy the whole dataset") from error
            opened = open(temporary, "rb")  # noqa: SIM115
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                opened.close()
                raise BadShard(
                    f"{file.url} is damaged (its sha256 is not the one in its commit record); copy it again, or delete "
                    "its commit record and run the build again"
                )
            opened.seek(0)
            os.fsync(opened.fileno())
            os.replace(temporary, self._folder / file.sha256)
            return opened
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove the files that were not used for the longest time until one of `size` bytes fits."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # another process may rename or remove it meanwhile
                    info = entry.stat()
                    found.append((info.st_mtime_ns, info.st_size, entry.path))
        found.sort()
        total = sum(length for _, length, _ in found)
        for used, length, path in found:
            if total + size <= self._max_bytes:
                break
            if path.endswith(".part") and used > (time.time() - ABANDONED_SECONDS) * 1e9:
                continue
            Path(path).unlink(missing_ok=True)
            total -= length


def open_committed(file: Committed, cache: ShardCache | None) -> BinaryIO:
    """Return an open local file: the file itself, or a copy in the cache.

    Raises:
        BadShard: if it is missing, or a fetched one is not what its commit record says.
    """
    if is_remote(file.url):
        if cache is None:
            raise ValueError(f"{file.url} lies in an object store, which takes a cache")
        return cache.open(file)
    try:
        return open(file.url.removeprefix("file://"), "rb")
    except FileNotFoundError as error:
        raise BadShard(f"{file.url} is missing; run the build again, or copy the whole dataset") from error


def _user_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or (Path.home() / ".cache")
    return Path(home) / "interloom" / "shards"
