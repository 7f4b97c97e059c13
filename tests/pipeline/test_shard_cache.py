"""The cache of remote shards, on fsspec's own store in memory."""

import hashlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.reader.shard_cache import Committed, ShardCache, open_committed
from pipeline.reader.source import BadShard


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    found = fsspec.filesystem("memory")
    yield found
    found.rm("/cache-test", recursive=True)


def put(store: fsspec.AbstractFileSystem, name: str, data: bytes) -> Committed:
    store.pipe_file(f"/cache-test/{name}", data)
    return Committed(f"memory://cache-test/{name}", len(data), hashlib.sha256(data).hexdigest())


def content(cache: ShardCache, file: Committed) -> bytes:
    with cache.open(file) as opened:
        return opened.read()


def held(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_fetched_once(store, tmp_path: Path) -> None:
    file = put(store, "a", b"units")
    assert content(ShardCache(tmp_path / "c"), file) == b"units"
    store.pipe_file("/cache-test/a", b"other")
    assert content(ShardCache(tmp_path / "c"), file) == b"units"
    assert held(tmp_path / "c") == {file.sha256}


def test_changed_and_missing_files_are_named_and_leave_nothing(store, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "c")
    file = put(store, "a", b"units")
    store.pipe_file("/cache-test/a", b"stinu")
    with pytest.raises(BadShard, match=r"memory://cache-test/a is damaged \(its sha256 .*run the build again"):
        cache.open(file)
    with pytest.raises(BadShard, match=r"memory://cache-test/b is missing"):
        cache.open(file._replace(url="memory://cache-test/b"))
    assert held(tmp_path / "c") == set()


def test_a_copy_cut_short_is_fetched_again(store, tmp_path: Path) -> None:
    cache, file = ShardCache(tmp_path / "c"), put(store, "a", b"units")
    content(cache, file)
    (tmp_path / "c" / file.sha256).write_bytes(b"uni")
    assert content(cache, file) == b"units"


def test_the_folder_keeps_what_was_used_last(store, tmp_path: Path) -> None:
    files = [put(store, str(i), bytes([i]) * 10) for i in range(4)]
    cache = ShardCache(tmp_path / "c", max_bytes=30)
    for age, file in zip((300, 200, 100), files[:3], strict=True):
        content(cache, file)
        os.utime(tmp_path / "c" / file.sha256, ns=(0, 10**18 - age))
    kept_open = cache.open(files[1])
    content(cache, files[0])
    content(cache, files[3])
    assert held(tmp_path / "c") == {files[i].sha256 for i in (0, 1, 3)}
    os.utime(tmp_path / "c" / files[1].sha256, ns=(0, 0))
    content(cache, files[2])
    assert files[1].sha256 not in held(tmp_path / "c")
    assert kept_open.read() == bytes([1]) * 10


def test_a_file_larger_than_the_folder_is_kept_alone(store, tmp_path: Path) -> None:
    small, large = put(store, "s", b"s"), put(store, "l", b"l" * 100)
    cache = ShardCache(tmp_path / "c", max_bytes=10)
    content(cache, small)
    assert content(cache, large) == b"l" * 100
    assert held(tmp_path / "c") == {large.sha256}


def test_downloads_of_other_processes_are_left_alone_unless_abandoned(store, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    for name in ("new.part", "old.part"):
        (tmp_path / "c" / name).write_bytes(b"x" * 10)
    os.utime(tmp_path / "c" / "old.part", ns=(0, 0))
    content(ShardCache(tmp_path / "c", max_bytes=5), put(store, "a", b"a"))
    assert "new.part" in held(tmp_path / "c")
    assert "old.part" not in held(tmp_path / "c")


class Announcements:
    """Groups of one file each, whose descriptions wait for leave and note that they were asked."""

    def __init__(self, files: list[Committed]) -> None:
        self.files, self.asked = files, []
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def groups(self) -> list:
        return [(file.url, lambda file=file: self._describe(file)) for file in self.files]

    def _describe(self, file: Committed) -> list[Committed]:
        self.asked.append(file.url)
        self.begun.release()
        assert self.go.wait(60)
        return [file]


def test_what_is_announced_is_fetched_ahead_in_order_and_no_further(store, tmp_path: Path) -> None:
    files = [put(store, str(i), bytes([i])) for i in range(5)]
    told = Announcements(files)
    told.go.set()
    cache = ShardCache(tmp_path / "c", ahead=2)
    cache.expect(told.groups())
    cache.expect(told.groups())
    for _ in range(2):
        assert told.begun.acquire(timeout=60)
    assert told.asked == list(cache._coming) == [file.url for file in files[:2]]
    cache.take(files[0].url)
    assert told.begun.acquire(timeout=60)
    cache.take(files[1].url)
    assert told.begun.acquire(timeout=60)
    assert told.asked == [file.url for file in files[:4]]
    store.rm("/cache-test/0")
    store.rm("/cache-test/1")
    assert [content(cache, file) for file in files[:2]] == [b"\0", b"\1"]
    cache.close()


def test_errors_of_the_thread_surface_where_the_group_is_taken_and_once(store, tmp_path: Path) -> None:
    good, bad = put(store, "good", b"g"), put(store, "bad", b"b")._replace(url="memory://cache-test/none")
    cache = ShardCache(tmp_path / "c")
    cache.expect([(file.url, lambda file=file: [file]) for file in (bad, good)])
    cache.take(good.url)
    with pytest.raises(BadShard, match="cache-test/none is missing"):
        cache.take(bad.url)
    cache.take(bad.url)
    assert content(cache, good) == b"g"
    cache.close()


def test_a_group_that_has_not_begun_is_not_waited_for(store, tmp_path: Path) -> None:
    told = Announcements([put(store, "a", b"a"), put(store, "b", b"b")])
    cache = ShardCache(tmp_path / "c", ahead=2)
    cache.expect(told.groups())
    assert told.begun.acquire(timeout=60)
    cache.take(told.files[1].url)
    assert content(cache, told.files[1]) == b"b"
    told.go.set()
    cache.take(told.files[0].url)
    assert told.asked == [told.files[0].url]
    cache.close()


def test_a_fork_begins_with_no_thread(store, tmp_path: Path) -> None:
    file = put(store, "a", b"a")
    told = Announcements([file])
    cache = ShardCache(tmp_path / "c")
    cache.expect(told.groups())
    assert told.begun.acquire(timeout=60)
    cache._pid -= 1
    cache.take(file.url)
    assert content(cache, file) == b"a"
    told.go.set()


def test_local_files_need_no_cache(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"a")
    for url in (str(path), path.as_uri()):
        with open_committed(Committed(url, 1, ""), None) as file:
            assert file.read() == b"a"
    with pytest.raises(BadShard, match="b is missing; run the build again"):
        open_committed(Committed(str(tmp_path / "b"), 1, ""), None)
    with pytest.raises(ValueError, match="takes a cache"):
        open_committed(Committed("memory://x/b", 1, ""), None)


def test_settings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_bytes must be positive"):
        ShardCache(tmp_path, max_bytes=0)
