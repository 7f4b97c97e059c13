"""Times and rates. Time is integer samples at 16 kHz; seconds appear only at the edges, and are rounded only here."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import NewType

SAMPLE_RATE = 16_000
"""Samples per second of every clip, every word time and every unit grid in the project."""

Samples = NewType("Samples", int)
Frames = NewType("Frames", int)


def samples_from_seconds(seconds: float, rate: int = SAMPLE_RATE) -> Samples:
    """Round seconds to the nearest sample at `rate` Hz, halves away from zero.

    Raises:
        ValueError: if `seconds` is negative or not finite.
    """
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"seconds must be finite and not negative, got {seconds}")
    return Samples(int(seconds * rate + 0.5))


def seconds_from_samples(samples: int, rate: int = SAMPLE_RATE) -> float:
    """Return seconds, for printing and for tables."""
    return samples / rate


def samples_at_rate(samples: int, rate: int) -> Samples:
    """Carry a position at 16 kHz over to the nearest sample at another rate in Hz (exact integer arithmetic)."""
    return Samples((2 * samples * rate + SAMPLE_RATE) // (2 * SAMPLE_RATE))


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameGrid:
    """Where the frames of a unit stream lie: frame i stands for sample `offset + i * hop`.

    Attributes:
        hop: samples from one frame to the next, at 16 kHz.
        offset: the sample that frame 0 stands for, normally the centre of its receptive field.
    """

    hop: Samples
    offset: Samples

    def __post_init__(self) -> None:
        if self.hop <= 0:
            raise ValueError(f"hop must be positive, got {self.hop}")
        if self.offset < 0:
            raise ValueError(f"offset must not be negative, got {self.offset}")

    @property
    def rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(SAMPLE_RATE, self.hop)

    def position(self, frame: int) -> Samples:
        """Return the sample that a frame stands for."""
        return Samples(self.offset + frame * self.hop)

    def first_at_or_after(self, sample: int) -> Frames:
        """Return the first frame whose position is not before `sample`, never negative."""
        return Frames(max(0, -((self.offset - sample) // self.hop)))


def centred_grid(hop: Samples) -> FrameGrid:
    """Return the grid whose frame i covers samples [i * hop, (i + 1) * hop) and stands for their centre."""
    return FrameGrid(hop=hop, offset=Samples(hop // 2))


def frames_covering(num_samples: int, hop: int) -> Frames:
    """Return how many hops it takes to cover a clip, the last one possibly partial.

    >>> frames_covering(1_000, 320)
    4
    """
    return Frames(-(-num_samples // hop))


def frames_between(start: int, end: int, grid: FrameGrid, count: int) -> range:
    """Return the frames of a stream of `count` frames whose positions lie in the half-open interval [start, end).

    This is the boundary rule of the project: intervals that partition time partition the frames.
    """
    first = min(grid.first_at_or_after(start), count)
    last = min(grid.first_at_or_after(end), count)
    return range(first, max(first, last))


def cut_frames(cuts: Sequence[int], grid: FrameGrid, count: int) -> list[range]:
    """Divide all `count` frames at ascending sample positions into len(cuts) + 1 ranges; none is lost or used twice.

    Raises:
        ValueError: if the cuts descend.
    """
    if any(b < a for a, b in pairwise(cuts)):
        raise ValueError(f"cuts must not descend, got {list(cuts)}")
    edges = [0, *(min(grid.first_at_or_after(cut), count) for cut in cuts), count]
    return [range(a, b) for a, b in pairwise(edges)]
