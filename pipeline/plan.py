"""Cut a manifest into splits: the unit of scheduling, of commit and of resume.

Deterministic and independent of engine and worker count. Consecutive rows, a recording never divided, about
`hours_per_shard` of audio each. `splits.parquet` has one row group per split, so that a worker reads its own rows only;
from 256 splits on, further files follow it (`pipeline/plan_files.py`).
"""

import gc
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, repeat
from operator import attrgetter
from typing import Any

import fsspec
import pyarrow.parquet as pq
from pydantic import ValidationError

from pipeline.distinct import Distinct
from pipeline.folders import OwnedFolder
from pipeline.manifest import ManifestError, locate
from pipeline.plan_files import SPLITS_PER_FILE, SPOOLED, RowsWriter, Spool, batched, rows_file, rows_files
from pipeline.removed import read_removed, root_of_rows
from pipeline.storage import join, publish_json, read_bytes
from schemas.clock import SAMPLE_RATE, Samples
from schemas.descriptions import PlanDescription
from schemas.records import Utterance
from schemas.rejects import Reason, Reject
from stages.audio_files import header_seconds

FORMAT = "interloom-plan/1"
AUTO_SPLITS = 16
AUTO_SECONDS = (30.0, 3600.0)
UNKNOWN_SECONDS = 10.0
"""What a row is taken for whose length neither the manifest nor a header on this machine states: the rows of URLs that
come without a duration, above all. With nothing, all of them would make one split."""
SPOOLED_ROWS = 20_000
"""Rows in hand at a time while a manifest is read."""

_SAID = attrgetter(*SPOOLED[:-2])  # all but the reason and the detail of a reject

Row = Utterance | Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planned folder.

    Attributes:
        root: folder that holds `plan.json` and the rows.
        base: folder that relative audio paths start from.
        fingerprint: hash of the rows and of how they were cut.
        sizes: planned audio seconds of each split.
        inputs: number of rows of each split.
        max_seconds: what a row was taken for at most when the splits were cut.
        unknown_seconds: what each row was taken for whose length nobody states; 0 where there is none.
    """

    root: str
    base: str
    fingerprint: str
    sizes: tuple[float, ...]
    inputs: tuple[int, ...]
    max_seconds: float = math.inf
    unknown_seconds: float = 0.0

    @property
    def rows_path(self) -> str:
        """The first file of rows; see `rows_file`."""
        return join(self.root, "splits.parquet")

    def largest_first(self, splits: Iterable[int]) -> list[int]:
        return sorted(splits, key=lambda split: (-self.sizes[split], split))


def lengths_of(rows: Sequence[Row], *, probe_threads: int = 8) -> list[float | None]:
    """Return each row's audio seconds: the manifest's duration, else what the file's header says, else None.

    A local file that is not there has 0, and so has a rejected row. Nothing is asked of a server or a store.

    Args:
        rows: rows of a manifest.
        probe_threads: headers that are read at once.
    """
    unstated = {row.location for row in rows if isinstance(row, Utterance) and row.length is None}
    with ThreadPoolExecutor(probe_threads) as pool:
        probed = dict(zip(unstated, pool.map(_probe_seconds, unstated), strict=True))

    def one(row: Row) -> float | None:
        if isinstance(row, Reject):
            return 0.0
        if row.length is not None:
            return row.length / SAMPLE_RATE
        whole = probed[row.location]
        return None if whole is None else max(0.0, whole - row.offset / SAMPLE_RATE)

    return [one(row) for row in rows]


def seconds_of(
    rows: Sequence[Row], max_seconds: float = math.inf, unknown_seconds: float = UNKNOWN_SECONDS
) -> list[float]:
    """Return what each row weighs, in audio seconds.

    Args:
        rows: rows of a manifest.
        max_seconds: a row that says more weighs this much: it will be rejected as `too_long`.
        unknown_seconds: weight of a row whose length nobody states.
    """
    return _weights(lengths_of(rows), max_seconds, unknown_seconds)


def _weights(lengths: Sequence[float | None], max_seconds: float, unknown_seconds: float) -> list[float]:
    return [min(max_seconds, unknown_seconds if length is None else length) for length in lengths]


def _probe_seconds(location: str) -> float | None:
    if "://" in location:
        return None
    return (header_seconds(location) or None) if os.path.isfile(location) else 0.0


def target_seconds(total: float, hours_per_shard: float | str) -> float:
    """Return the audio seconds aimed at per split; `auto` depends on the manifest's total alone."""
    if hours_per_shard == "auto":
        low, high = AUTO_SECONDS
        return min(high, max(low, total / AUTO_SPLITS))
    return float(hours_per_shard) * 3600.0


def cut(rows: Sequence[Row], seconds: Sequence[float], hours_per_shard: float | str) -> list[int]:
    """Return each row's split: consecutive, balanced by duration, a recording never divided.

    Raises:
        ManifestError: if the rows of a recording do not follow each other.
    """
    pairs = (
        (row.recording if isinstance(row, Utterance) else None, weight)
        for row, weight in zip(rows, seconds, strict=True)
    )
    return list(assign(pairs, sum(seconds), hours_per_shard))


def assign(pairs: Iterable[tuple[str | None, float]], total: float, hours_per_shard: float | str) -> Iterator[int]:
    """Yield each row's split, a recording at a time, in memory that does not grow with the rows.

    Args:
        pairs: each row's recording and audio seconds; a rejected row, which has None, belongs to the row before it, so
            that it divides nothing.
        total: the sum of the seconds.
        hours_per_shard: audio aimed at per split, or `auto`.

    Raises:
        ManifestError: if the rows of a recording do not follow each other.
    """
    count = max(1, round(total / target_seconds(total, hours_per_shard)))
    seen = Distinct()
    done, current, last, first = 0.0, 0, -1, 0
    for recording, weights in _grouped(pairs):
        if not seen.add(recording):
            raise ManifestError(
                f"rows of recording {recording!r} do not follow each other (row {first} is apart); "
                "sort the manifest by recording"
            )
        weight = sum(weights)
        wanted = int((done + weight / 2) / total * count) if total else 0
        current = min(max(current, wanted), last + 1)
        last = max(last, current)
        yield from repeat(current, len(weights))
        done += weight
        first += len(weights)


def _grouped(pairs: Iterable[tuple[str | None, float]]) -> Iterator[tuple[str, list[float]]]:
    """Yield each stretch of rows of one recording with their seconds."""
    name, weights = "\0leading rejects", list[float]()
    for recording, seconds in pairs:
        if recording is not None and recording != name:
            if weights:
                yield name, weights
            name, weights = recording, []
        weights.append(seconds)
    if weights:
        yield name, weights


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Keep the interpreter from looking for cycles, of which planning makes none: a fifth of the time for many rows."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_search_for_cycles()
def write_plan(
    root: str,
    base: str,
    rows: Iterable[Row],
    hours_per_shard: float | str,
    max_seconds: float = math.inf,
    unknown_seconds: float = UNKNOWN_SECONDS,
) -> Plan:
    """Cut the rows and write them, then `plan.json`.

    One row weighs `max_seconds` at most, whatever the manifest or a header says of it, and `unknown_seconds` where
    neither says anything.

    Rows are taken once and in order; memory holds some thousands of them at a time and one split. Temporary files take
    about as much room as the plan.

    Raises:
        ManifestError: if there is no row, or the rows of a recording do not follow each other.
    """
    folder, unknown = OwnedFolder(), 0.0
    try:
        with Spool(folder.path) as spool:
            for chunk in batched(rows, SPOOLED_ROWS):
                lengths = lengths_of(chunk)
                unknown = unknown_seconds if None in lengths else unknown
                spool.add([_to_row(row) for row in chunk], _weights(lengths, max_seconds, unknown_seconds))
        if not spool.count:
            raise ManifestError("there is no row to plan")
        splits = assign(spool.recordings(), spool.total, hours_per_shard)
        writer = RowsWriter(root, folder.path)
        for table, seconds in spool.tables():
            writer.add(table, seconds, list(islice(splits, len(seconds))))
        writer.close()
    finally:
        folder.close()
    plan = Plan(
        root=root,
        base=base,
        fingerprint=writer.fingerprint,
        sizes=tuple(round(size, 3) for size in writer.sizes),
        inputs=tuple(writer.inputs),
        max_seconds=max_seconds,
        unknown_seconds=unknown,
    )
    info = {"base": base, "fingerprint": plan.fingerprint, "format": FORMAT, "inputs": plan.inputs, "sizes": plan.sizes}
    limits = {"max_seconds": max_seconds} if math.isfinite(max_seconds) else {}
    limits |= {"unknown_seconds": unknown} if unknown else {}
    publish_json(info | limits, join(root, "plan.json"))
    return plan


def read_plan(root: str) -> Plan | None:
    """Return the plan that lies in a folder, or None where it is missing or damaged."""
    data = read_bytes(join(root, "plan.json"))
    if data is None:
        return None
    try:
        info = PlanDescription.model_validate_json(data)
    except ValidationError:
        return None
    return Plan(
        root=root,
        base=info.base,
        fingerprint=info.fingerprint,
        sizes=info.sizes,
        inputs=info.inputs,
        max_seconds=math.inf if info.max_seconds is None else info.max_seconds,
        unknown_seconds=info.unknown_seconds,
    )


def load_rows(rows_path: str, split: int, base: str) -> list[Row]:
    """Read one split's rows; those that `removed.jsonl` lists come as rejects.

    Raises:
        BadRemovedList: if that list is damaged.
    """
    removed = read_removed(root_of_rows(rows_path))
    with fsspec.open(rows_file(rows_path, split), "rb") as file:
        table = pq.ParquetFile(file).read_row_group(split % SPLITS_PER_FILE)
    return [removed.apply(_from_row(row, base)) for row in table.to_pylist()]


def all_rows(plan: Plan) -> Iterator[Row]:
    """Read the rows of every split in order, each file opened once.

    Raises:
        BadRemovedList: if `removed.jsonl` is damaged.
    """
    removed = read_removed(root_of_rows(plan.rows_path))
    for path in rows_files(plan.rows_path, len(plan.inputs)):
        with fsspec.open(path, "rb") as file:
            table = pq.ParquetFile(file)
            for group in range(table.num_row_groups):
                for row in table.read_row_group(group).to_pylist():
                    yield removed.apply(_from_row(row, plan.base))


def _to_row(row: Row) -> tuple[Any, ...]:
    """Return the values of a row in the order of `SPOOLED`."""
    if isinstance(row, Utterance):
        return (*_SAID(row), None, None)
    said = {"index": -1, "key": row.key, "id": _storable(row.id), "offset": 0, "length": None, "channel": None}
    return (*(said.get(name, "") for name in SPOOLED[:-2]), row.reason.value, row.detail)


def _storable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _from_row(row: dict[str, Any], base: str) -> Row:
    if row["reason"] is not None:
        return Reject(key=row["key"], id=row["id"], stage="plan", reason=Reason(row["reason"]), detail=row["detail"])
    return Utterance(
        key=row["key"],
        id=row["id"],
        audio=row["audio"],
        location=locate(row["audio"], base),
        text=row["text"],
        recording=row["recording"],
        index=row["index"],
        offset=Samples(row["offset"]),
        length=None if row["length"] is None else Samples(row["length"]),
        channel=row["channel"],
        speaker=row["speaker"],
        language=row["language"],
        license=row["license"],
        source=row["source"],
    )
