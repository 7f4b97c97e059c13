"""Documents: the utterances of a recording on one timeline, each keeping its own frame grids."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.clock import FrameGrid, Samples, cut_frames, frames_covering
from schemas.contract import ContractMismatch, UnitContract
from schemas.records import Word
from schemas.unit_record import UnitRecord
from schemas.words import Words

FRAME_TOLERANCE = 2
"""Frames that a strided extractor may lose or add at the edges of a clip; more means that the rate is another."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segment:
    """One utterance of a document.

    Attributes:
        key: record key of the utterance.
        start: where it begins on the document's timeline.
        num_samples: its length.
        streams: slot to full-rate ids, uint16, shape (num_frames,). Frame 0 lies on the utterance's own clock: the
            length of an utterance is no multiple of a hop, so the grids of two utterances are not in phase.
    """

    key: str
    start: Samples
    num_samples: Samples
    streams: Mapping[str, npt.NDArray[np.uint16]]

    @property
    def end(self) -> Samples:
        return Samples(self.start + self.num_samples)


class Part(NamedTuple):
    """Frames of one segment of a document."""

    segment: int
    frames: range


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Document:
    """Consecutive utterances of one recording.

    Attributes:
        key: record key of the first utterance: what the randomness of a draw hangs on.
        words: the words of all utterances, their times on the document's timeline.
        doubtful: indices into `words` whose boundaries must not carry a modality switch.
        segments: the utterances, end to end on the timeline.
        grids: slot to frame grid, on each segment's own clock.
    """

    key: str
    words: Words
    doubtful: frozenset[int]
    segments: tuple[Segment, ...]
    grids: Mapping[str, FrameGrid]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(segment.key for segment in self.segments)

    def text(self, start: int, end: int) -> str:
        """Return words [start, end) joined by single spaces."""
        return " ".join(self.words.texts[start:end])

    def closed_boundaries(self) -> frozenset[int]:
        """Return each i for which no switch may lie between words i-1 and i: either is doubtful or has no time."""
        shut = self.doubtful.union(self.words.without_time())
        if not shut:
            return shut
        return shut.union([i + 1 for i in shut]) - {0, len(self.words)}

    def divide(self, slot: str, cuts: Sequence[int]) -> list[list[Part]]:
        """Divide all frames of a stream at ascending positions of the timeline into len(cuts) + 1 groups of parts.

        Each segment is cut on its own clock, so no frame is lost or used twice, and a frame never falls behind a cut
        that lies at or after its segment's end.
        """
        groups: list[list[Part]] = [[] for _ in range(len(cuts) + 1)]
        for index, segment in enumerate(self.segments):
            # Cuts outside the segment move none of its frames; leaving them out keeps long documents linear.
            first, last = bisect_right(cuts, segment.start), bisect_left(cuts, segment.end)
            inner = [cut - segment.start for cut in cuts[first:last]]
            for group, frames in enumerate(cut_frames(inner, self.grids[slot], len(segment.streams[slot])), first):
                if frames:
                    groups[group].append(Part(index, frames))
        return groups


def document_from(records: Sequence[UnitRecord], contracts: Mapping[str, UnitContract]) -> Document:
    """Join the consecutive utterances of one recording, in order.

    Raises:
        ValueError: if there is no record, the records are of several recordings, or a manifest index does not follow
            the one before it.
        ContractMismatch: if a record lacks a stream or its frames do not fit the contract's rate.
    """
    if not records:
        raise ValueError("a document needs at least one record")
    for a, b in pairwise(records):
        if not follows(a, b):
            raise ValueError(f"record {b.key!r} does not follow {a.key!r} in one recording")
    words: list[tuple[Sequence[Word], int]] = []
    doubtful: list[int] = []
    segments: list[Segment] = []
    start, count = 0, 0
    for record in records:
        _check_frames(record, contracts)
        words.append((record.words, start))
        doubtful += [count + i for i in record.doubtful]
        streams = {slot: record.streams[slot] for slot in contracts}
        segments.append(Segment(key=record.key, start=Samples(start), num_samples=record.num_samples, streams=streams))
        start += record.num_samples
        count += len(record.words)
    return Document(
        key=records[0].key,
        words=Words.joined(words),
        doubtful=frozenset(doubtful),
        segments=tuple(segments),
        grids={slot: contract.grid for slot, contract in contracts.items()},
    )


def documents_from(
    records: Iterable[UnitRecord], contracts: Mapping[str, UnitContract], *, join: bool
) -> Iterator[Document]:
    """Yield the documents of a shard in order: a recording each if `join`, otherwise an utterance each.

    A recording with a hole, where an utterance was rejected, gives a document on either side of it: text that does not
    follow must not be shown as if it did.
    """
    pending: list[UnitRecord] = []
    for record in records:
        if pending and not (join and follows(pending[-1], record)):
            yield document_from(pending, contracts)
            pending = []
        pending.append(record)
    if pending:
        yield document_from(pending, contracts)


def follows(a: UnitRecord, b: UnitRecord) -> bool:
    """Return whether `b` is the next manifest row after `a`, of the same recording."""
    return bool(a.meta["recording"] == b.meta["recording"] and a.meta["index"] + 1 == b.meta["index"])


def _check_frames(record: UnitRecord, contracts: Mapping[str, UnitContract]) -> None:
    for slot, contract in contracts.items():
        if slot not in record.streams:
            raise ContractMismatch(f"record {record.key!r} has no stream '{slot}', which dataset.json promises")
        found, expected = len(record.streams[slot]), frames_covering(record.num_samples, contract.hop)
        if abs(found - expected) > FRAME_TOLERANCE:
            raise ContractMismatch(
                f"record {record.key!r} has {found} frames of '{slot}', "
                f"its contract's rate of {contract.frame_rate} Hz asks for {expected}"
            )
