"""Interleaving: cut the units where the modality switches, leave out silence, render text and speech tokens.

This is the reference, in strings; `stages/policies.py` draws the spans that it renders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby, pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples, samples_from_seconds
from schemas.sequence import SequenceSection
from stages.documents import Document
from stages.serialise import Timed, merge_streams

Gap = Literal["midpoint", "left", "right"]
Task = Literal["", "asr", "tts"]

STREAM_SLOTS: dict[str, tuple[str, ...]] = {"base": ("hubert",), "expressive": ("hubert", "pitch", "style")}
"""Which unit streams the speech tokens of `SequenceSection.stream` are made of."""


class Modality(StrEnum):
    TEXT = "text"
    SPEECH = "speech"

    @property
    def other(self) -> "Modality":
        return Modality.SPEECH if self is Modality.TEXT else Modality.TEXT

    @property
    def marker(self) -> str:
        """The token that opens a span: `[Text]` or `[Speech]`."""
        return f"[{self.value.title()}]"


class Span(NamedTuple):
    """Words [start_word, end_word) of a document in one modality.

    The spans of a document partition its words, or come in pairs: the same words in one modality, then in the other.
    `task` stands on the first span of a pair that is an example of that task.
    """

    modality: Modality
    start_word: int
    end_word: int
    task: Task = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rendered span: `text` for text, `tokens` for speech; the other one is empty. Neither holds the marker.

    `task` says that the token `[ASR]` or `[TTS]` stands before the marker.
    """

    modality: Modality
    text: str = ""
    tokens: tuple[str, ...] = ()
    task: Task = ""

    def __str__(self) -> str:
        return (task_token(self.task) if self.task else "") + self.modality.marker + self.text + "".join(self.tokens)


class Realised(NamedTuple):
    """A rendered span and the words it holds: a span may have taken in a neighbour."""

    span: Span
    piece: Piece


class Kept(NamedTuple):
    """Frames of one segment of a document, ascending, int64."""

    segment: int
    frames: npt.NDArray[np.int64]


def task_token(task: str) -> str:
    """Return the token that opens a pair of a task.

    >>> task_token("asr")
    '[ASR]'
    """
    return f"[{task.upper()}]"


def speech_cuts(document: Document, boundaries: Sequence[int], gap: Gap) -> list[Samples]:
    """Return the position on the document's timeline of each switch before one of these words.

    The silence between the two words is shared at its midpoint, or goes wholly to the span on the left or on the
    right. Silence before the first and after the last word belongs to the first and the last span.

    Raises:
        ValueError: if a switch lies next to a word without a time.
    """
    return [_cut(document, boundary, gap) for boundary in boundaries]


def _cut(document: Document, boundary: int, gap: Gap) -> Samples:
    before, after = document.words[boundary - 1].end, document.words[boundary].start
    if before is None or after is None:
        raise ValueError(f"document {document.key!r}: no time at the switch before word {boundary}")
    return {"midpoint": Samples((before + after) // 2), "left": after, "right": before}[gap]


def removed_silence(document: Document, sequence: SequenceSection) -> list[tuple[Samples, Samples]]:
    """Return what `sequence.silence` leaves out: ascending, disjoint, half-open intervals on the document's timeline.

    A frame of any stream is left out if the sample it stands for lies in one of them. The frame after which a segment
    ends may stand for a sample beyond that end; then the segment's last sample counts.

    `drop`: each gap between two words, the silence before the first and after the last. `cap`: of a longer gap the
    middle, so that half of `max_silence` stays beside each word; before the first word all but its last, after the last
    word all but its first `max_silence`. A gap next to a word without a time is kept.
    """
    words = document.words
    if sequence.silence == "keep" or not words:
        return []
    kept = samples_from_seconds(sequence.max_silence) if sequence.silence == "cap" else 0
    gaps = [(0, words[0].start, 0, kept), (words[-1].end, document.segments[-1].end, kept, 0)]
    gaps[1:1] = [(a.end, b.start, kept // 2, kept - kept // 2) for a, b in pairwise(words)]
    return [
        (Samples(start + head), Samples(end - tail))
        for start, end, head, tail in gaps
        if start is not None and end is not None and start + head < end - tail
    ]


def render(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> list[Piece]:
    """Return the pieces of a document's spans, in order. See `realise`."""
    return [piece for _, piece in realise(document, spans, sequence)]


def realise(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> list[Realised]:
    """Return the pieces of a document's spans, in order, with the words of each.

    The units of a speech span are the frames between its cuts, sliced at full rate, then cleared of removed silence,
    and only then deduplicated (style is not). The origin of time is the span's first HuBERT frame in each utterance.
    The style and pitch frames in force there count as beginning there, even if a cut gave them to the span before or
    they were removed: so an expressive span always opens as the release does, with style, pitch and HuBERT.

    A speech span without any HuBERT frame, which takes a word shorter than a frame, is rendered as text and joins the
    text around it; where its words come in text anyway, the pair is left out as a whole. So no piece of speech is
    empty, but a document of such words alone may come to nothing.
    """
    spoken = iter(_spoken_frames(document, spans, sequence))
    realised: list[Realised] = []
    for _, group in groupby(spans, key=lambda span: (span.start_word, span.end_word)):
        pair = list(group)
        frames = {span.modality: next(spoken) for span in pair if span.modality is Modality.SPEECH}
        has_speech = all(own["hubert"] for own in frames.values())
        if len(pair) == 1 and not has_speech:
            pair = [pair[0]._replace(modality=Modality.TEXT)]
        elif not has_speech:
            continue
        for span in pair:
            if span.modality is Modality.SPEECH:
                tokens = tuple(_span_tokens(document, frames[span.modality]))
                realised.append(Realised(span, Piece(modality=span.modality, tokens=tokens, task=span.task)))
            else:
                realised.append(_text(document, span, realised))
    return realised


def interleaved_string(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> str:
    """Return the released string form, e.g. `[Text]the cat[Speech][St71][Pi39][Hu99]`."""
    return "".join(str(piece) for piece in render(document, spans, sequence))


def _text(document: Document, span: Span, before: list[Realised]) -> Realised:
    """Return a text span rendered; text directly before it, left by a dissolved speech span, is taken in."""
    if before and before[-1].span.modality is Modality.TEXT:
        span = before.pop().span._replace(end_word=span.end_word)
    text = document.text(span.start_word, span.end_word)
    return Realised(span, Piece(modality=Modality.TEXT, text=text, task=span.task))


def _spoken_frames(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> list[dict[str, list[Kept]]]:
    """Return, for each speech span, slot to the frames it keeps in each segment; segments without any are left out."""
    edges = {edge for span in spans for edge in (span.start_word, span.end_word)}
    boundaries = sorted(edges - {0, len(document.words)})
    place = {boundary: group for group, boundary in enumerate(boundaries, 1)} | {0: 0}
    cuts = speech_cuts(document, boundaries, sequence.gap)
    removed = removed_silence(document, sequence)
    kept = {slot: _kept_frames(document, slot, cuts, removed) for slot in STREAM_SLOTS[sequence.stream]}
    # A partition and the speech halves of pairs both cut at every edge, so each speech span is one group.
    return [
        {slot: groups[place[span.start_word]] for slot, groups in kept.items()}
        for span in spans
        if span.modality is Modality.SPEECH
    ]


def _kept_frames(
    document: Document, slot: str, cuts: Sequence[Samples], removed: Sequence[tuple[Samples, Samples]]
) -> list[list[Kept]]:
    """Return the frames between the cuts that stand outside the removed intervals, len(cuts) + 1 groups."""
    grid = document.grids[slot]
    edges = np.array(removed, dtype=np.int64).ravel()
    groups: list[list[Kept]] = []
    for parts in document.divide(slot, cuts):
        group = []
        for index, frames in parts:
            segment = document.segments[index]
            numbers = np.arange(frames.start, frames.stop)
            positions = segment.start + np.minimum(grid.offset + numbers * grid.hop, segment.num_samples - 1)
            # Starts and ends alternate: an odd number of them at or before a position means that it lies inside.
            outside = numbers[np.searchsorted(edges, positions, side="right") % 2 == 0]
            if len(outside):
                group.append(Kept(index, outside))
        groups.append(group)
    return groups


def _span_tokens(document: Document, kept: dict[str, list[Kept]]) -> list[str]:
    origins = {own.segment: int(own.frames[0]) * document.grids["hubert"].hop for own in kept["hubert"]}
    streams = {
        slot: _timed(document, slot, own if slot == "hubert" else _opened(document, slot, own, origins), origins)
        for slot, own in kept.items()
    }
    return merge_streams(streams, deduplicate=("hubert", "pitch"))


def _opened(document: Document, slot: str, kept: list[Kept], origins: dict[int, int]) -> list[Kept]:
    """Return a stream's frames of a span: in each segment the one in force at its origin, then the span's own later.

    Frames that ended before the origin govern nothing and are left out; so are those in an utterance of which the span
    holds no HuBERT frame (a cut in its last milliseconds).
    """
    frames_of = dict(kept)
    opened = []
    for segment, origin in origins.items():
        own = frames_of.get(segment, np.empty(0, dtype=np.int64))
        in_force = min(origin // document.grids[slot].hop, len(document.segments[segment].streams[slot]) - 1)
        if in_force >= 0:
            own = np.concatenate([[in_force], own[own > in_force]])
        opened.append(Kept(segment, own))
    return opened


def _timed(document: Document, slot: str, kept: list[Kept], origins: dict[int, int]) -> Timed:
    """Return ids and times of a span; what began before the origin of its segment counts as beginning there."""
    ids = [np.empty(0, dtype=np.uint16)]
    times = [np.empty(0, dtype=np.int64)]
    for index, frames in kept:
        segment = document.segments[index]
        ids.append(segment.streams[slot][frames])
        # An extractor may give a frame more than covers the clip; it must not sort into the next utterance.
        own_clock = np.clip(frames * document.grids[slot].hop, origins[index], segment.num_samples - 1)
        times.append(segment.start + own_clock)
    return Timed(np.concatenate(ids), np.concatenate(times))
