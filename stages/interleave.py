"""Interleaving: draw spans of words, cut the units where the modality switches, render text and speech tokens.

Spirit LM draws spans anew at each training step (arXiv 2402.05755, 3.1 and App. A), so everything here is a pure
function of a document, a policy and a generator.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np

from schemas.clock import Samples
from schemas.sequence import SequenceSection, SpiritLmPolicy
from stages.documents import Document, Part
from stages.serialise import Timed, merge_streams

Gap = Literal["midpoint", "left", "right"]

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
    """Words [start_word, end_word) of a document in one modality."""

    modality: Modality
    start_word: int
    end_word: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A rendered span: `text` for text, `tokens` for speech; the other one is empty. Neither holds the marker."""

    modality: Modality
    text: str = ""
    tokens: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.modality.marker + self.text + "".join(self.tokens)


def draw_spans(
    num_words: int, closed: Collection[int], policy: SpiritLmPolicy, rng: np.random.Generator
) -> tuple[Span, ...]:
    """Partition words [0, num_words) into alternating spans whose lengths are uniform within the policy's ranges.

    A switch drawn at a closed boundary moves forward to the next open one that keeps the span within its range; if
    there is none, back to the nearest open one that does; if there is none either, forward beyond the range, or to the
    end of the document. So a length lies outside its range only next to closed boundaries or in the last span, which
    may be short (`remainder="keep"`) or be merged into the one before it, then too long (`remainder="merge"`).

    Args:
        num_words: at least 1. A document of fewer words than a span is one span.
        closed: each i for which no switch may lie between words i-1 and i.
        policy: ranges and options.
        rng: one draw for the first modality, then one per span, whatever is closed.
    """
    if num_words < 1:
        raise ValueError(f"a document needs at least one word, got {num_words}")
    drawn = (Modality.TEXT, Modality.SPEECH)[int(rng.integers(2))]
    modality = drawn if policy.start == "random" else Modality(policy.start)
    limits = {Modality.TEXT: policy.text_words, Modality.SPEECH: policy.speech_words}
    spans: list[Span] = []
    start = 0
    while start < num_words:
        low, high = limits[modality]
        length = int(rng.integers(low, high + 1))
        end = _open_boundary(start + length, start + low, start + high, num_words, closed)
        if policy.remainder == "merge" and spans and end - start < low:
            spans[-1] = spans[-1]._replace(end_word=end)
        else:
            spans.append(Span(modality, start, end))
        start, modality = end, modality.other
    return tuple(spans)


def _open_boundary(target: int, low: int, high: int, num_words: int, closed: Collection[int]) -> int:
    if target >= num_words:
        return num_words
    candidates = (*range(target, high + 1), *range(target - 1, low - 1, -1), *range(high + 1, num_words))
    return next((i for i in candidates if i >= num_words or i not in closed), num_words)


def speech_cuts(document: Document, spans: Sequence[Span], gap: Gap) -> list[Samples]:
    """Return the position of each switch on the document's timeline, len(spans) - 1 of them.

    The silence between the two words is shared at its midpoint, or goes wholly to the span on the left or on the
    right. Silence before the first and after the last word belongs to the first and the last span.

    Raises:
        ValueError: if a switch lies next to a word without a time.
    """
    return [_cut(document, span.end_word, gap) for span in spans[:-1]]


def _cut(document: Document, boundary: int, gap: Gap) -> Samples:
    before, after = document.words[boundary - 1].end, document.words[boundary].start
    if before is None or after is None:
        raise ValueError(f"document {document.key!r}: no time at the switch before word {boundary}")
    return {"midpoint": Samples((before + after) // 2), "left": after, "right": before}[gap]


def render(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> list[Piece]:
    """Return the pieces of a partition of a document's words, in order.

    The units of a speech span are the frames between its cuts, sliced at full rate and only then deduplicated (style
    is not). The origin of time is the span's first HuBERT frame in each utterance. A style or pitch frame that began
    before it and is still in force counts as beginning there, and is restated if the cut gave it to the span before:
    so an expressive span always opens as the release does, with style, pitch and HuBERT. A speech span without any
    HuBERT frame, which takes a word shorter than a frame, is rendered as text and joins the text around it: no piece
    of speech is empty.
    """
    cuts = speech_cuts(document, spans, sequence.gap)
    slots = STREAM_SLOTS[sequence.stream]
    parts = {slot: document.divide(slot, cuts) for slot in slots}
    pieces: list[Piece] = []
    text_from: int | None = None
    for i, span in enumerate(spans):
        if span.modality is Modality.SPEECH and parts["hubert"][i]:
            tokens = _span_tokens(document, {slot: parts[slot][i] for slot in slots})
            pieces.append(Piece(modality=Modality.SPEECH, tokens=tuple(tokens)))
            text_from = None
        else:
            # A text piece directly before this one means that an empty speech span was dissolved.
            if text_from is None:
                text_from = span.start_word
            else:
                pieces.pop()
            pieces.append(Piece(modality=Modality.TEXT, text=document.text(text_from, span.end_word)))
    return pieces


def interleaved_string(document: Document, spans: Sequence[Span], sequence: SequenceSection) -> str:
    """Return the released string form, e.g. `[Text]the cat[Speech][St71][Pi39][Hu99]`."""
    return "".join(str(piece) for piece in render(document, spans, sequence))


def _span_tokens(document: Document, parts: dict[str, list[Part]]) -> list[str]:
    origins = {part.segment: part.frames.start * document.grids["hubert"].hop for part in parts["hubert"]}
    streams = {
        slot: _timed(document, slot, own if slot == "hubert" else _opened(document, slot, own, origins), origins)
        for slot, own in parts.items()
    }
    return merge_streams(streams, deduplicate=("hubert", "pitch"))


def _opened(document: Document, slot: str, own: list[Part], origins: dict[int, int]) -> list[Part]:
    """Return a stream's parts of a span, each preceded by the frame in force at its origin where it lacks that.

    Where the span holds no HuBERT frame of an utterance (a cut in its last milliseconds), its other frames there govern
    nothing and are left out.
    """
    first_own = {part.segment: part.frames.start for part in own}
    opening = []
    for segment, origin in origins.items():
        in_force = min(origin // document.grids[slot].hop, len(document.segments[segment].streams[slot]) - 1)
        if in_force >= 0 and first_own.get(segment, in_force + 1) > in_force:
            opening.append(Part(segment, range(in_force, in_force + 1)))
    # Stable: a segment's opening comes before its own frames.
    return sorted([*opening, *(part for part in own if part.segment in origins)], key=lambda part: part.segment)


def _timed(document: Document, slot: str, parts: list[Part], origins: dict[int, int]) -> Timed:
    """Return ids and times of a span; what began before the origin of its segment counts as beginning there."""
    if not parts:
        return Timed(np.empty(0, dtype=np.uint16), np.empty(0, dtype=np.int64))
    hop = document.grids[slot].hop
    ids, times = [], []
    for index, frames in parts:
        segment = document.segments[index]
        ids.append(segment.streams[slot][frames.start : frames.stop])
        # An extractor may give a frame more than covers the clip; it must not sort into the next utterance.
        own_clock = np.clip(np.arange(frames.start, frames.stop) * hop, origins[index], segment.num_samples - 1)
        times.append(segment.start + own_clock)
    return Timed(np.concatenate(ids), np.concatenate(times))
