"""Alignment QC: a forced aligner aligns anything, so wrong transcripts must be told by their scores.

Thresholds are in nats per frame of the pocketsphinx aligner; `benchmarks/alignment.py` measures what they reject.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from schemas.records import Aligned, Checked, Word
from schemas.rejects import Reason, Reject


@dataclass(frozen=True, slots=True, kw_only=True)
class QcConfig:
    """What makes an alignment untrustworthy.

    Attributes:
        min_score_all: a clip whose mean over all frames is lower has a wrong transcript. -8.7 lets formant synthesis
            pass; natural speech scores -5 to -2, and -6.5 rejects more of its wrong transcripts.
        min_silence_score: so has a clip where half a second or more that the aligner takes for silence scores lower:
            it holds speech that the text lacks. Silence is alike in all voices, so one threshold serves all.
        doubtful_score: a word below it is doubtful: it never carries a modality switch.
        max_doubtful_share: a clip with a larger share of doubtful words is rejected.
    """

    name: ClassVar[str] = "qc"
    version: ClassVar[int] = 1

    min_score_all: float = -8.7
    min_silence_score: float = -5.5
    doubtful_score: float = -9.0
    max_doubtful_share: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.max_doubtful_share <= 1:
            raise ValueError(f"max_doubtful_share must lie in [0, 1], got {self.max_doubtful_share}")

    def setup(self) -> "Qc":
        return Qc(self)


class Qc:
    """Live QC."""

    def __init__(self, config: QcConfig) -> None:
        self._config = config

    def process(self, batch: Sequence[Aligned]) -> list[Checked | Reject]:
        return [self._outcome(aligned) for aligned in batch]

    def _outcome(self, aligned: Aligned) -> Checked | Reject:
        config = self._config
        # Written as "not at least", so that a NaN is rejected too.
        if aligned.score_all is not None and not aligned.score_all >= config.min_score_all:
            detail = f"score {aligned.score_all:.2f} per frame, least is {config.min_score_all:g}"
            return self._reject(aligned, Reason.WRONG_TRANSCRIPT, detail)
        if aligned.score_silence is not None and not aligned.score_silence >= config.min_silence_score:
            detail = f"silence scores {aligned.score_silence:.2f} per frame, least is {config.min_silence_score:g}"
            return self._reject(aligned, Reason.WRONG_TRANSCRIPT, detail)
        doubtful = tuple(i for i, word in enumerate(aligned.words) if i in aligned.doubtful or self._is_doubtful(word))
        sayable = sum(_is_sayable(word) for word in aligned.words)
        unsure = sum(_is_sayable(aligned.words[i]) for i in doubtful)
        if unsure > config.max_doubtful_share * sayable:
            detail = f"{unsure} of {sayable} words are doubtful, most is {config.max_doubtful_share:.0%}"
            return self._reject(aligned, Reason.DOUBTFUL_WORDS, detail)
        return Checked(aligned=aligned, doubtful=doubtful)

    def _is_doubtful(self, word: Word) -> bool:
        """No time, or a score below the threshold; an aligner without word scores leaves only the time."""
        if word.start is None or word.end is None:
            return True
        return word.score is not None and not word.score >= self._config.doubtful_score

    def _reject(self, aligned: Aligned, reason: Reason, detail: str) -> Reject:
        return Reject.of(aligned.clip.utterance, self._config.name, reason, detail)


def _is_sayable(word: Word) -> bool:
    """True for a token with a time or a letter or digit: a dash without a time is not a doubtful word."""
    return word.start is not None or any(c.isalnum() for c in word.text)
