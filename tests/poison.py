"""A test-only stage that does to its worker what bad data can do, and a tiny chain around it."""

import os
import signal
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.job import Job, Limits
from pipeline.plan import Plan, write_plan
from schemas.records import Utterance
from schemas.rejects import Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class PoisonConfig:
    """Passes everything through, and misbehaves on chosen keys."""

    name: ClassVar[str] = "poison"
    version: ClassVar[int] = 1

    abort: tuple[str, ...] = ()
    hang: tuple[str, ...] = ()
    raises: tuple[str, ...] = ()
    hoard: tuple[str, ...] = ()
    """Keys that allocate without end."""
    disk_full: tuple[str, ...] = ()
    seconds: float = 0.0
    """Time spent on every record."""

    def setup(self) -> "Poison":
        return Poison(self)


class Poison:
    def __init__(self, config: PoisonConfig) -> None:
        self._config = config

    def process(self, batch: Sequence[Any]) -> list[Any]:
        for item in batch:
            self._suffer(item.key if hasattr(item, "key") else item.clip.utterance.key)
        return list(batch)

    def _suffer(self, key: str) -> None:
        config = self._config
        time.sleep(config.seconds)
        if key in config.abort:
            os.abort()
        if key in config.hang:
            time.sleep(3600)
        if key in config.raises:
            raise ZeroDivisionError(f"poison at {time.time()}")
        if key in config.disk_full:
            raise OSError(28, "No space left on device")
        if key in config.hoard:
            held = []
            while True:
                held.append(bytearray(b"x") * 10_000_000)
                time.sleep(0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesConfig:
    """A sink that writes a line per outcome, and may die when it is done with all of them."""

    dies_on: int = -1
    slow_seconds: float = 0.0

    def setup(self) -> "Lines":
        return Lines(self)


class Lines:
    def __init__(self, config: LinesConfig) -> None:
        self._config = config

    def write(self, split: int, outcomes: Iterable[Any], folder: Path) -> dict[str, Any]:
        lines, rejects = [], 0
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                rejects += 1
                lines.append(f"- {outcome.key} {outcome.reason} {outcome.detail}\n")
            else:
                lines.append(f"+ {outcome.key}\n")
        (folder / f"lines-{split:06d}.txt").write_text("".join(lines))
        time.sleep(self._config.slow_seconds)
        if split == self._config.dies_on:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"inputs": len(lines), "records": len(lines) - rejects, "rejects": rejects, "reasons": {}}


def utterances(count: int, per_recording: int = 4) -> list[Utterance]:
    """Rows that name no real file: for chains that never decode."""
    return [
        Utterance(
            key=f"u{i:03d}",
            id=f"u{i:03d}",
            audio=f"u{i:03d}.wav",
            location=f"/nowhere/u{i:03d}.wav",
            text=f"utterance {i}",
            recording=f"r{i // per_recording}",
            index=i,
            length=16_000 * 10,
        )
        for i in range(count)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenConfig:
    """A stage whose model is not there."""

    name: ClassVar[str] = "broken"
    version: ClassVar[int] = 1

    def setup(self) -> Poison:
        raise FileNotFoundError("no such model")


def job_for(
    root: Path,
    poison: Any,
    *,
    batch: int = 4,
    record_seconds: float = 1.0,
    max_rss_bytes: int = 2**32,
) -> tuple[Job, Plan]:
    """Plan 24 utterances into 6 splits and return a job of the poison stage and the line sink over them."""
    plan = write_plan(str(root / "plan"), "/nowhere", utterances(24), 40 / 3600)
    limits = Limits(record_seconds=record_seconds, strikes=2, batch_records=batch, max_rss_bytes=max_rss_bytes)
    job = Job(
        root=str(root),
        rows_path=plan.rows_path,
        base=plan.base,
        fingerprint="test",
        steps=(poison,),
        sink=LinesConfig(),
        limits=limits,
    )
    return job, plan
