"""What an estimate said beside what the build cost: the planner's error, for the summary of a run."""

from typing import Any

from jobs.amounts import duration, size
from pipeline.status import Status
from pipeline.storage import join, publish_json, read_json

KEPT = ("work", "estimate.json")


def keep(root: str, estimate: dict[str, Any]) -> None:
    """Keep an estimate beside the plan that it was made for, in place of an earlier one."""
    publish_json(estimate, join(root, *KEPT))


def compared(status: Status) -> str:
    """Return how far the estimate was off, or what it says while the build is not finished; "none" without one.

    CPU is that of the stages. Wall time goes from the start of the first split to the end of the last, pauses included.
    """
    found = read_json(join(status.root, *KEPT))
    try:
        wall, cpu = float(found["wall_hours"]) * 3600, sum(map(float, found["cpu_hours_by_stage"].values())) * 3600
        records, shards, workers = int(found["records"]), float(found["bytes"]), int(found["workers"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return "none"  # never made, or damaged: it may be deleted at any time
    whole = status.finished and status.counts.splits == len(status.timings) == status.planned
    if not whole:
        told = (
            f"CPU {duration(cpu)}, wall {duration(wall)} with {workers:,} workers, {records:,} records, {size(shards)}"
        )
        return f"{told}; compared when the build is finished"
    begun = min(timing.started for timing in status.timings)
    ended = max(timing.started + timing.wall for timing in status.timings)
    took, wrote = sum(status.stage_seconds.values()), status.counts.bytes
    parts = (
        f"CPU {duration(cpu)}, took {duration(took)}{_error(cpu, took)}",
        f"wall {duration(wall)} with {workers:,} workers, took {duration(ended - begun)}{_error(wall, ended - begun)}",
        f"records {records:,}, are {status.counts.records:,}{_error(records, status.counts.records)}",
        f"shards {size(shards)}, are {size(wrote)}{_error(shards, wrote)}",
    )
    return "; ".join(parts)


def _error(said: float, was: float) -> str:
    return f" ({said / was - 1:+.1%})" if was else ""
