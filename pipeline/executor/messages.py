"""What crosses the pipe between a worker and its child."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSplit:
    """Run one split.

    Attributes:
        alone: keys to be worked on one at a time, because an earlier attempt died with them in its hands.
        crashed: keys to be rejected unseen, with the number of times each killed a worker.
        announced: read and compute ahead, but write nothing before the split is asked for. Any other request takes
            this one back.
    """

    split: int
    alone: frozenset[str] = frozenset()
    crashed: dict[str, int] = field(default_factory=dict)
    announced: bool = False

    @property
    def careful(self) -> bool:
        """Whether one thing is done at a time, so that whoever is in hand at a death is alone."""
        return bool(self.alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The models are loaded."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A split is committed.

    Attributes:
        record: its commit record.
        seconds: CPU seconds by stage in order, `read` and `commit` included.
        passed: records that came into each of them and that left it; unlike times a function of the input alone.
        started: when the split was begun, in seconds since the epoch.
        wall: wall seconds from there, or from the end of the split before it, whichever was later.
        audio_seconds: audio decoded.
        peak_rss_bytes: of the child so far.
    """

    record: dict[str, Any]
    seconds: dict[str, float]
    passed: dict[str, tuple[int, int]]
    started: float
    wall: float
    audio_seconds: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A split cannot be done on this machine as it is: no record is to blame."""

    error: str
