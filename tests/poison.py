"""A test-only stage that does to its worker what bad data can do, and a tiny chain around it."""

import ctypes
import os
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
    segfault: tuple[str, ...] = ()
    prints: tuple[str, ...] = ()
    """Keys that print without end."""
    forks: tuple[str, ...] = ()
    """Keys that fork processes in sessions of their own, which survive them."""
    starved: tuple[str, ...] = ()
    """Keys that meet a MemoryError."""
    breaks: tuple[str, ...] = ()
    """Keys from which on an accelerator fails at everything, until its process is started anew."""
    disk_full: tuple[str, ...] = ()
    seconds: float = 0.0
    """Time spent on every record."""
    diary: str = ""
    """Receives a line for every record worked on."""
    setup_seconds: float = 0.0
    """Time that loading takes."""

    def setup(self) -> "Poison":
        time.sleep(self.setup_seconds)
        return Poison(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaterConfig(PoisonConfig):
    """The same under another name, for a chain of two."""

    name: ClassVar[str] = "later"


class Poison:
    def __init__(self, config: PoisonConfig) -> None:
        self._config = config
        self._broken = False

    def process(self, batch: Sequence[Any]) -> list[Any]:
        for item in batch:
            self._suffer(item.key if hasattr(item, "key") else item.clip.utterance.key)
        return list(batch)

    def _suffer(self, key: str) -> None:
        config = self._config
        time.sleep(config.seconds)
        if config.diary:
            note(config.diary, key)
        if key in config.abort:
            os.abort()
        if key in config.segfault:
            ctypes.string_at(0)
        if key in config.prints:
            while True:
                os.write(1, b"poison " * 10_000)
        if key in config.forks:
            fork_survivors(200)
        if key in config.hang:
            time.sleep(3600)
        if key in config.raises:
            raise ZeroDivisionError(f"poison at {time.time()}")
        if key in config.starved:
            raise MemoryError
        self._broken = self._broken or key in config.breaks
        if self._broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if key in config.disk_full:
            raise OSError(28, "No space left on device")
        if key in config.hoard:
            held = []
            while True:
                held.append(bytearray(b"x") * 10_000_000)
                time.sleep(0.001)


def note(diary: str, key: str) -> None:
    descriptor = os.open(diary, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{key}\n".encode())
    finally:
        os.close(descriptor)


def fork_survivors(count: int) -> None:
    """Fork processes that leave our session and our family, and sleep; then work on as if nothing had happened."""
    for _ in range(count):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(3600)
            os._exit(0)
    time.sleep(3600)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesConfig:
    """A sink that writes a line per outcome, and may die when it is done with all of them."""

    dies_on: int = -1
    slow_seconds: float = 0.0
    loses: int = 0
    """Records that it counts as rejects."""
    large: int = 0
    """Bytes that it adds to the file of every fourth split."""

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
        large = self._config.large if split % 4 == 3 else 0
        (folder / f"lines-{split:06d}.txt").write_text("".join(lines) + "." * large)
        time.sleep(self._config.slow_seconds)
        if split == self._config.dies_on:
            os.abort()
        rejects += self._config.loses
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
    root: Path | str,
    poison: Any,
    *,
    batch: int = 4,
    record_seconds: float = 1.0,
    max_rss_bytes: int = 2**32,
    count: int = 24,
    strikes: int = 2,
) -> tuple[Job, Plan]:
    """Plan utterances into splits of four and return a job of the poison stage and the line sink over them."""
    plan = write_plan(f"{root}/plan", "/nowhere", utterances(count), 40 / 3600)
    limits = Limits(record_seconds=record_seconds, strikes=strikes, batch_records=batch, max_rss_bytes=max_rss_bytes)
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
