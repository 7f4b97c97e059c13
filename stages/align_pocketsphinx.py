"""Forced alignment with pocketsphinx: English, no download (the acoustic model and CMUdict are in its wheel).

Times lie on a grid of 10 ms. Measured accuracy and cost: `benchmarks/alignment.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas.clock import Samples, seconds_from_samples
from schemas.records import Aligned, Spoken, Word
from schemas.rejects import Reason, Reject
from stages.pocketsphinx_search import Segment, WordSearch

FRAME = Samples(160)
LOWEST_SCORE = -99.0
"""Stands for a log-likelihood that underflows: records are JSON, which cannot hold -inf."""

_LEAST_SILENCE = 50
"""Frames: pauses inside speech are shorter and hold breaths and closures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PocketsphinxConfig:
    """Forced alignment.

    Attributes:
        full_search_seconds: longest clip on which the search without pruning may be tried where the narrow one finds
            no path. Its memory grows with the square of the length: about 0.5 GB at 60 s, 2 GB at 300 s.
        max_words_per_second: a transcript with more spoken words than this is rejected before any search.
    """

    name: ClassVar[str] = "align"
    version: ClassVar[int] = 1

    full_search_seconds: float = 60.0
    max_words_per_second: float = 12.0

    def __post_init__(self) -> None:
        if not self.full_search_seconds >= 0:
            raise ValueError(f"full_search_seconds must not be negative, got {self.full_search_seconds}")
        if not self.max_words_per_second > 0:
            raise ValueError(f"max_words_per_second must be positive, got {self.max_words_per_second}")

    def setup(self) -> "PocketsphinxAligner":
        return PocketsphinxAligner(self)

    def metadata(self) -> dict[str, Any]:
        """Return what a dataset states about its aligner: versions, hashes and the meaning of the scores."""
        from importlib.metadata import version

        from stages.g2p import dictionary_path, sha256_of, tables_sha256

        return {
            "name": "pocketsphinx",
            "version": self.version,
            "score": "mean log-likelihood per 10 ms frame in nats, relative to the best senone of the frame",
            "dictionary_sha256": sha256_of(dictionary_path()),
            "g2p_sha256": tables_sha256(),
            "pocketsphinx": version("pocketsphinx"),
        }


class PocketsphinxAligner:
    """Live aligner. An outcome is a pure function of the clip's samples and tokens, whatever was aligned before."""

    def __init__(self, config: PocketsphinxConfig) -> None:
        self._config = config
        self._narrow = WordSearch()
        self._full: WordSearch | None = None

    def process(self, batch: Sequence[Spoken]) -> list[Aligned | Reject]:
        return [self._outcome(item) for item in batch]

    def _outcome(self, item: Spoken) -> Aligned | Reject:
        words = [word for token in item.tokens for word in token.spoken]
        seconds = seconds_from_samples(item.clip.num_samples)
        most = self._config.max_words_per_second
        if len(words) > most * seconds:
            detail = f"{len(words)} words in {seconds:.2f} s, more than {most:g} per second"
            return self._reject(item, Reason.TOO_MANY_WORDS, detail)
        if not words:
            return self._reject(item, Reason.NO_ALIGNMENT, "no spoken words")
        unspeakable = [word for word in words if not self._narrow.knows(word)]
        if unspeakable:
            return self._reject(item, Reason.NO_ALIGNMENT, f"no pronunciation for {unspeakable[0][:40]!r}")
        pcm = item.clip.pcm.astype("<i2", copy=False).tobytes()
        narrow = self._narrow.run(pcm, words)
        path = narrow or (self._full_search(pcm, words) if seconds <= self._config.full_search_seconds else None)
        if path is None:
            return self._reject(item, Reason.NO_ALIGNMENT, f"no path for {len(words)} words in {seconds:.2f} s")
        return _aligned(item, path, fallback=narrow is None)

    def _full_search(self, pcm: bytes, words: Sequence[str]) -> list[Segment] | None:
        if self._full is None:
            self._full = WordSearch(pruned=False)
        return self._full.run(pcm, words)

    def _reject(self, item: Spoken, reason: Reason, detail: str) -> Reject:
        return Reject.of(item.clip.utterance, self._config.name, reason, detail)


def _mean_score(segments: Sequence[Segment]) -> float:
    frames = sum(segment.end - segment.start for segment in segments)
    return max(LOWEST_SCORE, math.fsum(segment.nats for segment in segments) / frames)


def _aligned(item: Spoken, path: Sequence[Segment], *, fallback: bool) -> Aligned:
    spoken = [segment for segment in path if segment.is_word]
    silences = [_mean_score([s]) for s in path if not s.is_word and s.end - s.start >= _LEAST_SILENCE]
    words, used = [], 0
    for token in item.tokens:
        mine = spoken[used : used + len(token.spoken)]
        used += len(mine)
        words.append(_word(token.text, mine, item.clip.num_samples))
    return Aligned(
        clip=item.clip,
        words=tuple(words),
        score_all=_mean_score(path),
        score_words=_mean_score(spoken),
        fallback=fallback,
        score_silence=min(silences, default=None),
    )


def _word(text: str, segments: Sequence[Segment], num_samples: Samples) -> Word:
    if not segments:
        return Word(text, None, None, None)
    start, end = segments[0].start * FRAME, min(segments[-1].end * FRAME, num_samples)
    return Word(text, Samples(start), Samples(end), _mean_score(segments))
