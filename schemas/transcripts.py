"""What transcription makes of a recording: segments with text, and those that its guards dropped."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from schemas.clock import Samples
from schemas.records import Utterance


class Drop(StrEnum):
    """Why a segment is not used: a closed list."""

    NO_TEXT = "no_text"
    """No letter or digit."""
    BROKEN_TEXT = "broken_text"
    """It holds bytes that spell no character, or control characters."""
    NO_SPEECH = "no_speech"
    """The model itself takes the segment for one without speech."""
    LOW_LOGPROB = "low_logprob"
    """The model is unsure of the text."""
    COMPRESSIBLE = "compressible"
    """The text compresses too well: it repeats itself."""
    LOOP = "loop"
    """A phrase follows itself again and again: the decoder was caught in a loop."""
    TOO_FAST = "too_fast"
    """More characters than can be spoken in the time."""


class Segment(NamedTuple):
    """A stretch of speech with its transcript: the half-open interval [start, end) of samples at 16 kHz in the clip.

    `logprob` is the mean log-probability of its tokens in nats, `no_speech` the model's probability of no speech.
    """

    start: Samples
    end: Samples
    text: str
    logprob: float
    no_speech: float


class DroppedSegment(NamedTuple):
    """A stretch that the voice detector took for speech and that a guard dropped."""

    start: Samples
    end: Samples
    reason: Drop


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcribed:
    """A manifest row whose audio was transcribed.

    Attributes:
        utterance: the row, without text.
        language: code that the model was told, or that it found.
        detected: True where the model found it.
        segments: at least one; they ascend and do not overlap.
        dropped: likewise, possibly none.
    """

    utterance: Utterance
    language: str
    detected: bool
    segments: tuple[Segment, ...]
    dropped: tuple[DroppedSegment, ...]
