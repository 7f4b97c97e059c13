"""The files that a status is read from: commit records and their times, timings, small JSON files by the thousand."""

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from pipeline.commit import committed_splits
from pipeline.commit_form import commit_name
from pipeline.plan_files import batched
from pipeline.storage import is_remote, join, read_json
from pipeline.stores import Store

FETCHERS = 32
"""Objects of a store that are fetched at once."""


class Passed(NamedTuple):
    """Records that came into a stage and that left it."""

    came: int
    left: int

    @property
    def rejected(self) -> int:
        return self.came - self.left


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one split cost, from `work/timings/`; times in seconds, `started` since the epoch.

    `passed` is empty where an earlier version wrote the file.
    """

    split: int
    audio_seconds: float
    wall: float
    started: float
    peak_rss_bytes: int
    seconds: Mapping[str, float]
    passed: Mapping[str, Passed] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any) -> "Timing | None":
        """Return a parsed timing, or None where the file is damaged: it counts as never written."""
        try:
            return cls(
                split=int(value["split"]),
                audio_seconds=float(value["audio_seconds"]),
                wall=float(value["wall"]),
                started=float(value["started"]),
                peak_rss_bytes=int(value["peak_rss_bytes"]),
                seconds={str(stage): float(seconds) for stage, seconds in value["seconds"]},
                passed={str(stage): Passed(int(came), int(left)) for stage, came, left in value.get("passed", ())},
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            return None


def add_passed(sums: dict[str, Passed], more: Mapping[str, Passed]) -> None:
    """Add the counts of a split to sums by stage, which keep the order of the chain."""
    for stage, counts in more.items():
        so_far = sums.get(stage, Passed(0, 0))
        sums[stage] = Passed(so_far.came + counts.came, so_far.left + counts.left)


def commit_times(root: str, planned: int = 0) -> dict[int, float | None]:
    """Return the splits that have commit records and when they were committed, from one listing of the folder.

    Args:
        root: the dataset's folder.
        planned: how many splits there are, if known: a store is then asked for thousands of them at once.
    """
    folder = join(root, "shards")
    if not is_remote(root):
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry for entry in entries if entry.name.endswith(".commit.json")}
        except FileNotFoundError:
            return {}
        return {split: _local_time(found, split) for split in committed_splits(found)}
    items = Store(folder).children(split_prefixes(planned))
    return {split: _remote_time(items[commit_name(split)]) for split in committed_splits(items)}


def split_prefixes(planned: int) -> list[str]:
    """Return what the names of so many splits' files in `shards/` begin with, up to a thousand splits for each."""
    return [f"shard-{number:03d}" for number in range(min(-(-planned // 1000), 1000))]


def _local_time(entries: Mapping[str, "os.DirEntry[str]"], split: int) -> float | None:
    try:
        return entries[commit_name(split)].stat().st_mtime
    except FileNotFoundError:
        return None


def _remote_time(item: Mapping[str, Any]) -> float | None:
    """Return when an object was written; stores call it by different names."""
    for name in ("LastModified", "mtime", "updated", "created"):
        value = item.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            try:
                return datetime.fromisoformat(value).timestamp()
            except ValueError:
                continue
    return None


def read_many(folder: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """Yield the JSON files of a folder by name, one in memory at a time; those missing or damaged are left out.

    Remote ones are fetched `FETCHERS` at a time.
    """
    if not is_remote(folder):
        for name in names:
            if (value := _read_local(f"{folder}/{name}")) is not None:
                yield name, value
        return
    with ThreadPoolExecutor(FETCHERS) as pool:
        for some in batched(names, 8 * FETCHERS):
            for name, value in zip(some, pool.map(lambda name: read_json(join(folder, name)), some), strict=True):
                if value is not None:
                    yield name, value


def _read_local(path: str) -> Any:
    try:
        with open(path, "rb", buffering=0) as file:
            return _parsed(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return None


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except ValueError:
        return None
