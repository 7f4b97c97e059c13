"""The files that a status is read from: commit records and their times, timings, small JSON files by the thousand."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
import orjson

from pipeline.commit import committed_splits
from pipeline.storage import is_remote, join
from pipeline.stores import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one split cost, from `work/timings/`; times in seconds, `started` since the epoch."""

    split: int
    audio_seconds: float
    wall: float
    started: float
    peak_rss_bytes: int
    seconds: Mapping[str, float]

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
            )
        except (KeyError, TypeError, ValueError):
            return None


def commit_times(root: str) -> dict[int, float | None]:
    """Return the splits that have commit records and when they were committed, from one listing of the folder."""
    folder = join(root, "shards")
    if not is_remote(root):
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry for entry in entries if entry.name.endswith(".commit.json")}
        except FileNotFoundError:
            return {}
        return {split: _local_time(found, split) for split in committed_splits(found)}
    items = Store(folder).children()
    return {split: _remote_time(items[f"shard-{split:06d}.commit.json"]) for split in committed_splits(items)}


def _local_time(entries: Mapping[str, "os.DirEntry[str]"], split: int) -> float | None:
    try:
        return entries[f"shard-{split:06d}.commit.json"].stat().st_mtime
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


def read_many(folder: str, names: Iterable[str]) -> dict[str, Any]:
    """Read JSON files of a folder; those missing or damaged are left out. Remote ones are fetched concurrently."""
    wanted = list(names)
    if not is_remote(folder):
        return {name: value for name in wanted if (value := _read_local(f"{folder}/{name}")) is not None}
    if not wanted:
        return {}
    filesystem, key = fsspec.core.url_to_fs(folder)
    fetched = filesystem.cat([f"{key}/{name}" for name in wanted], on_error="omit")
    parsed = {path.rsplit("/", 1)[-1]: _parsed(data) for path, data in fetched.items()}
    return {name: value for name, value in parsed.items() if value is not None}


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
