"""A sample of a plan, run through the real chain in a temporary folder, and what it showed."""

import math
import resource
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.build import RunSettings, build_job
from pipeline.commit import commit_path
from pipeline.doctor import examine
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.fit import fit
from pipeline.job import Limits
from pipeline.plan import UNKNOWN_SECONDS, Plan, lengths_of, load_rows, seconds_of, write_plan
from pipeline.status_files import Timing, read_many
from pipeline.storage import join
from schemas.canonical import sha256_hex
from schemas.recipe import Recipe
from schemas.records import Utterance

LOOKED_AT = 64
"""Planned splits that the sample's rows come from, at most."""
SAMPLE_SPLITS = 8
"""Splits that the sample is cut into: how far they differ says how far the estimate may be off."""


class EstimateFailed(ValueError):
    """Nothing can be measured; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the sample showed.

    Attributes:
        rows, records, audio_seconds: of the sample; the audio as decoded.
        planned_seconds: what the plan took the sample's rows for.
        stage_seconds: CPU seconds by stage.
        relative_error: half width of the 95 % interval of CPU per audio second over the sample's splits, as a share;
            None with fewer than two splits.
        wall_seconds: of all splits, added up.
        overhead_seconds: CPU seconds of starting and of everything outside the stages.
        fit_seconds: CPU seconds of `fit` on the sample.
        audio_bytes, other_bytes: of the shards' members, headers included: FLAC, and all others.
        file_bytes: bytes beside the tars: a constant for each split, and for each record.
        files: objects of one split, its commit record included.
        on_gpu: whether a stage runs on CUDA.
    """

    rows: int
    records: int
    audio_seconds: float
    planned_seconds: float
    stage_seconds: Mapping[str, float]
    relative_error: float | None
    wall_seconds: float
    overhead_seconds: float
    fit_seconds: float
    audio_bytes: int
    other_bytes: int
    file_bytes: tuple[float, float]
    files: int
    on_gpu: bool


def sample(plan: Plan, seconds: float) -> list[Utterance]:
    """Choose rows by the hash of their keys from splits chosen by the hash of their numbers; in manifest order."""
    order = sorted(range(len(plan.sizes)), key=lambda split: sha256_hex(f"{plan.fingerprint}:{split}".encode()))
    chosen: list[Utterance] = []
    looked = order[:LOOKED_AT]
    for split in sorted(looked):
        found = [row for row in load_rows(plan.rows_path, split, plan.base) if isinstance(row, Utterance)]
        lengths = dict(zip((row.key for row in found), weights(plan, found), strict=True))
        budget, some = seconds / len(looked), set[str]()
        for key in sorted(lengths, key=lambda key: sha256_hex(key.encode())):
            if budget <= 0:
                break
            some.add(key)
            budget -= lengths[key]
        chosen += [row for row in found if row.key in some]
    return chosen


def weights(plan: Plan, rows: Sequence[Utterance]) -> list[float]:
    """Return the audio seconds that a plan takes rows for."""
    return seconds_of(rows, plan.max_seconds, plan.unknown_seconds or UNKNOWN_SECONDS)


def measure(
    rows: Sequence[Utterance], plan: Plan, recipe: Recipe, folder: str, limits: Limits, progress: Progress
) -> Measured:
    """Fit and build the sample on this machine, a split at a time, and measure it. Audio is always stored."""
    if not rows:
        raise EstimateFailed("the plan has no usable row, so nothing can be measured")
    if not plan.unknown_seconds and None in lengths_of(rows):
        raise EstimateFailed(
            f"{plan.root} was made by an earlier version, which took rows of unknown length for nothing, so nothing "
            "can be carried over; plan into another --out"
        )
    planned = sum(weights(plan, rows))
    kept = recipe.model_copy(update={"store": recipe.store.model_copy(update={"audio": True})})
    hours = planned / 3600 / SAMPLE_SPLITS
    small = write_plan(join(folder, "plan"), plan.base, rows, hours or "auto", plan.max_seconds)
    engine = EngineSettings(engine="local", workers=1)
    before = _cpu()
    artifacts = fit(folder, small, kept, engine, limits, progress)
    fitted = _cpu()
    job = build_job(kept, small, artifacts, RunSettings(out=folder, engine=engine, limits=limits))
    records = drive(job, small, engine, progress)
    spent = _cpu() - fitted
    if not sum(record["records"] for record in records.values()):
        raise EstimateFailed("every row of the sample was rejected: " + _reasons(records))
    names = [f"{split:06d}.json" for split in records]
    found = read_many(join(folder, "work", "timings"), names)
    timings = [timing for _, value in found if (timing := Timing.of(value)) is not None]
    flac, other = _members(folder, records)
    stages: dict[str, float] = {}
    for timing in timings:
        for stage, value in timing.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + value
    return Measured(
        rows=len(rows),
        records=sum(record["records"] for record in records.values()),
        audio_seconds=sum(timing.audio_seconds for timing in timings),
        planned_seconds=planned,
        stage_seconds=stages,
        relative_error=relative_error([(timing.audio_seconds, sum(timing.seconds.values())) for timing in timings]),
        wall_seconds=sum(timing.wall for timing in timings),
        overhead_seconds=max(0.0, spent - sum(stages.values())),
        fit_seconds=fitted - before,
        audio_bytes=flac,
        other_bytes=other,
        file_bytes=_beside(folder, records),
        files=1 + max(len(record["files"]) for record in records.values()),
        on_gpu=any(part.device.startswith("cuda") for part in examine(recipe, limits.device).parts),
    )


def relative_error(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return the half width of the 95 % interval of a ratio of sums, as a share of the ratio.

    Args:
        pairs: for each split, audio seconds and CPU seconds.
    """
    count, audio, cost = len(pairs), sum(a for a, _ in pairs), sum(c for _, c in pairs)
    if count < 2 or not audio or not cost:
        return None
    ratio = cost / audio
    variance = sum((c - ratio * a) ** 2 for a, c in pairs) / (count - 1)
    return 1.96 * math.sqrt(variance / count) / (cost / count)


def _members(folder: str, records: Mapping[int, Any]) -> tuple[int, int]:
    """Return the bytes of the FLAC members and of all others, headers and padding included."""
    flac = other = 0
    for split in records:
        with tarfile.open(join(folder, "shards", f"shard-{split:06d}.tar")) as tar:
            for info in tar:
                size = tarfile.BLOCKSIZE * (1 + -(-info.size // tarfile.BLOCKSIZE))
                if info.name.endswith(".flac"):
                    flac += size
                else:
                    other += size
    return flac, other


def _beside(folder: str, records: Mapping[int, Any]) -> tuple[float, float]:
    """Return the bytes beside the tars as a constant for each split and a share for each record.

    The table of statistics has both: it is written once more for all splits together, and the two sizes tell which is
    which.
    """
    count, number = sum(record["records"] for record in records.values()), len(records)
    tables = [Path(folder) / "shards" / f"shard-{split:06d}.stats.parquet" for split in records]
    apart = sum(table.stat().st_size for table in tables)
    together = Path(folder) / "together.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(table) for table in tables]), together, compression="zstd")
    constant = (apart - together.stat().st_size) / (number - 1) if number > 1 else 0.0
    each = max(0.0, (apart - number * constant) / count)
    rejects = sum(record["files"][f"rejects-{split:06d}.jsonl"]["bytes"] for split, record in records.items())
    commits = sum(Path(commit_path(folder, split)).stat().st_size for split in records) / number
    offset = 8
    return constant + commits + offset, each + offset + rejects / count


def _reasons(records: Mapping[int, Any]) -> str:
    found = {reason for record in records.values() for reason in record["reasons"]}
    return ", ".join(sorted(found))


def _cpu() -> float:
    """Return the CPU seconds of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
