"""Word times from files instead of an aligner: CTM, TextGrid, LibriSpeech-Alignments, whisperX, Lhotse.

The files are pinned by their sha256. What a file says is taken as it is or not at all: times are clipped by 50 ms at
most at the ends of the clip, and never made up. Price: an index at the start (`stages/alignment_files/index.py`), then
some 10 us for each word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from schemas.clock import Samples
from schemas.records import Aligned, Artifact, Spoken, Word
from schemas.rejects import Reason, Reject
from stages.alignment_files.clip_words import ClipWord, clip_words, settle
from stages.alignment_files.entry import BadAlignment, Entry, shown
from stages.alignment_files.folder import FORMATS, alignment_source, source_of
from stages.alignment_files.index import AlignmentIndex, probe
from stages.alignment_files.match import Mismatch, is_sayable, match

__all__ = ["ImportedAligner", "ImportedConfig", "alignment_source"]

LEAST_PROBABILITY = 1e-6
"""Confidences are clipped here before the logarithm: scores are at least -13.8 nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedConfig:
    """Imported alignments.

    Attributes:
        format: one of `auto`, `ctm`, `textgrid` (also the aligner MFA's CSV and JSON), `librispeech`, `whisperx`,
            `whisper-timestamped`, `lhotse`.
        tier: TextGrid tier that holds the words, alone or as `speaker - tier`; kind of a Lhotse alignment.
        source: where the files lie and their sha256, from `alignment_source`.
        max_unmatched_share: edits between transcript and imported words (a word that one side lacks, or that differs)
            that are allowed per sayable token; such tokens get no time.
    """

    name: ClassVar[str] = "align"
    version: ClassVar[int] = 1

    format: str = "auto"
    tier: str = "words"
    source: Artifact
    max_unmatched_share: float = 0.0

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {self.format!r}")
        if not 0 <= self.max_unmatched_share <= 1:
            raise ValueError(f"max_unmatched_share must lie in [0, 1], got {self.max_unmatched_share}")
        if not self.tier:
            raise ValueError("tier must not be empty")

    def index(self) -> AlignmentIndex:
        """Return the index of the files, which tells the utterances that they know."""
        return AlignmentIndex(source_of(self.source.path, self.format), self.tier)

    def setup(self) -> "ImportedAligner":
        """Check the files' sha256 and index them.

        Raises:
            BadAlignment: if they are missing, changed, of no known format, or scattered.
        """
        alignment_source(self.source.path, self.source.sha256)
        return ImportedAligner(self, self.index())

    def check(self) -> None:
        """Raise BadAlignment if the files are missing or changed, of no known format, or none of the first is read."""
        alignment_source(self.source.path, self.source.sha256)
        probe(source_of(self.source.path, self.format), self.tier)

    def metadata(self) -> dict[str, Any]:
        """Return what a dataset states about its aligner."""
        return {
            "name": "imported",
            "version": self.version,
            "score": "log of the imported confidence in nats, if it is a probability; else null",
            "format": self.format,
            "tier": self.tier,
            "source_sha256": self.source.sha256,
            "max_unmatched_share": self.max_unmatched_share,
        }


class ImportedAligner:
    """Live stage. An outcome depends on the utterance, the length of its clip, its tokens and the files alone."""

    def __init__(self, config: ImportedConfig, index: AlignmentIndex) -> None:
        self._config = config
        self._index = index

    def process(self, batch: Sequence[Spoken]) -> list[Aligned | Reject]:
        return [self._outcome(item) for item in batch]

    def _outcome(self, item: Spoken) -> Aligned | Reject:
        utterance = item.clip.utterance
        if not any(map(is_sayable, item.tokens)):
            return self._reject(item, Reason.NO_ALIGNMENT, "no spoken words")
        try:
            found = self._index.find(utterance)
            if found is None:
                return self._reject(item, Reason.NO_ALIGNMENT, self._index.missing(utterance))
            entry = self._index.read(found.entry)
            words = clip_words(entry, item.clip, on_recording=found.by_recording or entry.on_recording)
        except BadAlignment as bad:
            return self._reject(item, Reason.NO_ALIGNMENT, str(bad))
        return self._matched(item, entry, words)

    def _matched(self, item: Spoken, entry: Entry, words: list[ClipWord]) -> Aligned | Reject:
        sayable = sum(map(is_sayable, item.tokens))
        most = math.floor(self._config.max_unmatched_share * sayable + 1e-9)
        found = match(item.tokens, [word.text for word in words], [word.optional for word in words], most)
        if isinstance(found, Mismatch):
            ours = shown(item.tokens[found.token].text) if found.token < len(item.tokens) else "nothing"
            theirs = shown(words[found.word].text) if found.word < len(words) else "nothing"
            told = (
                f"too many of {sayable} words differ"
                if found.gave_up
                else f"more than {most} of {sayable} words differ"
            )
            detail = f"{entry.file}: {told}, first {ours}, where it has {theirs}"
            return self._reject(item, Reason.WRONG_TRANSCRIPT, detail)
        try:
            settle([word for k, word in enumerate(words) if k not in found.silences], entry, item.clip.num_samples)
        except BadAlignment as bad:
            return self._reject(item, Reason.NO_ALIGNMENT, str(bad))
        pieces = [[words[k] for k in used] for used in found.pieces]
        scored = entry.has_probabilities
        timed = tuple(_word(token.text, mine, scored=scored) for token, mine in zip(item.tokens, pieces, strict=True))
        if all(word.start is None for word in timed):
            return self._reject(item, Reason.NO_ALIGNMENT, f"{entry.file}: no word has a time")
        return Aligned(
            clip=item.clip,
            words=timed,
            score_all=None,
            score_words=_mean_of_words(timed),
            fallback=False,
            doubtful=found.wild,
        )

    def _reject(self, item: Spoken, reason: Reason, detail: str) -> Reject:
        return Reject.of(item.clip.utterance, self._config.name, reason, detail)


def _word(text: str, pieces: Sequence[ClipWord], *, scored: bool) -> Word:
    """Join the words that a token covers: from the start of the first to the end of the last, or no time."""
    if not pieces or pieces[0].start is None or pieces[-1].end is None:
        return Word(text, None, None, None)
    score = _mean_score(pieces) if scored else None
    return Word(text, Samples(pieces[0].start), Samples(pieces[-1].end), score)


def _mean_score(pieces: Sequence[ClipWord]) -> float | None:
    """Return the mean log-probability, by duration; None where a piece has no confidence."""
    logs = [None if w.confidence is None else math.log(max(w.confidence, LEAST_PROBABILITY)) for w in pieces]
    lengths = [0 if w.start is None or w.end is None else w.end - w.start for w in pieces]
    known = [log for log in logs if log is not None]
    if len(known) < len(logs):
        return None
    return math.fsum(log * n for log, n in zip(known, lengths, strict=True)) / sum(lengths)


def _mean_of_words(words: Sequence[Word]) -> float | None:
    """Return the mean score of the words that have one, by duration."""
    found = [
        (w.score, w.end - w.start) for w in words if w.score is not None and w.start is not None and w.end is not None
    ]
    return math.fsum(score * n for score, n in found) / sum(n for _, n in found) if found else None
