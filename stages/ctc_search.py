"""The best CTC path of a transcript through a clip's log-probabilities: exact, in memory that hours of audio fit into.

Viterbi search over the CTC lattice (Graves et al. 2006, "Connectionist Temporal Classification", section 4.1, with the
sum replaced by the maximum). One search from each end; they meet in the middle, and from there the path is followed
to both ends. For an utterance the way to each place is noted, two bytes per frame and target. For long audio only a row
of scores is kept every so many steps; the way back takes the steps between two rows once more, but only in the cone of
columns that can lead to the path's place.

`torchaudio.functional.forced_align` sums in float32 and, where advancing by one and by two tie, stays instead, so that
it may return a path that is not the best (torchaudio 2.8, `forced_align/cpu/compute.cpp`).
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.ctc_kernels import (
    BACKWARD,
    FORWARD,
    Decisions,
    Float64,
    Lattice,
    Stepper,
    columns_of,
    first_row,
)

_WHOLE_CELLS = 1 << 21
"""Of a lattice of at most so many frames x tokens every decision is kept, 4 MB; the way back computes nothing again."""
_WHOLE_APART = 96
"""Steps after which the rows of a small lattice are made wider, to the columns that paths can reach by then."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CtcPath:
    """One label per frame.

    Attributes:
        tokens: (num_frames,), index into the targets of the token that each frame carries, -1 for blank. Every target
            has at least one frame, and they come in order.
        nats: (num_frames,), log-probability of that frame's label.
    """

    tokens: npt.NDArray[np.int32]
    nats: npt.NDArray[np.float32]


def align_ctc(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], blank: int) -> CtcPath | None:
    """Return the path of the highest total log-probability, or None where there is none.

    There is no path where the frames are fewer than `least_frames(targets)`, and where every path holds a -inf.

    Sums are in float64 and added in a fixed order: the same on every machine, over an hour right to 1e-6 nats. Of paths
    that tie, the one wins that at every frame is furthest along in the transcript (there always is such a one): tokens
    begin as early as a tie allows.

    Args:
        log_probs: (num_frames, vocab), natural logarithm; -inf is allowed, NaN and +inf are not.
        targets: (num_targets,), at least one; ids of the vocabulary other than `blank`.
        blank: the id of the blank.

    Raises:
        ValueError: wrong dtype, rank or id, no targets, NaN or +inf.

    Price: one thread, 1 to 3 ns per frame and target; memory beside the input 5 MB, or about
    25 x (frames x targets)^(2/3) bytes where that is more: 90 MB for an hour of speech.
    """
    _check(log_probs, targets, blank)
    lattice = Lattice.of(log_probs, targets, blank)
    if len(log_probs) < lattice.num_tokens:
        return None
    tokens = _search(lattice)
    if tokens is None:
        return None
    labels = np.where(tokens < 0, blank, targets[tokens])
    return CtcPath(tokens=tokens, nats=log_probs[np.arange(len(log_probs)), labels])


def least_frames(targets: npt.NDArray[np.int32]) -> int:
    """Return how many frames any path of these targets takes: one each, and a blank between equal neighbours."""
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a path is, in a search's own order: on token `column - 1`, or on the blank before token `column`."""

    column: int
    on_token: bool

    def seen_from_the_other_end(self, num_tokens: int) -> "_Place":
        column = num_tokens - self.column
        return _Place(column=column + 1 if self.on_token else column, on_token=self.on_token)


def _search(lattice: Lattice) -> npt.NDArray[np.int32] | None:
    """Return what each frame carries. Between the blocks of steps the row is made wider, by what paths can reach."""
    whole = len(lattice.log_probs) * lattice.num_tokens <= _WHOLE_CELLS
    apart = _WHOLE_APART if whole else _steps_apart(lattice)
    every = range(lattice.num_steps)
    blocks = [every[start : start + apart] for start in every[::apart]]
    decisions = Decisions.empty(lattice.num_steps, lattice.num_tokens + 1) if whole else None
    stepper, row = Stepper(lattice), first_row()
    kept = []
    for steps in blocks:
        kept.append(row)
        row = columns_of(row, (0, 0), min(steps.stop, lattice.num_tokens) + 1)
        if decisions is None:
            stepper.advance(steps, row)
        else:
            stepper.decide(steps, (0, 0), row, decisions.part(steps, row.shape[1] // 2))
    places = _meeting(columns_of(row, (0, 0), lattice.num_tokens + 1))
    if places is None:
        return None
    marks: tuple[list[int], list[int]] = ([], [])
    if decisions is not None:
        _follow(decisions, (0, 0), places, marks)
        return _tokens(lattice, marks)
    for steps in reversed(blocks):
        firsts, width = _cones(places, len(steps), lattice.num_tokens)
        cones = Decisions.empty(len(steps), width)
        stepper.decide(steps, firsts, columns_of(kept.pop(), firsts, width), cones)
        places = _follow(cones, firsts, places, marks)
    return _tokens(lattice, marks)


def _steps_apart(lattice: Lattice) -> int:
    """Return after how many steps a row is kept: the rows take 32 hn / K bytes, the cones 4 K^2 and time that grows."""
    return math.ceil(math.cbrt(lattice.num_steps * lattice.num_tokens))


def _meeting(row: Float64) -> tuple[_Place, _Place] | None:
    """Join the searches; return the places of both at their last step, each in its search's own order."""
    (token, token_there), (blank, blank_there) = row.reshape(2, 2, -1)
    entry = np.maximum(blank, token)
    on_blank = entry + blank_there[::-1]
    on_token = np.maximum(token[1:], entry[:-1]) + token_there[:0:-1]
    best = max(on_blank.max(), on_token.max())
    if best == -np.inf:
        return None
    blanks, tokens = np.flatnonzero(on_blank == best), np.flatnonzero(on_token == best) + 1
    last_blank, last_token = int(blanks.max(initial=-1)), int(tokens.max(initial=-1))
    later = _Place(column=max(last_blank, last_token), on_token=last_token > last_blank)
    earlier = later
    if not later.on_token or entry[later.column - 1] > token[later.column]:
        column = later.column - later.on_token
        earlier = _Place(column=column, on_token=bool(token[column] > blank[column]))
    return earlier, later.seen_from_the_other_end(len(entry) - 1)


def _cones(places: tuple[_Place, _Place], num_steps: int, num_tokens: int) -> tuple[tuple[int, int], int]:
    """Return where the columns begin that lead to the places at the last of the steps, and how many they are."""
    width = min(num_steps, num_tokens) + 1
    forward, backward = (max(0, place.column + 1 - width) for place in places)
    return (forward, backward), width


def _follow(
    decisions: Decisions, firsts: tuple[int, int], places: tuple[_Place, _Place], marks: tuple[list[int], list[int]]
) -> tuple[_Place, _Place]:
    """Follow both searches' paths back; note per step the column, 0 for a blank; return the places before."""
    before = []
    for search, first, place in zip((FORWARD, BACKWARD), firsts, places, strict=True):
        found, column, on = decisions.walk_back(search, place.column - first, place.on_token)
        marks[search].extend(mark + first if mark else 0 for mark in found)
        before.append(_Place(column=column + first, on_token=on))
    return before[FORWARD], before[BACKWARD]


def _tokens(lattice: Lattice, marks: tuple[list[int], list[int]]) -> npt.NDArray[np.int32]:
    forward, backward = np.array(marks[FORWARD][::-1]), np.array(marks[BACKWARD])
    backward = np.where(backward > 0, lattice.num_tokens + 1 - backward, 0)
    columns = np.concatenate([forward, backward])[: len(lattice.log_probs)]
    return np.take(lattice.index, columns)


def _check(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], blank: int) -> None:
    if log_probs.dtype != np.float32 or log_probs.ndim != 2:
        raise ValueError(f"log_probs must be float32, (num_frames, vocab), got {log_probs.dtype} {log_probs.shape}")
    if targets.dtype != np.int32 or targets.ndim != 1 or len(targets) == 0:
        raise ValueError(f"targets must be int32, (num_targets,), at least one, got {targets.dtype} {targets.shape}")
    vocab = log_probs.shape[1]
    if not 0 <= blank < vocab:
        raise ValueError(f"blank must be in 0..{vocab - 1}, got {blank}")
    wrong = targets[(targets < 0) | (targets >= vocab) | (targets == blank)]
    if len(wrong):
        raise ValueError(f"targets must be in 0..{vocab - 1} and not the blank {blank}, got {wrong[0]}")
    if log_probs.size and not log_probs.max() < np.inf:
        raise ValueError("log_probs must not hold NaN or +inf")
