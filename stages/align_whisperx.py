"""whisperX's alignment of a given text (arXiv 2303.00747, 3.3), as another aligner beside `ctc` and pocketsphinx.

whisperX's own loop runs, from its package, on a clip as one segment; times and scores are its own. What differs:

- The model comes from this machine, and its file is read as tensors only.
- whisperX cuts a text into sentences by NLTK's Punkt, whose data it downloads; here the clip is one sentence. Sentences
  only group words, so no time depends on it.
- whisperX gives words that it cannot align the time of a neighbour; here they have no time.

Its lattice has no blank between equal letters and its path ends where its score is highest, not at the clip's
end; `ctc` is exact in both. Price on a CPU with one thread: the model's own, and 0.01 s per second of audio in Python.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from schemas.clock import SAMPLE_RATE, Samples, samples_from_seconds
from schemas.records import Aligned, Artifact, Spoken, Word
from schemas.rejects import Reason, Reject
from stages.checkpoints import verified_path
from stages.compute import compiled, device
from stages.whisperx_ctc import HUGGINGFACE, WhisperxCtc, check_ctc, load_ctc

LOWEST_PROBABILITY = 0.0005
"""whisperX rounds scores to three digits; a smaller one reads 0."""
WITHOUT_SPACES = ("ja", "zh")
"""Languages that whisperX aligns letter by letter, without a separator of words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhisperxAlignConfig:
    """What decides the times.

    Attributes:
        checkpoint: a `Wav2Vec2ForCTC` folder, or the weight file of a torchaudio bundle.
        model: `huggingface`, or the name of the bundle, such as WAV2VEC2_ASR_BASE_960H.
        language: code; whisperX takes `ja` and `zh` for languages without spaces.
    """

    name: ClassVar[str] = "align"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    model: str = HUGGINGFACE
    language: str = "en"

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be 'huggingface' or the name of a torchaudio bundle, got ''")
        if not self.language.isalpha():
            raise ValueError(f"language must be a code such as 'en', got {self.language!r}")

    def check(self) -> None:
        """Check the installation and the checkpoint; reads the weights and builds no model.

        Raises:
            BadCheckpoint: if a file is missing or of another kind, or a tensor is missing or has another shape.
            ImportError: if whisperX is not installed.
        """
        import importlib.util

        if importlib.util.find_spec("whisperx") is None:
            raise ImportError("whisperx is not installed: pip install 'interloom[whisperx]'")
        check_ctc(self.checkpoint.path, self.model)

    def setup(self) -> "WhisperxAligner":
        from whisperx import alignment

        alignment.nltk_load = _OneSentence
        model = load_ctc(str(verified_path(self.checkpoint)), self.model)
        return WhisperxAligner(self, model.moved(compiled, device()), alignment.align)

    def metadata(self) -> dict[str, Any]:
        """Return what a dataset states about its aligner: versions, hashes and the meaning of the scores."""
        from importlib.metadata import version

        return {
            "name": "whisperx",
            "version": self.version,
            "model": self.model,
            "language": self.language,
            "model_sha256": self.checkpoint.sha256,
            "score": "natural logarithm of whisperX's word score, the mean over a word's letters of the mean "
            "probability per frame along the path, blanks included",
            "whisperx": version("whisperx"),
        }


class WhisperxAligner:
    """Live aligner; clips are aligned one by one."""

    def __init__(self, config: WhisperxAlignConfig, model: WhisperxCtc, align: Any) -> None:
        self._config = config
        self._model = model
        self._align = align

    def process(self, batch: Sequence[Spoken]) -> list[Aligned | Reject]:
        return [self._outcome(item) for item in batch]

    def _outcome(self, item: Spoken) -> Aligned | Reject:
        text = " ".join(word for token in item.tokens for word in token.spoken)
        if not text:
            return self._reject(item, "no spoken words")
        separated = "|" in self._model.dictionary and self._config.language not in WITHOUT_SPACES
        letters = len(text) if separated else len(text.replace(" ", ""))
        frames = self._model.num_frames(len(item.clip.pcm))
        if letters > frames:
            return self._reject(item, f"{letters} letters in {frames} frames")
        found = self._run(item, text)
        if not found:
            return self._reject(item, f"no path for {letters} letters in {frames} frames")
        return self._aligned(item, found)

    def _run(self, item: Spoken, text: str) -> list[dict[str, Any]]:
        """Return whisperX's words: each has `word`, and `start`, `end` (seconds) and `score` where it was aligned."""
        import torch

        wave = item.clip.pcm.astype(np.float32) / np.float32(32768)
        described = {
            "language": self._config.language,
            "dictionary": self._model.dictionary,
            "type": "huggingface" if self._config.model == HUGGINGFACE else "torchaudio",
        }
        segment = {"text": text, "start": 0.0, "end": len(wave) / SAMPLE_RATE}
        place = str(self._model.device)
        try:
            found = self._align([segment], self._model.network, described, wave, place, interpolate_method="ignore")
        except torch.OutOfMemoryError:
            raise MemoryError("the device has no memory for this record") from None
        words: list[dict[str, Any]] = found["word_segments"]
        return words

    def _aligned(self, item: Spoken, found: Sequence[dict[str, Any]]) -> Aligned | Reject:
        rest = iter(found)
        words, doubtful = [], []
        for i, token in enumerate(item.tokens):
            mine = _take(rest, "".join(token.spoken))
            if mine is None:
                return self._reject(item, "whisperX's words are not those of the transcript")
            words.append(_word(token.text, mine, item.clip.num_samples))
            letters = "".join(token.spoken)
            if letters and 2 * sum(c not in self._model.dictionary for c in letters) >= len(letters):
                doubtful.append(i)
        return Aligned(
            clip=item.clip,
            words=tuple(words),
            score_all=None,
            score_words=_mean_score(words),
            fallback=False,
            doubtful=tuple(doubtful),
        )

    def _reject(self, item: Spoken, detail: str) -> Reject:
        return Reject.of(item.clip.utterance, self._config.name, Reason.NO_ALIGNMENT, detail)


class _OneSentence:
    """Stands for NLTK's sentence splitter and for its loader: any text is one sentence."""

    def __init__(self, name: str) -> None:
        del name

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        return [(0, len(text))]


def _take(found: Any, letters: str) -> list[dict[str, Any]] | None:
    """Take the words, or the single letters of languages without spaces, that spell some letters."""
    taken: list[dict[str, Any]] = []
    spelt = ""
    while len(spelt) < len(letters):
        word = next(found, None)
        if word is None:
            return None
        taken.append(word)
        spelt += word["word"].replace(" ", "")
    return taken if spelt == letters else None


def _word(text: str, found: Sequence[dict[str, Any]], num_samples: Samples) -> Word:
    """A word without a score was not aligned, whatever time it has."""
    if not found or any("score" not in item or "start" not in item or "end" not in item for item in found):
        return Word(text, None, None, None)
    start = samples_from_seconds(float(found[0]["start"]))
    end = min(samples_from_seconds(float(found[-1]["end"])), num_samples)
    nats = [math.log(max(float(item["score"]), LOWEST_PROBABILITY)) for item in found]
    return Word(text, start, Samples(end), math.fsum(nats) / len(nats))


def _mean_score(words: Sequence[Word]) -> float | None:
    """Return the mean of the words' scores, weighted by their lengths; None where no word has a time."""
    timed = [
        (w.end - w.start, w.score) for w in words if w.start is not None and w.end is not None and w.score is not None
    ]
    total = sum(length for length, _ in timed)
    return math.fsum(length * score for length, score in timed) / total if total else None
