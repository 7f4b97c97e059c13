"""Cut a manifest into splits: the unit of scheduling, of commit and of resume.

Deterministic and independent of engine and worker count. Consecutive rows, a recording never divided, about
`hours_per_shard` of audio each. `splits.parquet` has one row group per split, so that a worker reads its own rows only.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.manifest import ManifestError, locate
from pipeline.removed import read_removed, root_of_rows
from pipeline.storage import join, publish_bytes, publish_json, read_json
from schemas.canonical import canonical_json
from schemas.clock import SAMPLE_RATE, Samples
from schemas.records import Utterance
from schemas.rejects import Reason, Reject
from schemas.tables import ROWS
from stages.audio_files import header_seconds

FORMAT = "interloom-plan/1"
AUTO_SPLITS = 16
AUTO_SECONDS = (30.0, 3600.0)

Row = Utterance | Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A planned folder.

    Attributes:
        root: folder that holds `plan.json` and `splits.parquet`.
        base: folder that relative audio paths start from.
        fingerprint: hash of the rows and of how they were cut.
        sizes: planned audio seconds of each split.
        inputs: number of rows of each split.
    """

    root: str
    base: str
    fingerprint: str
    sizes: tuple[float, ...]
    inputs: tuple[int, ...]

    @property
    def rows_path(self) -> str:
        return join(self.root, "splits.parquet")

    def largest_first(self, splits: Iterable[int]) -> list[int]:
        return sorted(splits, key=lambda split: (-self.sizes[split], split))


def seconds_of(rows: Sequence[Row], *, probe_threads: int = 8) -> list[float]:
    """Return each row's audio seconds: the manifest's duration, else what the file's header says, else 0."""
    unknown = {row.location for row in rows if isinstance(row, Utterance) and row.length is None}
    with ThreadPoolExecutor(probe_threads) as pool:
        probed = dict(zip(unknown, pool.map(_probe_seconds, unknown), strict=True))

    def one(row: Row) -> float:
        if isinstance(row, Reject):
            return 0.0
        if row.length is not None:
            return row.length / SAMPLE_RATE
        return max(0.0, probed[row.location] - row.offset / SAMPLE_RATE)

    return [one(row) for row in rows]


def _probe_seconds(location: str) -> float:
    if "://" in location or not os.path.isfile(location):
        return 0.0
    return header_seconds(location)


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
    total = sum(seconds)
    count = max(1, round(total / target_seconds(total, hours_per_shard)))
    splits: list[int] = []
    seen: set[str] = set()
    done, current, last = 0.0, 0, -1
    for recording, group in groupby(range(len(rows)), key=lambda i: _recording(rows, i)):
        members = list(group)
        if recording in seen:
            raise ManifestError(
                f"rows of recording {recording!r} do not follow each other (row {members[0]} is apart); "
                "sort the manifest by recording"
            )
        seen.add(recording)
        weight = sum(seconds[i] for i in members)
        wanted = int((done + weight / 2) / total * count) if total else 0
        current = min(max(current, wanted), last + 1)
        last = max(last, current)
        splits += [current] * len(members)
        done += weight
    return splits


def _recording(rows: Sequence[Row], index: int) -> str:
    """Return the recording of a row; a rejected row belongs to the row before it, so that it divides nothing."""
    while index >= 0:
        row = rows[index]
        if isinstance(row, Utterance):
            return row.recording
        index -= 1
    return "\0leading rejects"


def write_plan(root: str, base: str, rows: Sequence[Row], hours_per_shard: float | str) -> Plan:
    """Cut the rows and write `splits.parquet`, then `plan.json`."""
    seconds = seconds_of(rows)
    splits = cut(rows, seconds, hours_per_shard)
    count = splits[-1] + 1
    members: list[list[int]] = [[] for _ in range(count)]
    for index, split in enumerate(splits):
        members[split].append(index)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, ROWS, compression="zstd") as writer:
        for split, indices in enumerate(members):
            table = pa.Table.from_pylist([_to_row(rows[i], split) for i in indices], schema=ROWS)
            writer.write_table(table, row_group_size=max(1, len(indices)))
    data = buffer.getvalue()
    plan = Plan(
        root=root,
        base=base,
        fingerprint=_fingerprint(rows, splits),
        sizes=tuple(round(sum(seconds[i] for i in indices), 3) for indices in members),
        inputs=tuple(len(indices) for indices in members),
    )
    publish_bytes(data, plan.rows_path)
    info = {"base": base, "fingerprint": plan.fingerprint, "format": FORMAT, "inputs": plan.inputs, "sizes": plan.sizes}
    publish_json(info, join(root, "plan.json"))
    return plan


def _fingerprint(rows: Sequence[Row], splits: Sequence[int]) -> str:
    """Hash what the rows say and how they are cut, not how Parquet stores it."""
    found = hashlib.sha256()
    for row, split in zip(rows, splits, strict=True):
        found.update(canonical_json(_to_row(row, split)).encode())
    return found.hexdigest()[:16]


def read_plan(root: str) -> Plan | None:
    """Return the plan that lies in a folder, or None."""
    info = read_json(join(root, "plan.json"))
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        return None
    return Plan(
        root=root,
        base=info["base"],
        fingerprint=info["fingerprint"],
        sizes=tuple(info["sizes"]),
        inputs=tuple(info["inputs"]),
    )


def load_rows(rows_path: str, split: int, base: str) -> list[Row]:
    """Read one split's rows; those that `removed.jsonl` lists come as rejects.

    Raises:
        BadRemovedList: if that list is damaged.
    """
    removed = read_removed(root_of_rows(rows_path))
    with fsspec.open(rows_path, "rb") as file:
        table = pq.ParquetFile(file).read_row_group(split)
    return [removed.apply(_from_row(row, base)) for row in table.to_pylist()]


def all_rows(plan: Plan) -> Iterator[Row]:
    """Read the rows of every split in order."""
    for split in range(len(plan.inputs)):
        yield from load_rows(plan.rows_path, split, plan.base)


def _to_row(row: Row, split: int) -> dict[str, Any]:
    if isinstance(row, Reject):
        empty = {name: "" for name in ("audio", "text", "recording", "speaker", "language", "license", "source")}
        where = {"split": split, "index": -1, "key": row.key, "id": _storable(row.id), "offset": 0}
        return {**empty, **where, "reason": row.reason.value, "detail": row.detail}
    plain = ("index", "key", "id", "audio", "text", "recording", "offset", "length", "channel", "speaker", "language")
    return {
        "split": split,
        "license": row.license,
        "source": row.source,
        **{name: getattr(row, name) for name in plain},
    }


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
