"""Guards against text that nobody said: Whisper writes something for noise and music too, and may loop.

Pure functions of a segment's text, length and the model's own figures. The no-speech probability, the mean
log-probability and the compression ratio are those of Whisper's decoding (arXiv 2212.04356, 4.5); there they start
another attempt at a higher temperature, here they end the segment, because a data set is better off without it.
"""

import unicodedata
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.transcripts import Drop

LEAST_REPEATS = 3
"""Times that a phrase must follow itself to count as a loop."""
LEAST_REPEATED_WORDS = 8
"""Words beyond a phrase's first occurrence: "no no no no" may be said, a phrase of four words three times in a row is
not."""
LEAST_REPEATED_CHARACTERS = 24
"""The same for characters, which find loops in scripts without spaces and within one word."""
LONGEST_PHRASE = 40
"""Words, or characters, in the longest phrase that is looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guards:
    """What a segment must satisfy.

    Attributes:
        max_no_speech: largest probability of no speech, in [0, 1].
        min_average_logprob: least mean log-probability of the tokens, in nats.
        max_compression_ratio: largest ratio of the text's UTF-8 bytes to their zlib compression.
        max_characters_per_second: most characters, spaces not counted, per second of the segment.
    """

    max_no_speech: float = 0.6
    min_average_logprob: float = -1.0
    max_compression_ratio: float = 2.4
    max_characters_per_second: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.max_no_speech <= 1:
            raise ValueError(f"max_no_speech must lie in [0, 1], got {self.max_no_speech}")
        if not self.min_average_logprob <= 0:
            raise ValueError(f"min_average_logprob must not be positive, got {self.min_average_logprob}")
        if not self.max_compression_ratio > 0:
            raise ValueError(f"max_compression_ratio must be positive, got {self.max_compression_ratio}")
        if not self.max_characters_per_second > 0:
            raise ValueError(f"max_characters_per_second must be positive, got {self.max_characters_per_second}")

    def problem(self, text: str, seconds: float, logprob: float, no_speech: float) -> Drop | None:
        """Return the first guard that a segment trips, or None.

        Limits themselves pass; NaN never does.

        Args:
            text: as `tidy` returns it.
            seconds: length of the segment.
            logprob: mean log-probability of its tokens, in nats.
            no_speech: probability that it holds no speech.
        """
        if not no_speech <= self.max_no_speech:
            return Drop.NO_SPEECH
        if is_broken(text):
            return Drop.BROKEN_TEXT
        if not any(c.isalnum() for c in text):
            return Drop.NO_TEXT
        if not logprob >= self.min_average_logprob:
            return Drop.LOW_LOGPROB
        if num_characters(text) > self.max_characters_per_second * seconds:
            return Drop.TOO_FAST
        if loops(text):
            return Drop.LOOP
        if compression_ratio(text) > self.max_compression_ratio:
            return Drop.COMPRESSIBLE
        return None


def tidy(text: str) -> str:
    """Return a text with single spaces between words and none around it."""
    return " ".join(text.split())


def is_broken(text: str) -> bool:
    """True where a text holds U+FFFD, which stands for bytes that spell no character, a control character, or half of
    a surrogate pair.
    """
    return any(c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cs") for c in text)


def num_characters(text: str) -> int:
    """Return the characters that are not spaces."""
    return sum(not c.isspace() for c in text)


def compression_ratio(text: str) -> float:
    """Return UTF-8 bytes per compressed byte; 0 for no text. Text of a few dozen characters stays near 1."""
    data = text.encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data))


def loops(text: str) -> bool:
    """True where a phrase of words or characters follows itself too often, whatever its case and punctuation."""
    words = ["".join(c for c in word if c.isalnum()) for word in text.casefold().split()]
    words = [word for word in words if word]
    return longest_loop(words) >= LEAST_REPEATED_WORDS or longest_loop("".join(words)) >= LEAST_REPEATED_CHARACTERS


def longest_loop(items: Sequence[str]) -> int:
    """Return how many items the longest loop repeats: those that equal the item one phrase before them.

    A loop is a phrase of at most `LONGEST_PHRASE` items that stands at least `LEAST_REPEATS` times in a row; 0 without
    one. Costs O(len(items) * LONGEST_PHRASE).

    >>> longest_loop("a b a b a b".split())
    4
    """
    longest = 0
    for period in range(1, min(LONGEST_PHRASE, len(items) // LEAST_REPEATS) + 1):
        run = 0
        for i in range(period, len(items)):
            run = run + 1 if items[i] == items[i - period] else 0
            if run >= period * (LEAST_REPEATS - 1):
                longest = max(longest, run)
    return longest
