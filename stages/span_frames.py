"""Which frames of each stream belong to the speech spans of a document, as views that need no copy.

The rules are those of `stages.interleave.realise`; here they are worked out on runs of frames instead of arrays.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from schemas.clock import FrameGrid
from stages.documents import Document, Segment

FAR = 1 << 62
"""Behind the end of any document."""

Interval = tuple[int, int]


@dataclass(slots=True)
class Runs:
    """Runs of consecutive frames of one stream, in the order of spans and then of time.

    Attributes:
        ids: a view of full-rate ids per run.
        lengths: frames of each run.
        times: when each run begins; the others follow a hop apart. Spans lie far apart, and in order.
        origins: what began earlier counts as beginning there, per run.
        lasts: what begins later counts as beginning there, per run.
        late: whether anything does.
        per_span: frames of each span.
    """

    hop: int
    per_span: list[int]
    ids: list[npt.NDArray[np.uint16]] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    origins: list[int] = field(default_factory=list)
    lasts: list[int] = field(default_factory=list)
    late: bool = False

    def add(
        self, ids: npt.NDArray[np.uint16], runs: Sequence[Interval], span: int, zero: int, origin: int, last: int
    ) -> None:
        """Append runs of a segment whose clock stands at `zero` on the line of times."""
        hop, frames = self.hop, 0
        for start, stop in runs:
            self.ids.append(ids[start:stop])
            self.lengths.append(stop - start)
            self.times.append(zero + start * hop)
            self.origins.append(origin)
            self.lasts.append(last)
            frames += stop - start
            # An extractor may give a frame more than covers the clip; it must not sort into the next utterance.
            if zero + (stop - 1) * hop > last:
                self.late = True
        self.per_span[span] += frames


def add_frames(
    found: Sequence[Runs],
    document: Document,
    intervals: Sequence[Interval],
    removed: Sequence[Interval],
    slots: Sequence[str],
    *,
    first: int,
    stride: int,
) -> None:
    """Append the frames of each speech span of a document to the runs of each stream.

    The pitch or style frame in force at a span's first HuBERT frame of a segment opens its frames there, whatever span
    it belongs to; earlier ones are left out. Where a span has no HuBERT frame of a segment, it has no other either.

    Args:
        found: runs of each stream, which may hold those of other documents already.
        document: the document.
        intervals: of each speech span on the document's timeline; 0 and FAR where it begins or ends the document.
        removed: ascending, disjoint intervals whose frames are left out.
        slots: streams wanted; `hubert` is the last.
        first: number of the first span among those of all documents.
        stride: from one span to the next on the line of times, more than any document is long.
    """
    hubert, others = found[-1], list(zip(slots, found, strict=True))[:-1]
    starts = [segment.start for segment in document.segments]
    holes = _Holes(document, removed) if removed else None
    for number, (start, end) in enumerate(intervals, first):
        for index in range(max(0, bisect_left(starts, start) - 1), len(starts)):
            if starts[index] >= end:
                break
            segment = document.segments[index]
            spoken = _frames(document, "hubert", segment, start, end, holes)
            if not spoken:
                continue
            origin = spoken[0][0] * hubert.hop
            zero = starts[index] + number * stride
            place = (number, zero, zero + origin, zero + segment.num_samples - 1)
            hubert.add(segment.streams["hubert"], spoken, *place)
            for slot, runs in others:
                ids = segment.streams[slot]
                own = _frames(document, slot, segment, start, end, holes)
                in_force = min(origin // runs.hop, len(ids) - 1)
                runs.add(ids, _opened(own, in_force) if in_force >= 0 else own, *place)


def _frames(
    document: Document, slot: str, segment: Segment, start: int, end: int, holes: "_Holes | None"
) -> list[Interval]:
    """Return the runs of a segment's frames that stand for samples in [start, end) of the document's timeline."""
    begin = segment.start
    first, last = _range(start - begin, end - begin, segment, document.grids[slot], len(segment.streams[slot]))
    if holes is not None:
        return _without(first, last, holes.frames(slot, segment))
    return [(first, last)] if first < last else []


def _opened(own: Sequence[Interval], in_force: int) -> list[Interval]:
    """Return the frame in force and the later ones of a span's own."""
    if len(own) == 1 and own[0][0] <= in_force + 1:
        return [(in_force, max(in_force + 1, own[0][1]))]
    opened = [(in_force, in_force + 1)]
    for first, last in own:
        if first <= in_force + 1:
            opened[0] = (in_force, max(opened[0][1], last))
        else:
            opened.append((first, last))
    return opened


def _range(start: int, end: int, segment: Segment, grid: FrameGrid, count: int) -> Interval:
    """Return which of a segment's `count` frames stand for samples in [start, end) of its own clock.

    The frame after which a segment ends may stand for a sample beyond that end; it counts to the segment all the same.
    """
    first, last = 0, count
    if start >= segment.num_samples:
        first = count
    elif start > 0:
        first = -((grid.offset - start) // grid.hop)
        first = 0 if first < 0 else first if first < count else count
    if end < segment.num_samples:
        last = -((grid.offset - end) // grid.hop)
        last = 0 if last < 0 else last if last < count else count
    return first, last


class _Holes:
    """The frames that removed silence takes from each segment, worked out once per segment."""

    def __init__(self, document: Document, removed: Sequence[Interval]) -> None:
        self._grids = document.grids
        self._removed = removed
        self._ends = [end for _, end in removed]
        self._known: dict[tuple[str, str, int], list[Interval]] = {}

    def frames(self, slot: str, segment: Segment) -> list[Interval]:
        """Return ascending, disjoint runs of frames of a segment."""
        address = (slot, segment.key, segment.start)
        if address not in self._known:
            self._known[address] = self._find(self._grids[slot], segment, len(segment.streams[slot]))
        return self._known[address]

    def _find(self, grid: FrameGrid, segment: Segment, count: int) -> list[Interval]:
        runs = []
        for start, end in self._removed[bisect_right(self._ends, segment.start) :]:
            if start >= segment.end:
                break
            runs.append(_range(start - segment.start, end - segment.start, segment, grid, count))
        return runs


def _without(first: int, last: int, holes: Sequence[Interval]) -> list[Interval]:
    """Return frames [first, last) without the holes, which ascend, as runs."""
    runs = []
    for start, stop in holes:
        if start >= last:
            break
        if first < start:
            runs.append((first, start))
        first = max(first, stop)
    if first < last:
        runs.append((first, last))
    return runs
