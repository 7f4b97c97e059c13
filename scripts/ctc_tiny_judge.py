"""What the tiny CTC model's alignments are worth on voices and sentences that it was not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scripts.ctc_tiny_data import RATE, Said, Wave, letters
from scripts.ctc_tiny_lattice import BLANK, FRAMES_PER_SECOND
from stages.ctc_search import align_ctc

MARGIN_S = 0.15
LEVEL = 0.05  # RMS of the speech
NOISE = 2.0 / 32768  # RMS of the room

LogProbs = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Errors of word starts in seconds; scores are mean log-probabilities of the letters on the path."""

    utterances: int
    words: int
    median: float
    p90: float
    within_50_ms: float
    within_100_ms: float
    right: float
    wrong: float
    right_above_wrong: float
    letter_errors: float

    def lines(self) -> list[str]:
        """The figures for people."""
        return [
            f"held-out utterances: {self.utterances}, words: {self.words}",
            f"word starts: median error {1000 * self.median:.0f} ms, p90 {1000 * self.p90:.0f} ms, "
            f"{self.within_50_ms:.1%} within 50 ms, {self.within_100_ms:.1%} within 100 ms",
            f"mean score: right transcript {self.right:.2f}, another one's {self.wrong:.2f}, "
            f"right above wrong in {self.right_above_wrong:.1%}",
            f"letter errors of greedy decoding: {self.letter_errors:.1%}",
        ]


def recorded(said: Said, seed: int) -> tuple[Wave, list[tuple[str, float | None, float | None]]]:
    """Return the utterance as it is kept: margins, a quiet room, 16 bit; and its words with the times moved."""
    rng = np.random.default_rng(seed)
    level = LEVEL / float(np.sqrt(np.mean(said.wave**2)))
    margin = round(MARGIN_S * RATE)
    wave = np.pad(said.wave * min(level, 0.9 / float(np.abs(said.wave).max())), margin)
    wave = wave + NOISE * rng.standard_normal(len(wave))
    words = [
        (token.written, _moved(word.start), _moved(word.end))
        for token, word in zip(said.tokens, said.words, strict=True)
    ]  # fmt: skip
    return (np.round(wave * 32768) / 32768).astype(np.float32), words


def _moved(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds + MARGIN_S, 3)


def emissions(model: Any, wave: Wave) -> LogProbs:
    """Return log-probabilities of the labels, float32, shape (num_frames, num_labels)."""
    normal = torch.from_numpy((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).float()
    with torch.inference_mode():
        log_probs: LogProbs = torch.log_softmax(model(normal[None]).logits[0], dim=-1).numpy()
    return log_probs


def aligned(log_probs: LogProbs, words: Sequence[str], vocab: dict[str, int]) -> tuple[list[float], float]:
    """Return each word's start in seconds and the mean log-probability of the letters on the best path.

    The start is that of the first frame of the word's first letter.

    Raises:
        ValueError: if the words have more letters than the clip has frames.
    """
    path = align_ctc(log_probs, np.array([vocab[letter] for letter in "|".join(words)], dtype=np.int32), BLANK)
    if path is None:
        raise ValueError(f"{' '.join(words)!r} does not fit into {len(log_probs)} frames")
    firsts = np.cumsum([0, *(len(word) + 1 for word in words[:-1])])
    starts = [int(np.argmax(path.tokens == first)) / FRAMES_PER_SECOND for first in firsts]
    return starts, float(path.nats[path.tokens >= 0].mean())


def judge(model: Any, utterances: Sequence[Said], vocab: dict[str, int]) -> Figures:
    """Align each utterance with its own transcript and with that of another one that fits into its time."""
    model.eval()
    errors: list[float] = []
    right: list[float] = []
    wrong: list[float] = []
    edits = total = 0
    texts = [[letters(token.spoken) for token in said.tokens] for said in utterances]
    for index, said in enumerate(utterances):
        wave, words = recorded(said, index)
        log_probs = emissions(model, wave)
        starts, score = aligned(log_probs, texts[index], vocab)
        errors += [abs(at - gold) for at, (_, gold, _) in zip(starts, words, strict=True) if gold is not None]
        right.append(score)
        wrong.append(aligned(log_probs, _other(texts, index, len(log_probs)), vocab)[1])
        best = log_probs.argmax(axis=1)
        heard = [int(label) for label in best[np.diff(best, prepend=-1) != 0] if label != BLANK]
        wanted = [vocab[letter] for letter in "|".join(texts[index])]
        edits, total = edits + _distance(heard, wanted), total + len(wanted)
    error = np.array(errors)
    return Figures(
        utterances=len(utterances),
        words=len(errors),
        median=float(np.median(error)),
        p90=float(np.quantile(error, 0.9)),
        within_50_ms=float(np.mean(error <= 0.05)),
        within_100_ms=float(np.mean(error <= 0.1)),
        right=float(np.mean(right)),
        wrong=float(np.mean(wrong)),
        right_above_wrong=float(np.mean(np.array(right) > np.array(wrong))),
        letter_errors=edits / total,
    )


def _other(texts: Sequence[list[str]], index: int, num_frames: int) -> list[str]:
    """The next other text that is short enough for CTC, which needs a frame for each label and each double letter."""
    for step in range(1, len(texts)):
        other = texts[(index + step) % len(texts)]
        if other != texts[index] and 2 * len("|".join(other)) < num_frames:
            return other
    return texts[index]


def _distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Levenshtein."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, start=1):
        corner, row[0] = row[0], i
        for j, above in enumerate(b, start=1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (left != above))
    return row[-1]
