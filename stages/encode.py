"""The fast way from a document and its spans to token ids.

The same, id for id, as `vocabulary.encode(render(document, spans, sequence))`, which is the definition: no string of a
unit is made, and all speech of a document goes through a handful of numpy calls.
"""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.sequence import SequenceSection
from schemas.words import Words
from stages.documents import Document
from stages.interleave import STREAM_SLOTS, Modality, Span, removed_silence
from stages.serialise import MERGE_ORDER
from stages.span_frames import FAR, Runs, add_frames
from stages.vocabulary import TokenSequence, Vocabulary
from stages.word_ids import WordIds

Ids = npt.NDArray[np.int64]

_RANKS = np.arange(len(MERGE_ORDER), dtype=np.int8)


class _Speech(NamedTuple):
    """The tokens of all speech spans, end to end.

    Attributes:
        ids: bytes of an int64 array.
        glued: a byte per token.
        bounds: span k has the tokens [bounds[k], bounds[k + 1]).
    """

    ids: bytes
    glued: bytes
    bounds: list[int]


class _Part(NamedTuple):
    """What becomes a piece: words, or the tokens of speech span `speech` if that is not negative."""

    start_word: int
    end_word: int
    task: str
    speech: int


def encode_document(
    document: Document, spans: Sequence[Span], sequence: SequenceSection, vocabulary: Vocabulary
) -> TokenSequence:
    """Return the ids of a document's spans; for many documents keep an `Encoder`, which keeps the ids of words."""
    return Encoder(sequence, vocabulary).encode(document, spans)


class Encoder:
    """Encodes documents with one vocabulary."""

    def __init__(self, sequence: SequenceSection, vocabulary: Vocabulary) -> None:
        self._sequence = sequence
        self._slots = [slot for slot in MERGE_ORDER if slot in STREAM_SLOTS[sequence.stream]]
        self._units = {slot: (vocabulary.unit_offset(slot), vocabulary.sizes[slot]) for slot in self._slots}
        self._words = WordIds(vocabulary.tokenizer)
        self._markers = [_as_bytes(vocabulary.marker_id(modality)) for modality in (0, 1)]
        self._tasks = {task: _as_bytes(vocabulary.task_id(task)) for task in ("asr", "tts")}

    def encode(self, document: Document, spans: Sequence[Span]) -> TokenSequence:
        """Return the ids of a document's spans; see `encode_all`."""
        return self.encode_all([(document, spans)])[0]

    def encode_all(self, drawn: Sequence[tuple[Document, Sequence[Span]]]) -> list[TokenSequence]:
        """Return the ids of each document's spans; the arrays are read-only views.

        All speech goes through numpy together: a call costs more than the frames of an utterance, so a dozen documents
        at a time take half the time of one by one.

        Args:
            drawn: documents of one dataset, and their spans.

        Raises:
            ValueError: if a unit is beyond its codebook, a switch lies beside a word without a time, or switches do
                not ascend in time.
        """
        speech = self._speech(drawn)
        ids: list[bytes] = []
        modality: list[bytes] = []
        glued: list[bytes] = []
        ends: list[int] = []
        first, total = 0, 0
        for document, spans in drawn:
            spoken = sum(span[0] is Modality.SPEECH for span in spans)
            bounds = speech.bounds[first : first + spoken + 1]
            first += spoken
            for start_word, end_word, task, number in _parts(spans, bounds):
                if number < 0:
                    body = self._words.encode(document.words.texts[start_word:end_word])
                    joins = b"\x01" + bytes(len(body) // 8 - 1) if body else b""
                else:
                    begin, end = bounds[number], bounds[number + 1]
                    body, joins = speech.ids[8 * begin : 8 * end], speech.glued[begin:end]
                if task:
                    ids.append(self._tasks[task])
                ids += (self._markers[number >= 0], body)
                glued += (b"\x00\x01" if task else b"\x00", joins)
                count = len(joins) + (2 if task else 1)
                modality.append((b"\x00" if number < 0 else b"\x01") * count)
                total += count
            ends.append(total)
        all_ids = np.frombuffer(b"".join(ids), dtype=np.int64)
        all_modality = np.frombuffer(b"".join(modality), dtype=np.int8)
        all_glued = np.frombuffer(b"".join(glued), dtype=np.bool_)
        return [
            TokenSequence(all_ids[begin:end], all_modality[begin:end], all_glued[begin:end])
            for begin, end in pairwise([0, *ends])
        ]

    def _speech(self, drawn: Sequence[tuple[Document, Sequence[Span]]]) -> _Speech:
        """Return the tokens of the speech spans of all documents, end to end."""
        spoken = [[span for span in spans if span[0] is Modality.SPEECH] for _, spans in drawn]
        total = sum(map(len, spoken))
        if not total:
            return _Speech(b"", b"", [0])
        grids = drawn[0][0].grids
        streams = [Runs(grids[slot].hop, [0] * total) for slot in self._slots]
        stride = max(document.segments[-1].end for document, _ in drawn) + 2
        first = 0
        for (document, _), own in zip(drawn, spoken, strict=True):
            if own:
                intervals = _intervals(document, own, self._sequence)
                removed = removed_silence(document, self._sequence)
                add_frames(streams, document, intervals, removed, self._slots, first=first, stride=stride)
                first += len(own)
        if not streams[-1].ids:
            return _Speech(b"", b"", [0] * (total + 1))
        name = f"document {drawn[0][0].key!r}" if len(drawn) == 1 else f"one of {len(drawn)} documents"
        return self._merged(name, streams)

    def _merged(self, name: str, streams: Sequence[Runs]) -> _Speech:
        """Deduplicate within spans and merge by time. Streams are laid end to end in the order of ties."""
        raw = np.concatenate([ids for runs in streams for ids in runs.ids])
        # Where each span begins in each stream, then the stream's end: flat, since lists of lists are slow to convert.
        starts: list[int] = []
        for runs in streams:
            starts += accumulate(runs.per_span, initial=starts[-1] if starts else 0)
        keep = np.ones(len(raw) + 1, dtype=np.bool_)
        np.not_equal(raw[1:], raw[:-1], out=keep[1:-1])
        keep[starts] = True
        width = len(streams[0].per_span) + 1
        if self._slots[0] == "style":
            keep[: starts[width - 1]] = True
        kept = keep[:-1].nonzero()[0]
        edges = kept.searchsorted(starts).tolist()
        rows = [edges[i : i + width] for i in range(0, len(edges), width)]
        ids = self._numbered(name, raw[kept], [row[-1] for row in rows])
        bounds = [sum(column) - sum(row[0] for row in rows) for column in zip(*rows, strict=True)]
        glued = np.zeros(len(ids) + 1, dtype=np.bool_)
        if len(streams) > 1:
            order = _times(streams, kept).argsort(kind="stable")
            ids = ids[order]
            rank = np.repeat(_RANKS, [row[-1] - row[0] for row in rows])[order]
            np.greater(rank[1:], rank[:-1], out=glued[1:-1])
        glued[bounds] = True
        return _Speech(ids.tobytes(), glued.tobytes(), bounds)

    def _numbered(self, name: str, units: npt.NDArray[np.uint16], ends: Sequence[int]) -> Ids:
        """Return units, laid out by stream, as ids."""
        ids = units.astype(np.int64)
        for slot, (first, last) in zip(self._slots, pairwise([0, *ends]), strict=True):
            offset, size = self._units[slot]
            own = ids[first:last]
            if first < last and own.max() >= size:
                raise ValueError(f"{name} has the {slot} unit {own.max()}, its codebook ends at {size - 1}")
            own += offset
        return ids


def _intervals(document: Document, spoken: Sequence[Span], sequence: SequenceSection) -> list[tuple[int, int]]:
    """Return where each speech span begins and ends on the document's timeline."""
    count, words = len(document.words), document.words
    intervals: list[tuple[int, int]] = []
    for _, first, last, _ in spoken:
        start = 0 if first == 0 else _cut(document, words, first, sequence.gap)
        end = FAR if last == count else _cut(document, words, last, sequence.gap)
        if start > end or (intervals and start < intervals[-1][1]):
            raise ValueError(f"document {document.key!r}: the times of its words descend")
        intervals.append((start, end))
    return intervals


def _cut(document: Document, words: Words, boundary: int, gap: str) -> int:
    before, after = words.ends[boundary - 1], words.starts[boundary]
    if before is None or after is None:
        raise ValueError(f"document {document.key!r}: no time at the switch before word {boundary}")
    if gap == "midpoint":
        return (before + after) // 2
    return after if gap == "left" else before


def _parts(spans: Sequence[Span], bounds: Sequence[int]) -> list[_Part]:
    """Return what becomes of the spans once it is known which speech has frames; see `stages.interleave.realise`."""
    parts: list[_Part] = []
    number = 0
    if all(a < b for a, b in pairwise(bounds)) and all(a[0] is not b[0] for a, b in pairwise(spans)):
        # Nothing dissolves and nothing joins, as almost always: each span is a piece.
        for modality, start, end, task in spans:
            is_speech = modality is Modality.SPEECH
            parts.append(_Part(start, end, task, number if is_speech else -1))
            number += is_speech
        return parts
    for _, group in groupby(spans, key=itemgetter(1, 2)):
        pair = list(group)
        own = -1
        if any(span.modality is Modality.SPEECH for span in pair):
            own, number = number, number + 1
        empty = own >= 0 and bounds[own] == bounds[own + 1]
        if empty and len(pair) > 1:
            continue
        for modality, start, end, task in pair:
            if modality is Modality.SPEECH and not empty:
                parts.append(_Part(start, end, task, own))
            elif parts and parts[-1].speech < 0:
                parts[-1] = parts[-1]._replace(end_word=end)
            else:
                parts.append(_Part(start, end, task, -1))
    return parts


def _times(streams: Sequence[Runs], kept: npt.NDArray[np.int64]) -> Ids:
    """Return when each kept frame begins, in the order of the frames; `kept` are places in all runs laid end to end."""
    lengths = np.array([0, *(length for runs in streams for length in runs.lengths)], dtype=np.int64)
    places = lengths.cumsum()
    hops = np.repeat([runs.hop for runs in streams], [len(runs.ids) for runs in streams])
    # A run's frames lie a hop apart, so time is linear in the place.
    zeros = np.array([time for runs in streams for time in runs.times], dtype=np.int64) - places[:-1] * hops
    origins = np.array([origin for runs in streams for origin in runs.origins], dtype=np.int64)
    edges = kept.searchsorted(places)
    run = np.repeat(np.arange(len(hops)), edges[1:] - edges[:-1])
    times: Ids = kept * hops[run] + zeros[run]
    np.maximum(times, origins[run], out=times)
    if any(runs.late for runs in streams):
        lasts = np.array([last for runs in streams for last in runs.lasts], dtype=np.int64)
        np.minimum(times, lasts[run], out=times)
    return times


def _as_bytes(token: int) -> bytes:
    return np.array([token], dtype=np.int64).tobytes()
