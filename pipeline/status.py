"""How far a build is: read from commit records, and from what runs leave in `work/`. Writes nothing.

Only commit records decide what is done. `work/` may be deleted at any time and costs no more than details.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.build import planned
from pipeline.commit_form import commit_name
from pipeline.fit import load_artifacts
from pipeline.plan import Plan
from pipeline.status_files import Passed, Timing, add_passed, commit_times, read_many
from pipeline.storage import is_remote, join, list_names, read_json

LOOK_REMOTE = 500
"""Commit records, and timings, that one look fetches from an object store: each is a request."""
LOOK_LOCAL = 50_000
"""Commit records that one look reads from a local folder."""
LOOK_TIMINGS = 2000
"""Timings that one look reads from a local folder."""
RECENT = 100
"""Commits that the rate is taken from."""
PAUSE_SECONDS = 1800.0
"""A longer gap between two commits is taken for a pause, and the rate from what came after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A split that its last attempt could not do, and why."""

    split: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A record of a split in work that killed its worker."""

    split: int
    key: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Sums over commit records.

    Attributes:
        splits: how many commit records were read.
        bytes: of the files that they name.
        reasons: rejects by reason.
    """

    splits: int = 0
    inputs: int = 0
    records: int = 0
    rejects: int = 0
    bytes: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A look at a folder.

    Attributes:
        planned, inputs, audio_seconds: splits, rows and seconds of audio that are planned.
        committed, audio_seconds_done: those with a commit record; the seconds as planned.
        counts: from the commit records that were read.
        times: when splits were committed, in seconds since the epoch; empty where the store does not tell.
        rate: audio seconds per second of late, None before two commits.
        timings: of the splits whose timings were read.
        struck: records of splits in work that killed a worker.
    """

    root: str
    planned: int
    committed: int
    inputs: int
    audio_seconds: float
    audio_seconds_done: float
    fitted: bool
    finished: bool
    counts: Counts
    times: Mapping[int, float]
    rate: float | None
    timings: tuple[Timing, ...]
    failures: tuple[Failure, ...]
    struck: tuple[Strike, ...]

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to go at the recent rate; None where there is none."""
        left = max(0.0, self.audio_seconds - self.audio_seconds_done)
        return None if not self.rate else left / self.rate

    @property
    def stage_seconds(self) -> dict[str, float]:
        """CPU seconds by stage over the timings that were read, in the order of the chain."""
        costs: dict[str, float] = {}
        for timing in self.timings:
            for stage, seconds in timing.seconds.items():
                costs[stage] = costs.get(stage, 0.0) + seconds
        return costs

    @property
    def stage_passed(self) -> dict[str, Passed]:
        """Records that came into each stage and that left it, over the same timings and in the same order."""
        sums: dict[str, Passed] = {}
        for timing in self.timings:
            add_passed(sums, timing.passed)
        return sums


class SplitCounts(NamedTuple):
    """What one commit record counts; `size` are the bytes of the files that it names."""

    inputs: int
    records: int
    rejects: int
    size: int
    reasons: tuple[tuple[str, int], ...]


class Observer:
    """Looks at one folder again and again; what it has read it does not read again.

    Memory: a few hundred bytes for each split.
    """

    def __init__(self, root: str, *, everything: bool = False) -> None:
        """Start observing.

        Args:
            root: the dataset's folder.
            everything: read every commit record and timing, whatever it costs.

        Raises:
            PlanError: if there is no plan.
        """
        self._root, self._everything = root, everything
        self._plan = planned(root)
        self._counts: dict[int, SplitCounts] = {}
        self._timings: dict[int, Timing] = {}

    def look(self) -> Status:
        root, plan = self._root, self._plan
        times = {s: t for s, t in commit_times(root, len(plan.sizes)).items() if s < len(plan.sizes)}
        self._read_commits(set(times))
        self._read_timings(set(times))
        known = {split: time for split, time in times.items() if time is not None}
        return Status(
            root=root,
            planned=len(plan.sizes),
            committed=len(times),
            inputs=sum(plan.inputs),
            audio_seconds=sum(plan.sizes),
            audio_seconds_done=sum(plan.sizes[split] for split in times),
            fitted=load_artifacts(root) is not None,
            finished=read_json(join(root, "dataset.json")) is not None,
            counts=self._sums(),
            times=known,
            rate=recent_rate(plan, known),
            timings=tuple(self._timings[split] for split in sorted(self._timings)),
            failures=_failures(root),
            struck=_struck(root),
        )

    def _read_commits(self, committed: set[int]) -> None:
        for split in set(self._counts) - committed:  # a repair took it back
            del self._counts[split]
        limit = LOOK_REMOTE if is_remote(self._root) else LOOK_LOCAL
        chosen = self._chosen(committed - set(self._counts), limit)
        names = {commit_name(split): split for split in chosen}
        for name, record in read_many(join(self._root, "shards"), names):
            counts = _counts_of(record)
            if counts is not None:
                self._counts[names[name]] = counts

    def _read_timings(self, committed: set[int]) -> None:
        limit = LOOK_REMOTE if is_remote(self._root) else LOOK_TIMINGS
        names = {f"{split:06d}.json": split for split in self._chosen(committed - set(self._timings), limit)}
        for name, value in read_many(join(self._root, "work", "timings"), names):
            timing = Timing.of(value)
            if timing is not None:
                self._timings[names[name]] = timing

    def _chosen(self, splits: set[int], limit: int) -> list[int]:
        """Return splits to read now: all, or so many of them, evenly over their numbers."""
        ordered = sorted(splits)
        if self._everything or len(ordered) <= limit:
            return ordered
        return [ordered[i * len(ordered) // limit] for i in range(limit)]

    def _sums(self) -> Counts:
        reasons: Counter[str] = Counter()
        every = self._counts.values()
        for counts in every:
            reasons.update(dict(counts.reasons))
        return Counts(
            splits=len(self._counts),
            inputs=sum(counts.inputs for counts in every),
            records=sum(counts.records for counts in every),
            rejects=sum(counts.rejects for counts in every),
            bytes=sum(counts.size for counts in every),
            reasons=dict(reasons.most_common()),
        )


def _counts_of(record: Any) -> SplitCounts | None:
    try:
        reasons = tuple((str(reason), int(count)) for reason, count in record["reasons"].items())
        size = sum(int(file["bytes"]) for file in record["files"].values())
        return SplitCounts(int(record["inputs"]), int(record["records"]), int(record["rejects"]), size, reasons)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def recent_rate(plan: Plan, times: Mapping[int, float]) -> float | None:
    """Return the audio seconds per second of the last `RECENT` commits since the last pause, None before two."""
    newest = sorted(((time, split) for split, time in times.items()), reverse=True)[:RECENT]
    for position in range(1, len(newest)):
        if newest[position - 1][0] - newest[position][0] > PAUSE_SECONDS:
            newest = newest[:position]
            break
    span = newest[0][0] - newest[-1][0] if newest else 0.0
    if span <= 0:
        return None
    # The first of them marks the beginning: its own work lies before it.
    return sum(plan.sizes[split] for _, split in newest[:-1]) / span


def _failures(root: str) -> tuple[Failure, ...]:
    folder = join(root, "work", "failed")
    return tuple(
        Failure(split=value["split"], error=str(value.get("error")))
        for _, value in read_many(folder, sorted(list_names(folder)))
        if isinstance(value, dict) and isinstance(value.get("split"), int)
    )


def _struck(root: str) -> tuple[Strike, ...]:
    folder = join(root, "work", "strikes")
    found: list[Strike] = []
    for name, value in read_many(folder, sorted(list_names(folder))):
        strikes = value.get("strikes") if isinstance(value, dict) else None
        if isinstance(strikes, dict) and name[:6].isdigit():
            split = int(name.partition(".")[0])
            found += [Strike(split=split, key=key, count=int(count)) for key, count in sorted(strikes.items())]
    return tuple(found)
