"""Storage on a local folder, on a real S3 server behind a bad line, and on stores with tricks of their own."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import botocore.exceptions
import fsspec
import pytest
import s3fs
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage, stores
from pipeline.commit import CommitConflict, commit, commit_path, keep_valid, scratch_folder, valid_commits
from pipeline.drive import _committed
from pipeline.job import Job
from pipeline.status_files import commit_times, split_prefixes
from pipeline.storage import (
    file_size,
    join,
    list_names,
    list_states,
    publish_bytes,
    publish_file,
    publish_json_once,
    read_bytes,
    read_json,
    remove,
    remove_folder,
)
from pipeline.stores import Store
from tests.faults.s3 import BUCKET, Proxy, bucket
from tests.poison import LinesConfig

MEGABYTES = bytes(range(256)) * 4096 * 8
"""8 MiB that are no text."""
PART = 5 * 2**20
"""The least that S3 takes as a part."""
ROOT_FOLDER = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with bucket(tmp_path_factory.mktemp("s3")) as (_, proxy):
        yield proxy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "WAITS", (0.01, 0.01, 0.01))


def exercise(root: str, tmp_path: Path) -> None:
    """What every place must do."""
    path = join(root, "a", "file.bin")
    assert read_bytes(path) is None
    assert file_size(path) is None
    assert list_names(join(root, "a")) == {}
    publish_bytes(b"one", path)
    states = list_states(join(root, "a"))
    time.sleep(1.1)  # the clock of a listing counts seconds
    publish_bytes(b"two", path)
    assert list_states(join(root, "a")) != states
    assert (read_bytes(path), file_size(path)) == (b"two", 3)
    local = tmp_path / "finished"
    local.write_bytes(MEGABYTES)
    publish_file(local, join(root, "a", "large.bin"))
    assert list_names(join(root, "a")) == {"file.bin": 3, "large.bin": len(MEGABYTES)}
    assert read_bytes(join(root, "a", "large.bin")) == MEGABYTES
    remove(path)
    remove(path)
    assert read_bytes(path) is None
    assert publish_json_once({"a": 1}, join(root, "a", "once.json"))
    assert publish_json_once({"a": 1}, join(root, "a", "once.json"))
    assert not publish_json_once({"a": 2}, join(root, "a", "once.json"))
    assert read_json(join(root, "a", "once.json")) == {"a": 1}
    publish_bytes(b"deep", join(root, "a", "deep", "file"))
    publish_bytes(b"beside", join(root, "ab", "file"))
    remove_folder(join(root, "a"))
    remove_folder(join(root, "a"))
    assert list_names(join(root, "a")) == list_names(join(root, "a", "deep")) == {}
    assert list_names(join(root, "ab")) == {"file": 6}


def test_a_local_folder(tmp_path: Path) -> None:
    exercise(str(tmp_path / "root"), tmp_path)


@pytest.mark.slow
def test_an_s3_bucket(line: Proxy, tmp_path: Path) -> None:
    exercise(f"s3://{BUCKET}/exercise", tmp_path)


@pytest.mark.slow
def test_a_large_file_goes_up_in_parts_of_the_usual_size(line: Proxy, tmp_path: Path) -> None:
    local, path = tmp_path / "large", f"s3://{BUCKET}/large/file.bin"
    local.write_bytes(MEGABYTES * 13)
    publish_file(local, path)
    assert s3fs.S3FileSystem(use_listings_cache=False).info(path)["ETag"].strip('"').endswith("-3")  # 50 + 50 + 4 MiB
    assert read_bytes(path) == local.read_bytes()


@pytest.mark.slow
def test_of_many_writers_one_wins(line: Proxy) -> None:
    path = f"s3://{BUCKET}/race/once.json"
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: publish_json_once({"writer": number}, path), range(8)))
    assert won.count(True) == 1
    assert read_json(path) == {"writer": won.index(True)}


@pytest.mark.slow
def test_a_line_cut_in_mid_upload_shows_nothing_and_is_tried_again(line: Proxy, tmp_path: Path) -> None:
    local, path = tmp_path / "file", f"s3://{BUCKET}/cut/file.bin"
    local.write_bytes(MEGABYTES)
    seen, stop = set[int | None](), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(file_size(path))

    cuts = line.cuts
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for after in (2**20, 2**22):
            line.cut_after = after
            publish_file(local, path)
        stop.set()
        looking.result()
    assert line.cuts == cuts + 2
    assert seen <= {None, len(MEGABYTES)}
    assert read_bytes(path) == MEGABYTES


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file that goes in three parts, through a client that does not try long by itself."""
    monkeypatch.setattr(stores, "PART_BYTES", PART)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    local = tmp_path / "large"
    local.write_bytes(MEGABYTES + MEGABYTES[: 2**22])
    return local


def unfinished() -> list[Any]:
    found: list[Any] = s3fs.S3FileSystem(use_listings_cache=False).list_multipart_uploads(BUCKET)
    return found


def unread(*_: object) -> str:
    raise AssertionError("the tag tells, nothing is read back")


@pytest.mark.slow
def test_an_upload_in_parts_that_is_cut_shows_nothing_and_is_tried_again(
    line: Proxy, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "_md5_there", unread)
    path, seen, stop = f"s3://{BUCKET}/parts/file.bin", set[int | None](), threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.add(file_size(path))

    cuts = line.cuts
    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        line.cut_parts = 2**20  # until the client gives the upload up
        publish_file(parts, path)
        stop.set()
        looking.result()
    assert line.cut_parts is None, "our own retry was needed"
    assert line.cuts > cuts
    assert seen <= {None, parts.stat().st_size}
    assert read_bytes(path) == parts.read_bytes()
    assert s3fs.S3FileSystem().info(path)["ETag"].endswith('-3"')
    assert unfinished() == []


@pytest.mark.slow
def test_a_lost_answer_to_the_last_request_of_an_upload_in_parts_costs_nothing(line: Proxy, parts: Path) -> None:
    path, cuts, line.swallow = f"s3://{BUCKET}/parts/lost.bin", line.cuts, "parts/lost.bin?uploadId"
    publish_file(parts, path)
    assert line.cuts == cuts + 1
    assert read_bytes(path) == parts.read_bytes()


KILLED = f"""
import sys
from pathlib import Path
from pipeline import stores
from pipeline.storage import publish_file
stores.PART_BYTES = {PART}
publish_file(Path(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.slow
def test_a_process_killed_in_an_upload_leaves_parts_that_no_reader_sees(line: Proxy, parts: Path) -> None:
    path = f"s3://{BUCKET}/killed/file.bin"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(parts), path], cwd=ROOT_FOLDER)
    line.in_put = (2**20, process.kill)
    assert process.wait(120) == -signal.SIGKILL
    assert list_names(f"s3://{BUCKET}/killed") == {}
    assert read_bytes(path) is None
    assert [upload["Key"] for upload in unfinished()] == ["killed/file.bin"]
    publish_file(parts, path)
    assert read_bytes(path) == parts.read_bytes()
    assert len(unfinished()) == 1
    s3fs.S3FileSystem().clear_multipart_uploads(BUCKET)  # as docs/operations.md says
    assert unfinished() == []


@pytest.mark.slow
@pytest.mark.parametrize("planned", [1, 1000, 2500])
def test_a_listing_by_prefix_is_the_one_listing(line: Proxy, planned: int) -> None:
    root = f"s3://{BUCKET}/listed-{planned}"
    splits = [split for split in (0, 7, 999, 1000, 2499) if split < planned]
    names = [f"{part}-{split:06d}.{end}" for split in splits for part, end in (("shard", "tar"), ("rejects", "jsonl"))]
    names += [f"shard-{split:06d}.commit.json" for split in splits]
    below = "shard-000/shard-000003.tar"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: publish_bytes(b"x", join(root, "shards", name)), [*names, below]))
    whole = Store(join(root, "shards")).children()
    assert set(names) == set(whole)
    wanted = {name: item for name, item in whole.items() if name.startswith("shard-")}
    assert Store(join(root, "shards")).children(split_prefixes(planned)) == wanted
    assert commit_times(root, planned) == commit_times(root)
    assert set(commit_times(root, planned)) == set(splits)


@pytest.mark.slow
def test_a_response_lost_after_success_is_no_conflict(line: Proxy) -> None:
    path = f"s3://{BUCKET}/lost/once.json"
    cuts, line.swallow = line.cuts, "lost/once.json"
    assert publish_json_once({"a": 1}, path)
    assert line.cuts == cuts + 1
    assert read_json(path) == {"a": 1}
    assert not publish_json_once({"a": 2}, path)


@pytest.mark.slow
def test_a_sink_that_raises_shows_nothing(line: Proxy, tmp_path: Path) -> None:
    root = f"s3://{BUCKET}/raises"
    folder = scratch_folder(root, 0)

    def outcomes() -> Iterator[Any]:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        LinesConfig().setup().write(0, outcomes(), folder)
    assert list_names(join(root, "shards")) == {}


@pytest.mark.slow
def test_a_store_that_stays_away_is_an_error_that_names_it(line: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "WAITS", (0.01,))  # each attempt is many of the client's own
    line.down = True
    line.drop_all()
    try:
        with pytest.raises(OSError, match=r"failed 2 times.*s3://bucket/away/file"):
            publish_bytes(b"x", f"s3://{BUCKET}/away/file")
    finally:
        line.down = False
    publish_bytes(b"x", f"s3://{BUCKET}/away/file")


class Lagging(MemoryFileSystem):
    """A store whose listings come late, which cannot write conditionally, and whose calls fail now and then."""

    protocol = "lagging"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    hidden: ClassVar[set[str]] = set()
    failures: ClassVar[list[type[Exception]]] = []
    torn: ClassVar[list[int]] = []

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
        found = super().ls(path, detail=True)
        return [item for item in found if not any(item["name"].endswith(name) for name in self.hidden)]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create":
            raise NotImplementedError
        if self.failures:
            raise self.failures.pop()("injected")
        super().pipe_file(path, value)

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        data = Path(lpath).read_bytes()
        super().pipe_file(rpath, data[: self.torn.pop()] if self.torn else data)


@pytest.fixture
def lagging() -> Iterator[type[Lagging]]:
    fsspec.register_implementation("lagging", Lagging, clobber=True)
    Lagging.store.clear()
    Lagging.hidden.clear()
    Lagging.failures.clear()
    yield Lagging
    Lagging.hidden.clear()


ROOT = "lagging://store/out"


def committed(root: str, split: int, text: str = "one") -> dict[str, Any]:
    folder = scratch_folder(root, split)
    (folder / f"lines-{split:06d}.txt").write_text(text)
    return commit(root, split, "plan", folder, {"inputs": 1, "records": 1, "rejects": 0})


def test_a_listing_that_lags_hides_no_commit(lagging: type[Lagging]) -> None:
    expected = {split: committed(ROOT, split) for split in range(3)}
    lagging.hidden |= {"lines-000001.txt", "shard-000002.commit.json"}
    assert set(list_names(join(ROOT, "shards"))) & lagging.hidden == set()
    assert valid_commits(ROOT, "plan", range(3)) == {0: expected[0], 1: expected[1]}
    job = Job(root=ROOT, fingerprint="plan", sink=LinesConfig(), rows_path="rows")
    assert _committed(job, range(4)) == expected
    assert keep_valid(ROOT, "plan", range(3)).keys() == {0, 1}
    lagging.hidden.clear()
    assert valid_commits(ROOT, "plan", range(3)) == expected


def test_prefixes_hold_every_split() -> None:
    assert split_prefixes(0) == []
    assert split_prefixes(1001) == ["shard-000", "shard-001"]
    millions = tuple(split_prefixes(3_000_000))
    assert len(millions) == 1000
    assert all(commit_path("", split).split("/")[-1].startswith(millions) for split in range(0, 3_000_000, 997))


def test_a_store_that_does_not_list_by_prefix_is_listed_once(lagging: type[Lagging]) -> None:
    for split in (0, 1234):
        committed(ROOT, split)
    found = Store(join(ROOT, "shards")).children(["shard-000", "shard-001"])
    assert set(found) == {"shard-000000.commit.json", "shard-001234.commit.json"}


def test_without_conditional_writes_a_record_is_compared(lagging: type[Lagging]) -> None:
    committed(ROOT, 0)
    assert committed(ROOT, 0) == read_json(commit_path(ROOT, 0))
    with pytest.raises(CommitConflict, match="other bytes"):
        committed(ROOT, 0, "two")
    assert publish_json_once({"a": 1}, f"{ROOT}/once.json")
    assert publish_json_once({"a": 1}, f"{ROOT}/once.json")
    assert not publish_json_once({"a": 2}, f"{ROOT}/once.json")


def test_what_arrived_torn_is_sent_again(lagging: type[Lagging], quick: None) -> None:
    lagging.torn.extend([0, 2])
    record = committed(ROOT, 0)
    assert read_bytes(join(ROOT, "shards", "lines-000000.txt")) == b"one"
    assert record["files"]["lines-000000.txt"]["bytes"] == 3


class Tagged(Lagging):
    """A store that gives tags, and damages what it takes as often as told."""

    protocol = "tagged"
    flips: ClassVar[int] = 0
    tag: ClassVar[Callable[[bytes], str]]

    def put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        data = Path(lpath).read_bytes()
        cls = type(self)
        if self.flips:
            cls.flips -= 1
            data = data[:-1] + b"~"
        MemoryFileSystem.pipe_file(self, rpath, data)

    def info(self, path: str, **kwargs: Any) -> Any:
        return {**super().info(path, **kwargs), "ETag": f'"{type(self).tag(self.cat_file(path))}"'}


def md5(data: bytes) -> Any:
    return hashlib.md5(data, usedforsecurity=False)


def in_parts(data: bytes, size: int) -> str:
    digests = [md5(data[i : i + size]).digest() for i in range(0, len(data), size)]
    return f"{md5(b''.join(digests)).hexdigest()}-{len(digests)}"


TAGS: dict[str, Callable[[bytes], str]] = {
    "simple": lambda data: str(md5(data).hexdigest()),
    "parts": lambda data: in_parts(data, 4),
    "parts of another size": lambda data: in_parts(data, 3),
    "encrypted": lambda data: "0" * 32,
}


@pytest.mark.parametrize("kind", TAGS)
def test_other_bytes_of_the_same_number_are_sent_again(
    lagging: type[Lagging], quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    fsspec.register_implementation("tagged", Tagged, clobber=True)
    monkeypatch.setattr(Tagged, "tag", staticmethod(TAGS[kind]), raising=False)
    monkeypatch.setattr(Tagged, "flips", 2)
    monkeypatch.setattr(stores, "PART_BYTES", 4)
    local = tmp_path / "file"
    local.write_bytes(b"ten bytes.")
    publish_file(local, "tagged://store/file")
    assert read_bytes("tagged://store/file") == b"ten bytes."
    assert Tagged.flips == 0
    if kind in ("simple", "parts"):
        monkeypatch.setattr(Store, "_md5_there", unread)
        publish_file(local, "tagged://store/file")


class NoSuchUpload(Exception):
    """What botocore raises, below the FileNotFoundError of s3fs."""

    response: ClassVar[dict[str, Any]] = {"Error": {"Code": "NoSuchUpload"}}


@pytest.mark.parametrize("arrived", [True, False])
def test_an_upload_whose_parts_are_gone_is_looked_for_and_sent_again(
    lagging: type[Lagging], quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrived: bool
) -> None:
    real, sent = Lagging.put_file, []

    def put_file(self: Lagging, lpath: str, rpath: str, **kwargs: Any) -> None:
        sent.append(rpath)
        if arrived or len(sent) > 1:
            real(self, lpath, rpath)
        if len(sent) == 1:
            raise FileNotFoundError from NoSuchUpload()

    monkeypatch.setattr(Lagging, "put_file", put_file)
    (tmp_path / "file").write_bytes(b"bytes")
    publish_file(tmp_path / "file", f"{ROOT}/file")
    assert read_bytes(f"{ROOT}/file") == b"bytes"
    assert len(sent) == (1 if arrived else 2)


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError, OSError])
def test_errors_that_pass_are_tried_again(lagging: type[Lagging], quick: None, error: type[Exception]) -> None:
    lagging.failures.extend([error] * 3)
    publish_bytes(b"x", f"{ROOT}/file")
    assert read_bytes(f"{ROOT}/file") == b"x"
    lagging.failures.extend([error] * 4)
    with pytest.raises(OSError, match="failed 4 times"):
        publish_bytes(b"y", f"{ROOT}/file")


@pytest.mark.parametrize("error", [PermissionError, ValueError, FileExistsError])
def test_errors_that_stay_are_raised_at_once(lagging: type[Lagging], quick: None, error: type[Exception]) -> None:
    lagging.failures.extend([error, error])
    with pytest.raises(error):
        publish_bytes(b"x", f"{ROOT}/file")
    assert len(lagging.failures) == 1


@pytest.mark.parametrize("name", ["CredentialRetrievalError", "MetadataRetrievalError"])
def test_credentials_that_do_not_come_are_asked_for_again(lagging: type[Lagging], quick: None, name: str) -> None:
    error = getattr(botocore.exceptions, name)
    lagging.failures.extend([lambda _: error(provider="iam", error_msg="slow")] * 3)  # type: ignore[list-item]
    publish_bytes(b"x", f"{ROOT}/file")
    assert read_bytes(f"{ROOT}/file") == b"x"


def test_no_credentials_are_an_error_of_the_system(lagging: type[Lagging], quick: None) -> None:
    lagging.failures.append(lambda _: botocore.exceptions.NoCredentialsError())  # type: ignore[arg-type]
    with pytest.raises(PermissionError, match="no credentials for the store"):
        publish_bytes(b"x", f"{ROOT}/file")


@pytest.mark.parametrize("error", [ConnectionResetError, TimeoutError])
def test_what_is_put_now_is_tried_once(lagging: type[Lagging], error: type[Exception]) -> None:
    lagging.failures.extend([error] * 2)
    with pytest.raises(error):
        Store(f"{ROOT}/file").put_now(b"x")
    assert lagging.failures == [error]


def test_a_store_that_answers_conditional_writes_with_501_is_written_to(
    lagging: type[Lagging], quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Lagging.pipe_file

    def pipe_file(self: Lagging, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        real(self, path, value)

    monkeypatch.setattr(Lagging, "pipe_file", pipe_file)
    assert publish_json_once({"a": 1}, f"{ROOT}/one.json")
    assert publish_json_once({"a": 1}, f"{ROOT}/one.json")
    assert not publish_json_once({"a": 2}, f"{ROOT}/one.json")


def test_a_file_that_goes_while_its_folder_is_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    real = os.scandir

    @contextmanager
    def scandir(folder: str) -> Iterator[Iterator[Any]]:
        with real(folder) as entries:
            yield iter(sorted(entries, key=lambda entry: entry.name))

    monkeypatch.setattr(storage.os, "scandir", scandir)
    assert list_names(str(tmp_path)) == {"a": 1, "b": 1, "c": 1}

    @contextmanager
    def late(folder: str) -> Iterator[Iterator[Any]]:
        with scandir(folder) as entries:
            found = list(entries)
            (tmp_path / "b").unlink()
            yield iter(found)

    monkeypatch.setattr(storage.os, "scandir", late)
    assert list_names(str(tmp_path)) == {"a": 1, "c": 1}
    (tmp_path / "b").write_text("b")
    assert set(list_states(str(tmp_path))) == {"a", "c"}
    assert list_names(str(tmp_path / "none")) == {}
