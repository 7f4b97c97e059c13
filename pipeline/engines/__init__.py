"""The engines. Each only schedules splits over workers, fits on a screen or two, and holds no policy."""

from dataclasses import dataclass
from typing import Literal

from pipeline.job import Job

EngineName = Literal["local", "beam", "ray"]
ENGINES: tuple[EngineName, ...] = ("local", "beam", "ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What an engine is asked to do.

    Attributes:
        engine: which one.
        job: the job; it decides every byte.
        splits: splits to run, largest first.
        workers: how many splits run at once.
        options: the engine's own options, as the user gave them after `--`.
    """

    engine: EngineName
    job: Job
    splits: tuple[int, ...]
    workers: int
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {self.engine!r}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
