"""The words of an entry that belong to a clip, with times in samples from the clip's start."""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.clock import SAMPLE_RATE, Samples, samples_from_seconds, seconds_from_samples
from schemas.records import Clip, Utterance
from stages.alignment_files.entry import BadAlignment, Entry, ImportedWord, shown

OVERHANG = Samples(800)
"""50 ms: how far words may reach beyond the clip and are clipped."""
LENGTH_SLACK = Samples(1600)
"""100 ms: how far the length that a file states may be from the clip's; decoders of MP3 differ by 50 ms."""
_LEAST_SLACK = 16
"""1 ms by which times may descend or overlap; where a file's times are coarser, one step of theirs."""


@dataclass(slots=True, kw_only=True)
class ClipWord:
    """An imported word: `start` and `end` in samples from the clip's start, or both None.

    `optional` is True for a word without a time that may belong to the neighbouring utterance.
    """

    text: str
    start: int | None
    end: int | None
    confidence: float | None
    optional: bool = False


def clip_words(entry: Entry, clip: Clip, *, on_recording: bool) -> list[ClipWord]:
    """Return the words of the utterance's channel or speaker whose middle lies in the clip, as the file gives them.

    Args:
        entry: what a file holds under the utterance's id or recording.
        clip: the decoded utterance.
        on_recording: True where the file's times count from the start of the audio file, False from the clip's start.

    Raises:
        BadAlignment: if there are none, or the file states another length than the clip has.
    """
    utterance, length = clip.utterance, clip.num_samples
    words = _own_lane(entry, utterance)
    cut = on_recording and (utterance.offset > 0 or utterance.length is not None)
    if not cut and entry.seconds is not None and abs(entry.seconds * SAMPLE_RATE - length) > LENGTH_SLACK:
        ours = seconds_from_samples(length)
        raise BadAlignment(entry.file, None, f"it is for {entry.seconds:.2f} s of audio, the clip has {ours:.2f} s")
    optional = [False] * len(words)
    if cut:
        words, optional = _window(words, utterance.offset, utterance.offset + length)
    if not words:
        begin, end = (seconds_from_samples(at) for at in (utterance.offset, utterance.offset + length))
        raise BadAlignment(entry.file, None, "no words" + (f" from {begin:.2f} s to {end:.2f} s" if cut else ""))
    offset = utterance.offset if cut else 0
    return [
        ClipWord(
            text=word.text,
            start=None if word.start is None else samples_from_seconds(word.start) - offset,
            end=None if word.end is None else samples_from_seconds(word.end) - offset,
            confidence=word.confidence,
            optional=may_go,
        )
        for word, may_go in zip(words, optional, strict=True)
    ]


def settle(words: Sequence[ClipWord], entry: Entry, length: int) -> None:
    """Check that times ascend and lie in the clip; trim them within the tolerances, and drop those of no length.

    Raises:
        BadAlignment: if they descend, overlap, or lie outside the clip.
    """
    slack = max(_LEAST_SLACK, round(entry.rounding * SAMPLE_RATE)) + 1
    last: ClipWord | None = None
    last_start = last_end = 0
    for word in words:
        if word.start is None or word.end is None:
            continue
        start, end = _clipped(word, word.start, word.end, entry, length)
        if last is not None:
            if start < last_start - slack:
                raise BadAlignment(entry.file, None, f"times descend at {_at(word)}")
            if start < last_end - slack:
                raise BadAlignment(entry.file, None, f"{_at(last)} overlaps {_at(word)}")
            start = max(start, last_start)
            last.end = min(last_end, start)
        word.start, word.end = start, max(start, end)
        last, last_start, last_end = word, start, word.end
    for word in words:
        if word.start == word.end:
            word.start = word.end = None


def _own_lane(entry: Entry, utterance: Utterance) -> list[ImportedWord]:
    """Return the words of the utterance's channel or speaker; where that is not told, all, by their start."""
    lanes = {word.lane for word in entry.words}
    if entry.lanes == "channel" and utterance.channel is not None and not (lanes <= {"0"} or lanes <= {"1"}):
        # Channels are A and B, or count from 1; where a 0 occurs, from 0. A lone 0 or 1 is what tools write for "any".
        names = {chr(ord("A") + utterance.channel % 26), str(utterance.channel + ("0" not in lanes))}
        return [word for word in entry.words if word.lane.upper() in names]
    if entry.lanes == "speaker" and utterance.speaker in lanes:
        return [word for word in entry.words if word.lane == utterance.speaker]
    if len(lanes) < 2:
        return list(entry.words)
    last: dict[str, float] = {}
    keyed = []
    for word in entry.words:
        last[word.lane] = last.get(word.lane, 0.0) if word.start is None else word.start
        keyed.append((last[word.lane], word))
    return [word for _, word in sorted(keyed, key=lambda pair: pair[0])]


def _window(words: list[ImportedWord], begin: int, end: int) -> tuple[list[ImportedWord], list[bool]]:
    """Keep words whose middle lies in the samples [begin, end), and those without a time among and next to them.

    The latter may be of the neighbouring utterance: they are optional.
    """
    inside = [
        i
        for i, word in enumerate(words)
        if word.start is not None
        and word.end is not None
        and 2 * begin <= round((word.start + word.end) * SAMPLE_RATE) < 2 * end
    ]
    if not inside:
        return [], []
    first, last = inside[0], inside[-1]
    while first > 0 and words[first - 1].start is None:
        first -= 1
    while last + 1 < len(words) and words[last + 1].start is None:
        last += 1
    kept = set(inside)
    chosen = [i for i in range(first, last + 1) if words[i].start is None or i in kept]
    return [words[i] for i in chosen], [not inside[0] <= i <= inside[-1] for i in chosen]


def _clipped(word: ClipWord, start: int, end: int, entry: Entry, length: int) -> tuple[int, int]:
    if start < -OVERHANG:
        raise BadAlignment(entry.file, None, f"{_at(word)} begins {_milliseconds(-start)} ms before the clip")
    if end > length + OVERHANG:
        raise BadAlignment(entry.file, None, f"{_at(word)} ends {_milliseconds(end - length)} ms after the clip")
    return min(max(start, 0), length), min(max(end, 0), length)


def _at(word: ClipWord) -> str:
    return f"{shown(word.text)} at {seconds_from_samples(word.start or 0):.3f} s"


def _milliseconds(samples: int) -> int:
    return round(1000 * seconds_from_samples(samples))
