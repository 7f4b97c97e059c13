"""Forced alignment on the log-probabilities of a CTC model, for any language whose transcripts are spelled in a to z.

A path gives each letter at least one frame (Graves et al. 2006; for alignment: arXiv 2007.09127). CTC models emit a
letter in few frames and the blank in the rest, so a word's end, which is that of the last frame of its last letter, is
often early. It is never moved to look better.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from schemas.clock import FrameGrid, Samples, seconds_from_samples
from schemas.records import Aligned, Artifact, Spoken, Token, Word
from schemas.rejects import Reason, Reject
from stages.ctc_models import HUGGINGFACE, CtcLabels

SCORE_VERSION = 1
LOWEST_SCORE = -99.0
"""Stands for lower ones: records are JSON, which cannot hold -inf."""

STAR_NATS = -0.1
"""Log-probability of a star in each frame: above that of any label where the text is silent about what is spoken, below
that of the blank in silence.
"""

_SILENCE_SECONDS = 0.5
"""Pauses inside speech are shorter and hold breaths and closures."""

_Float32 = npt.NDArray[np.float32]
_Int32 = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcConfig:
    """Forced alignment with a CTC model.

    Attributes:
        checkpoint: folder in Hugging Face's layout, or the file of a torchaudio bundle.
        model: `huggingface`, or the bundle's name.
        star: align a wildcard to tokens that have letters or digits but cannot be spelled. Such words are doubtful.
        window_seconds: longer clips pass the model in windows of this length.
        context_seconds: what a window sees of its neighbours on each side.
        max_words_per_second: a transcript with more spoken words than this is rejected before any search.
        precision: of the encoder: `float32`, `bfloat16` or `float16`.
    """

    name: ClassVar[str] = "align"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    model: str = HUGGINGFACE
    star: bool = True
    window_seconds: float = 30.0
    context_seconds: float = 2.0
    max_words_per_second: float = 12.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if not 0 < self.window_seconds < math.inf:
            raise ValueError(f"window_seconds must be positive, got {self.window_seconds}")
        if not 0 <= self.context_seconds < math.inf:
            raise ValueError(f"context_seconds must not be negative, got {self.context_seconds}")
        if not self.max_words_per_second > 0:
            raise ValueError(f"max_words_per_second must be positive, got {self.max_words_per_second}")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"precision must be float32, bfloat16 or float16, got {self.precision!r}")

    def check(self) -> None:
        """Read the checkpoint without building the model.

        Raises:
            BadCheckpoint: if it is missing, changed, damaged, or no CTC model of letters.
            ValueError: if `model` is no bundle.
        """
        from stages.ctc_models import read_head
        from stages.speech_encoder import check_encoder

        read_head(self.checkpoint, self.model)
        check_encoder(self.checkpoint, model=self.model, layer=None)

    def setup(self) -> "CtcAligner":
        from stages.ctc_emissions import CtcEmissions
        from stages.ctc_models import read_head
        from stages.speech_encoder import load_encoder

        head = read_head(self.checkpoint, self.model)
        encoder = load_encoder(self.checkpoint, model=self.model, layer=None, precision=self.precision)
        times = {"window_seconds": self.window_seconds, "context_seconds": self.context_seconds}
        return CtcAligner(self, head.labels, CtcEmissions(encoder, head, **times))

    def metadata(self) -> dict[str, Any]:
        """Return what a dataset states about its aligner: versions, hashes and the meaning of the scores."""
        return {
            "name": "ctc",
            "version": self.version,
            "score": "mean log-probability per frame in nats: of a word's letters; for the clip, of the letters and "
            "blanks of all frames but the wildcards'; for silence, of no letter, in the worst half second",
            "score_version": SCORE_VERSION,
            "checkpoint_sha256": self.checkpoint.sha256,
            "model": self.model,
            "precision": self.precision,
            "star": self.star,
            "windows": [self.window_seconds, self.context_seconds],
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """What a path must pass through.

    Attributes:
        ids: int32, columns of the log-probabilities; the star's column is `labels.width`.
        owner: int32, for each target the token that it belongs to, or -1 for marks between words.
        starred: the tokens that stars stand for.
    """

    ids: _Int32
    owner: _Int32
    starred: frozenset[int]


def targets_of(tokens: Sequence[Token], labels: CtcLabels, *, star: bool) -> Targets:
    """Spell a transcript: each spoken word's letters, and the model's mark between words where it has one.

    A token of which no letter can be spelled becomes one star if it has a letter or digit; without `star`, and for
    bare punctuation, it has no target.
    """
    ids: list[int] = []
    owner: list[int] = []
    starred = set()
    for i, token in enumerate(tokens):
        words = [spelt for word in token.spoken if (spelt := labels.spell(word))]
        if not words and star and any(char.isalnum() for char in token.text):
            words = [[labels.width]]
            starred.add(i)
        for word in words:
            if ids and labels.delimiter is not None:
                ids.append(labels.delimiter)
                owner.append(-1)
            ids += word
            owner += [i] * len(word)
    return Targets(ids=np.array(ids, np.int32), owner=np.array(owner, np.int32), starred=frozenset(starred))


def with_star(log_probs: _Float32) -> _Float32:
    """Append the star's column, the same in each frame.

    Measured on the bundled corpus with the tests' tiny model, one word in the place of a star: with -0.1 the star's
    interval overlaps the word's by 83 %, as much as with 0, which torchaudio's MMS_FA has; of a second of silence put
    in after the word it takes 15 ms instead of 135. The best letter of each frame, which leaves silence alone too,
    overlaps by 14 % only, since it pays for the blanks between letters.
    """
    return np.pad(log_probs, ((0, 0), (0, 1)), constant_values=np.float32(STAR_NATS))


class CtcAligner:
    """Live aligner. An outcome is a pure function of the clip's samples and tokens.

    `emissions` is a `stages.ctc_emissions.CtcEmissions`, or what tests put in its place.
    """

    def __init__(self, config: CtcConfig, labels: CtcLabels, emissions: Any) -> None:
        self._config = config
        self._labels = labels
        self._emissions = emissions

    def process(self, batch: Sequence[Spoken]) -> list[Aligned | Reject]:
        planned = [self._plan(item) for item in batch]
        clips = [item.clip.pcm for item, plan in zip(batch, planned, strict=True) if isinstance(plan, Targets)]
        log_probs = iter(self._emissions.log_probs(clips) if clips else [])
        return [
            plan if isinstance(plan, Reject) else self._outcome(item, plan, next(log_probs))
            for item, plan in zip(batch, planned, strict=True)
        ]

    def _plan(self, item: Spoken) -> Targets | Reject:
        """Return the targets, or why there is no point in running the model."""
        from stages.ctc_search import least_frames

        spoken = sum(len(token.spoken) for token in item.tokens)
        num_samples = item.clip.num_samples
        seconds, most = seconds_from_samples(num_samples), self._config.max_words_per_second
        if spoken > most * seconds:
            detail = f"{spoken} words in {seconds:.2f} s, more than {most:g} per second"
            return self._reject(item, Reason.TOO_MANY_WORDS, detail)
        targets = targets_of(item.tokens, self._labels, star=self._config.star)
        if not set(targets.owner.tolist()) - targets.starred - {-1}:
            return self._reject(item, Reason.NO_ALIGNMENT, "no spoken words")
        frames = self._emissions.num_frames(num_samples)
        if frames < 1:
            return self._reject(item, Reason.TOO_SHORT, f"{num_samples} samples are less than one frame of the model")
        if frames < least_frames(targets.ids):
            return self._no_path(item)
        return targets

    def _outcome(self, item: Spoken, targets: Targets, log_probs: _Float32) -> Aligned | Reject:
        from stages.ctc_search import align_ctc

        if not np.isfinite(log_probs).all():
            return self._reject(item, Reason.NO_ALIGNMENT, "the model's output is not finite")
        labels = self._labels
        path = align_ctc(with_star(log_probs) if targets.starred else log_probs, targets.ids, labels.blank)
        if path is None:
            return self._no_path(item)
        marks = [labels.blank] if labels.delimiter is None else [labels.blank, labels.delimiter]
        silent = np.logaddexp.reduce(log_probs[:, marks].astype(np.float64), axis=1)
        return aligned(item, targets, path.tokens, path.nats, silent, self._emissions.grid)

    def _no_path(self, item: Spoken) -> Reject:
        spoken, seconds = sum(len(token.spoken) for token in item.tokens), seconds_from_samples(item.clip.num_samples)
        return self._reject(item, Reason.NO_ALIGNMENT, f"no path for {spoken} words in {seconds:.2f} s")

    def _reject(self, item: Spoken, reason: Reason, detail: str) -> Reject:
        return Reject.of(item.clip.utterance, self._config.name, reason, detail)


def aligned(
    item: Spoken, targets: Targets, path: _Int32, nats: _Float32, silent: npt.NDArray[np.float64], grid: FrameGrid
) -> Aligned:
    """Turn a path into words: a word lasts from its first letter's first frame to its last letter's last.

    Args:
        item: the clip and its tokens.
        targets: of its tokens.
        path: int32, shape (num_frames,), target of each frame, -1 for blank; every target has a frame.
        nats: shape (num_frames,), log-probability of each frame's label.
        silent: shape (num_frames,), log-probability of each frame that no letter is emitted.
        grid: of the frames; frame i covers the hop around its position.
    """
    owner = np.where(path >= 0, targets.owner[path], -1)
    starred = np.isin(owner, sorted(targets.starred))
    frames = np.flatnonzero(owner >= 0)
    tokens, firsts = np.unique(owner[frames], return_index=True)
    lasts = np.append(firsts[1:], len(frames)) - 1
    words = [Word(token.text, None, None, None) for token in item.tokens]
    for token, first, last in zip(tokens.tolist(), frames[firsts].tolist(), frames[lasts].tolist(), strict=True):
        start, end = _interval(first, last, grid, item.clip.num_samples)
        mine = nats[first : last + 1][owner[first : last + 1] == token]
        score = None if token in targets.starred else _mean(mine)
        words[token] = Word(item.tokens[token].text, start, end, score)
    return Aligned(
        clip=item.clip,
        words=tuple(words),
        score_all=_mean(nats[~starred]),
        score_words=_mean(nats[(owner >= 0) & ~starred]),
        fallback=False,
        score_silence=_worst_silence(owner < 0, silent, grid),
        doubtful=tuple(sorted(targets.starred)),
    )


def _interval(first: int, last: int, grid: FrameGrid, num_samples: int) -> tuple[Samples, Samples]:
    left = grid.hop // 2
    start, end = grid.position(first) - left, grid.position(last) - left + grid.hop
    return Samples(max(0, start)), Samples(min(end, num_samples))


def _mean(nats: npt.NDArray[Any]) -> float:
    return max(LOWEST_SCORE, math.fsum(nats.tolist()) / len(nats))


def _worst_silence(quiet: npt.NDArray[np.bool_], silent: npt.NDArray[np.float64], grid: FrameGrid) -> float | None:
    """Return the lowest mean of `silent` over half a second in which no frame is a word's, or None without one."""
    width = max(1, math.ceil(_SILENCE_SECONDS * float(grid.rate)))
    if len(quiet) < width:
        return None
    spans = np.lib.stride_tricks.sliding_window_view(quiet, width).all(axis=1)
    means = np.lib.stride_tricks.sliding_window_view(silent, width)[spans].mean(axis=1)
    return max(LOWEST_SCORE, float(means.min())) if len(means) else None
