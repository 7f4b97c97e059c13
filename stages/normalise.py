"""Text normalisation: every token of a transcript gets the words that are spoken for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from schemas.clock import SAMPLE_RATE
from schemas.records import Clip, Spoken, Token
from schemas.rejects import Reason, Reject

MAX_CHARACTERS = 20_000
"""A longer text is a broken manifest, at 15 characters a second it would take 22 minutes to say; unless the clip is so
long that it holds no more than MAX_CHARACTERS_PER_SECOND."""

MAX_CHARACTERS_PER_SECOND = 40


def most_characters(clip: Clip) -> int:
    """Return how long the transcript of a clip may be."""
    return max(MAX_CHARACTERS, clip.num_samples * MAX_CHARACTERS_PER_SECOND // SAMPLE_RATE)


@dataclass(frozen=True, slots=True, kw_only=True)
class NormaliseConfig:
    """How transcripts are read aloud.

    Attributes:
        language: only "en".
    """

    name: ClassVar[str] = "normalise"
    version: ClassVar[int] = 1

    language: str = "en"

    def __post_init__(self) -> None:
        if self.language != "en":
            raise ValueError(f"language must be 'en', got {self.language!r}")

    def setup(self) -> "Normaliser":
        from stages import spoken_english
        from stages.g2p import known_words

        del spoken_english  # num2words loads here, not with the first record
        return Normaliser(self, known_words().__contains__)


class Normaliser:
    """Live normaliser. `known` tells whether the aligner's dictionary has a lower-case word."""

    def __init__(self, config: NormaliseConfig, known: Callable[[str], bool]) -> None:
        self._config = config
        self._known = known

    def process(self, batch: Sequence[Clip]) -> list[Spoken | Reject]:
        return [self._outcome(clip) for clip in batch]

    def _outcome(self, clip: Clip) -> Spoken | Reject:
        from stages.spoken_english import fold, has_letters, spoken_forms

        text = clip.utterance.text
        if not text or text.isspace():
            return self._reject(clip, Reason.EMPTY_TEXT, "the transcript is empty")
        if len(text) > (most := most_characters(clip)):
            detail = f"the transcript has {len(text)} characters, more than {most}"
            return self._reject(clip, Reason.TOO_MANY_WORDS, detail)
        texts = text.split()
        folded = [fold(token) for token in texts]
        forms = spoken_forms(folded, self._known)
        lettered = sum(has_letters(token) for token in folded)
        silent = sum(has_letters(token) and not words for token, words in zip(folded, forms, strict=True))
        if 2 * silent > lettered:
            detail = f"{silent} of {lettered} tokens are not written in the Latin script"
            return self._reject(clip, Reason.UNSUPPORTED_SCRIPT, detail)
        if not any(forms):
            return self._reject(clip, Reason.NO_WORDS, f"{len(texts)} tokens and no word among them")
        tokens = tuple(Token(token, words) for token, words in zip(texts, forms, strict=True))
        return Spoken(clip=clip, tokens=tokens)

    def _reject(self, clip: Clip, reason: Reason, detail: str) -> Reject:
        return Reject.of(clip.utterance, self._config.name, reason, detail)
