"""CTC in which every word may only be read where the synthesiser says that it is.

The states of a transcript are, as in CTC (Graves et al. 2006), its labels with blanks between. Each state has a span of
frames in which it is allowed; forward and backward passes over what is left give the probability of each label at each
frame, and the cross-entropy with it has the gradient of CTC. So the first letter of a word learns to appear where the
word starts, which plain CTC does not ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

NEVER = -1e30
BLANK = 0
FRAMES_PER_SECOND = 50


class Group(NamedTuple):
    """Words with one span in seconds; more than one word where no time is known for the later ones."""

    words: tuple[str, ...]
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """States of a transcript: label, first frame and frame after the last in which the state is allowed.

    int64, shape (num_states,); blanks are the even states.
    """

    labels: npt.NDArray[np.int64]
    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]


def lattice_of(groups: Sequence[Group], vocab: dict[str, int], num_frames: int) -> Lattice:
    """Return the states of a transcript whose groups follow one another in time."""
    spans = [(round(g.start * FRAMES_PER_SECOND), round(g.end * FRAMES_PER_SECOND)) for g in groups]
    states: list[tuple[int, int, int]] = [(BLANK, 0, spans[0][0] + 1)]
    for index, (group, (start, end)) in enumerate(zip(groups, spans, strict=True)):
        text = "|".join(group.words)
        latest = max(start + len(text), end)
        following = spans[index + 1][0] if index + 1 < len(groups) else num_frames
        for letter in text:
            states += [(vocab[letter], start, latest), (BLANK, start, latest)]
        # The last letter lasts until shortly before the word's end, then comes a blank.
        states[-1] = (BLANK, end - 3, following + 1)
        if index + 1 < len(groups):
            states += [(vocab["|"], end - 2, max(following, end - 1)), (BLANK, end - 1, following + 1)]
    labels, low, high = (np.array(column, dtype=np.int64) for column in zip(*states, strict=True))
    return Lattice(labels=labels, low=low, high=high)


def posteriors(log_probs: torch.Tensor, lattices: Sequence[Lattice]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how likely each label is at each frame, given the transcript and its times.

    Args:
        log_probs: float32, shape (batch, num_frames, num_labels).
        lattices: one for each of the batch.

    Returns:
        float32 of the same shape, rows sum to 1 or, where no path is allowed, to 0; and bool of shape (batch,), false
        there.
    """
    batch, frames, _ = log_probs.shape
    count = max(len(lattice.labels) for lattice in lattices)
    labels, allowed = torch.zeros(batch, count, dtype=torch.int64), torch.full((batch, frames, count), NEVER)
    last = torch.full((batch, count), NEVER)
    time = np.arange(frames)[:, None]
    for row, lattice in enumerate(lattices):
        size = len(lattice.labels)
        labels[row, :size] = torch.from_numpy(lattice.labels)
        inside = torch.from_numpy((time >= lattice.low) & (time < lattice.high))
        allowed[row, :, :size].masked_fill_(inside, 0.0)
        last[row, size - 2 : size] = 0.0
    emitted = log_probs.gather(2, labels[:, None].expand(batch, frames, count)) + allowed
    skip = torch.full((batch, count), NEVER)
    skip[:, 2:].masked_fill_((labels[:, 2:] != BLANK) & (labels[:, 2:] != labels[:, :-2]), 0.0)
    first = torch.full((batch, count), NEVER)
    first[:, :2] = 0.0
    forward = _pass(emitted, first, skip, shift=1)
    backward = _pass(emitted.flip(1), last, torch.nn.functional.pad(skip[:, 2:], (0, 2), value=NEVER), shift=-1).flip(1)
    joint = forward + backward - emitted
    total = torch.logsumexp(joint, dim=2, keepdim=True)
    reached = total.squeeze(2).amin(dim=1) > NEVER / 2
    share = torch.exp(joint - total) * reached[:, None, None]
    return torch.zeros_like(log_probs).scatter_add_(2, labels[:, None].expand_as(share), share), reached


def _pass(emitted: torch.Tensor, first: torch.Tensor, skip: torch.Tensor, shift: int) -> torch.Tensor:
    """Sum over all paths up to each frame and state, along the states (shift 1) or against them (shift -1)."""
    batch, frames, count = emitted.shape
    out = torch.empty_like(emitted)
    out[:, 0] = torch.clamp(emitted[:, 0] + first, min=NEVER)
    padded = torch.full((batch, count + 2), NEVER)
    inner = slice(2, None) if shift == 1 else slice(0, count)
    one = slice(1, count + 1)
    two = slice(0, count) if shift == 1 else slice(2, None)
    for frame in range(1, frames):
        padded[:, inner] = out[:, frame - 1]
        paths = torch.logsumexp(torch.stack((padded[:, inner], padded[:, one], padded[:, two] + skip)), dim=0)
        out[:, frame] = torch.clamp(paths + emitted[:, frame], min=NEVER)
    return out
