"""What a build will cost: what a sample showed (`pipeline/estimate_sample.py`), carried over to the whole plan.

CPU and bytes of audio grow with the audio, those of records with the records, and each split adds a constant of its
own. Wall time is the planned splits dealt to workers, longest first, as the engines deal them. All figures hold for
machines like this one, as busy as this one is now.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pipeline.drive import Progress
from pipeline.estimate_sample import Measured, measure, sample
from pipeline.folders import OwnedFolder
from pipeline.job import Limits
from pipeline.plan import Plan
from schemas.recipe import Recipe

TAR_END = 5632
"""Bytes that end a tar, on average: 1,024 of zeros, then up to a multiple of 10,240."""
FILES_ELSEWHERE = 15
"""Objects that are not a split's: dataset.json, recipe, shards.parquet, plan, artifacts, .nv-meta, report."""
REQUESTS = {"PUT": 2, "GET": 2, "HEAD": 8, "LIST": 6}
"""Requests of one split to an S3 server as `python -m benchmarks.scale_store` counts them: record, timing, looks."""
REQUESTS_OF_FILE = {"PUT": 1, "HEAD": 1}
"""Further ones for each file of a split. A file of more than 100 MB goes up in parts, each one more PUT."""
KEYS_PER_PAGE = 1000
POLL_SECONDS = 5.0
"""The driver lists `shards/` of an object store this often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the whole plan will cost; hours, bytes and requests.

    Attributes:
        lengths_known: whether every row has a length; else `audio_hours` are carried over from the sample too.
        cpu_hours: of the build's stages; `fit_cpu_hours` are added once.
        gpu_hours: hours that workers hold an accelerator, 0 without one.
        wall_hours: of the build with so many workers, `fit` left out.
        bytes, bytes_without_audio: of the dataset as the recipe says, and with store.audio off.
        requests: by kind, of a build on an object store, without those that read audio; `polling` are the LIST
            requests with which the driver follows it.
    """

    workers: int
    splits: int
    rows: int
    records: int
    audio_hours: float
    lengths_known: bool
    cpu_hours: float
    cpu_hours_by_stage: Mapping[str, float]
    relative_error: float | None
    fit_cpu_hours: float
    gpu_hours: float
    wall_hours: float
    bytes: int
    bytes_without_audio: int
    objects: int
    requests: Mapping[str, int]
    polling: int
    sample_audio_seconds: float

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def estimate(
    plan: Plan, recipe: Recipe, *, workers: int, limits: Limits, seconds: float, progress: Progress
) -> Estimate:
    """Measure a sample and say what the plan will cost.

    Args:
        plan: a plan that was written.
        recipe: the recipe it is built with.
        workers: how many splits run at once in the build that is estimated.
        limits: of the workers.
        seconds: about so much audio is measured.
        progress: told how far the sample is.

    Raises:
        EstimateFailed: if no row of the sample became a record.
    """
    rows = sample(plan, seconds)
    with _folder() as folder:
        measured = measure(rows, plan, recipe, folder, limits, progress)
    return project(measured, plan, recipe, workers)


def project(measured: Measured, plan: Plan, recipe: Recipe, workers: int) -> Estimate:
    """Carry what was measured over to the whole plan. A pure function."""
    # Where lengths are unknown, the sample tells how far the plan's sizes are from the truth.
    stretch = measured.audio_seconds / measured.planned_seconds if plan.unknown_seconds else 1.0
    sizes = [size * stretch for size in plan.sizes]
    audio, splits = sum(sizes), len(sizes)
    scale = audio / measured.audio_seconds if measured.audio_seconds else 0.0
    by_stage = {stage: seconds * scale / 3600 for stage, seconds in measured.stage_seconds.items()}
    pace = measured.wall_seconds / measured.audio_seconds if measured.audio_seconds else 0.0
    busy = min(workers, splits)
    wall = deal([size * pace for size in sizes], busy) + measured.overhead_seconds
    records = round(sum(plan.inputs) * measured.records / measured.rows)
    constant, each = measured.file_bytes
    beside = splits * (constant + TAR_END) + records * each
    bare = round(measured.other_bytes * scale + beside)
    fitted = min(audio, recipe.fit.max_hours * 3600) / measured.audio_seconds if measured.audio_seconds else 0.0
    pages = math.ceil(splits * measured.files / KEYS_PER_PAGE)
    return Estimate(
        workers=workers,
        splits=splits,
        rows=sum(plan.inputs),
        records=records,
        audio_hours=audio / 3600,
        lengths_known=not plan.unknown_seconds,
        cpu_hours=sum(by_stage.values()) + busy * measured.overhead_seconds / 3600,
        cpu_hours_by_stage=by_stage,
        relative_error=measured.relative_error,
        fit_cpu_hours=measured.fit_seconds * fitted / 3600,
        gpu_hours=audio * pace / 3600 if measured.on_gpu else 0.0,
        wall_hours=wall / 3600,
        bytes=bare + (round(measured.audio_bytes * scale) if recipe.store.audio else 0),
        bytes_without_audio=bare,
        objects=splits * measured.files + FILES_ELSEWHERE,
        requests={
            kind: splits * (count + REQUESTS_OF_FILE.get(kind, 0) * (measured.files - 1))
            for kind, count in REQUESTS.items()
        },
        # The folder fills evenly, so a listing has half its final pages on average.
        polling=math.ceil(wall / POLL_SECONDS * (1 + pages) / 2),
        sample_audio_seconds=measured.audio_seconds,
    )


def deal(seconds: Sequence[float], workers: int) -> float:
    """Return when the last of so many workers ends that take the longest split left whenever they are free."""
    free = [0.0] * max(1, workers)
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(free, free[0] + length)
    return max(free)


@contextmanager
def _folder() -> Iterator[str]:
    folder = OwnedFolder()  # if we are killed, the next run removes it
    try:
        yield str(folder.path)
    finally:
        folder.close()
