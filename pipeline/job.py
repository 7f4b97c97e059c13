"""A job: what to do with every split of a plan. Picklable; this and a split's number are all that travels."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.base import StageConfig

Outcome = Any
"""A record of the chain's last type, or a Reject."""


class Sink(Protocol):
    """Turns the outcomes of one split into files."""

    def write(self, split: int, outcomes: Iterable[Outcome], folder: Path) -> dict[str, Any]:
        """Write the split's files into a scratch folder and return facts for the commit record.

        The files and the facts are pure functions of the split number and the outcomes.
        """


class SinkConfig(Protocol):
    """Frozen and picklable, like a stage's config."""

    def setup(self) -> Sink: ...


class Origin(Protocol):
    """Gives the outcomes of a split that has no rows."""

    def outcomes(self, split: int) -> Iterator[Outcome]:
        """Yield them in order; a pure function of the split number."""


class OriginConfig(Protocol):
    """Frozen and picklable, like a stage's config."""

    def setup(self) -> Origin: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a worker may use. None of it changes a byte of the output.

    Attributes:
        record_seconds: a batch may stand still this long for every record in it before its worker is killed.
        setup_seconds: loading the models may take this long, and so may a sink or a commit.
        split_seconds: one attempt at a split may take this long.
        max_rss_bytes: a worker that outgrows this, with all that it started, is killed.
        max_processes: a worker that starts more than this is killed.
        max_printed_bytes: a worker that prints more than this over one record is killed.
        strikes: a record that killed its worker this often is rejected as `crashed`.
        batch_records: most records in a batch.
        batch_seconds: most audio in a batch, unless one record is longer.
        device: what models with a checkpoint run on: `auto`, `cpu`, `cuda` or `cuda:N`.
        compile_models: pass them through torch.compile.
    """

    record_seconds: float = 120.0
    setup_seconds: float = 600.0
    split_seconds: float = 6 * 3600.0
    max_rss_bytes: int = 6 * 2**30
    max_processes: int = 64
    max_printed_bytes: int = 2**28
    strikes: int = 3
    batch_records: int = 8
    batch_seconds: float = 120.0
    device: str = "auto"
    compile_models: bool = False

    def __post_init__(self) -> None:
        if self.strikes < 1 or self.batch_records < 1:
            raise ValueError(f"strikes and batch_records must be at least 1, got {self.strikes}, {self.batch_records}")
        for name in ("record_seconds", "setup_seconds", "split_seconds", "batch_seconds"):
            if not getattr(self, name) > 0:  # nor NaN, which nothing ever exceeds
                raise ValueError(f"{name} must be more than 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Stages and a sink over the splits of a plan; or, with `source`, a sink over what it gives for each split.

    Attributes:
        root: folder that receives `shards/` (commit records included) and `work/` (everything that may be deleted).
        rows_path: the plan's `splits.parquet`.
        base: folder that relative audio paths start from.
        fingerprint: decides whether an existing commit record counts.
        steps: the stages' configs in order.
        source: gives the outcomes in place of rows that pass through stages.
    """

    root: str
    fingerprint: str
    sink: SinkConfig
    rows_path: str = ""
    base: str = ""
    steps: tuple[StageConfig[Any, Any], ...] = ()
    source: OriginConfig | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if (self.source is None) != bool(self.rows_path):
            raise ValueError("a job has either rows or a source")
