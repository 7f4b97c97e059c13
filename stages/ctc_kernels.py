"""Rows of scores of the CTC search: what a step adds, and the loops over steps.

Two searches run side by side, one from each end of the clip; step k is frame k for the forward one and the k-th frame
from the end for the backward one, which reads the targets backwards too. So the loops have half as many steps.

A row is float64, (2, 2 x width): line TOKEN, line BLANK; in each the forward search, then the backward one. In a
search's own order, column c of line TOKEN is the best path so far that ends on token c - 1, and column c of line BLANK
the best that ends on the blank before token c. Scores count from the blank of the frame, so staying on it is free.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

TOKEN, BLANK = 0, 1
FORWARD, BACKWARD = 0, 1

_CHUNK_CELLS = 1 << 15
"""Gains are gathered so many at a time: 512 kB, which stay in the cache until they are added."""
_LEAST_REFERENCE = -1000.0
"""A blank below this many nats is no reference: counting from it would cost the other scores their digits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lattice:
    """What both searches go through.

    Where a token repeats its neighbour, the blank that CTC demands between them is a token of its own that sounds like
    the blank: every token may follow its neighbour, and the loops know no special case. Where the number of frames is
    odd, a frame that can only be blank, at no cost, is thought behind the last one.

    Attributes:
        log_probs: (num_frames, vocab).
        blank: id of the blank.
        labels: per search (num_tokens,), vocabulary ids in its order.
        index: (num_tokens + 1,), per column of line TOKEN of the forward search the index into the targets; -1 for a
            demanded blank and for column 0, which is no token.
    """

    log_probs: npt.NDArray[np.float32]
    blank: int
    labels: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
    index: npt.NDArray[np.int32]

    @classmethod
    def of(cls, log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], blank: int) -> "Lattice":
        repeats = np.flatnonzero(targets[1:] == targets[:-1]) + 1
        labels = np.insert(targets.astype(np.intp), repeats, blank)
        index = np.insert(np.arange(len(targets), dtype=np.int32), [0, *repeats], -1)
        return cls(log_probs=log_probs, blank=blank, labels=(labels, labels[::-1]), index=index)

    @property
    def num_tokens(self) -> int:
        return len(self.index) - 1

    @property
    def num_steps(self) -> int:
        return (len(self.log_probs) + 1) // 2

    def picked(self, firsts: tuple[int, int], width: int) -> npt.NDArray[np.intp]:
        """Return the columns of `relative`'s table that a row's columns but the very first gain, (2 x width - 1,)."""
        vocab = self.log_probs.shape[1]
        picked = np.full((2, width), 2 * vocab, np.intp)
        for search, first in enumerate(firsts):
            mine = self.labels[search][first : first + width - 1]
            picked[search, 1 : len(mine) + 1] = mine + search * vocab
        return picked.ravel()[1:]

    def relative(self, steps: range) -> tuple[Float64, Iterable[Float64 | None]]:
        """Return what labels gain over the blank, and what the blank itself pays.

        The first is (steps, 2 x vocab + 1): both searches' frames, and a column of -inf. The second is per step (2, 1),
        by search, or None for nothing.
        """
        end = 2 * self.num_steps
        frames = np.full((len(steps), 2, self.log_probs.shape[1]), -np.inf)
        backward = self.log_probs[end - steps.stop : end - steps.start][::-1]
        thought = len(steps) - len(backward)
        frames[:, FORWARD] = self.log_probs[steps.start : steps.stop]
        frames[thought:, BACKWARD] = backward
        frames[:thought, BACKWARD, self.blank] = 0.0
        blanks = frames[:, :, self.blank, None]
        usable = blanks > _LEAST_REFERENCE
        pauses = np.where(usable, 0.0, blanks)
        frames -= np.where(usable, blanks, 0.0)
        nothing = np.full((len(steps), 1), -np.inf)
        table = np.concatenate([frames[:, FORWARD], frames[:, BACKWARD], nothing], axis=1)
        return table, repeat(None) if usable.all() else [pause if pause.any() else None for pause in pauses]


def first_row() -> Float64:
    """Return the row before any step: both searches on the blank before their first token."""
    row = np.full((2, 2), -np.inf)
    row[BLANK] = 0.0
    return row


def columns_of(row: Float64, firsts: tuple[int, int], width: int) -> Float64:
    """Return a new row with `width` columns per search, from `firsts` on; -inf where `row` has none."""
    old, new = row.reshape(2, 2, -1), np.full((2, 2, width), -np.inf)
    for search, first in enumerate(firsts):
        held = old[:, search, first : first + width]
        new[:, search, : held.shape[1]] = held
    return new.reshape(2, 2 * width)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Decisions:
    """How the best path to each place came there, one row per step, by search.

    Attributes:
        leaps: (2, num_steps, width), bool; before it came to column c, it was on token c - 1 rather than on the blank.
        moves: (2, num_steps, width), bool; before it came to token c - 1, it was on something else.
    """

    leaps: npt.NDArray[np.bool_]
    moves: npt.NDArray[np.bool_]

    @classmethod
    def empty(cls, num_steps: int, width: int) -> "Decisions":
        leaps, moves = np.empty((2, 2, num_steps, width), np.bool_)
        return cls(leaps=leaps, moves=moves)

    def part(self, steps: range, width: int) -> "Decisions":
        here = (slice(None), slice(steps.start, steps.stop), slice(width))
        return Decisions(leaps=self.leaps[here], moves=self.moves[here])

    def walk_back(self, search: int, column: int, on_token: bool) -> tuple[list[int], int, bool]:
        """Follow the best path of one search back through all steps.

        Args:
            search: FORWARD or BACKWARD.
            column: with `on_token`, the path's place at the last step.
            on_token: on token `column - 1` rather than on the blank before token `column`.

        Returns:
            Per step, from the last to the first, the column where the path is on a token and 0 where it is on a blank;
            and its place before the first step.
        """
        leaps, moves = memoryview(self.leaps[search]), memoryview(self.moves[search])
        marks = []
        for step in range(len(leaps) - 1, -1, -1):
            marks.append(column if on_token else 0)
            if not on_token:
                on_token = bool(leaps[step, column])
            elif moves[step, column]:
                column -= 1
                on_token = bool(leaps[step, column])
        return marks, column, on_token


class Stepper:
    """The loops over steps. Its scratch memory serves all of them: fresh pages cost more than the sums."""

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._gains = np.empty(max(_CHUNK_CELLS, 2 * (lattice.num_tokens + 1)))

    def advance(self, steps: range, row: Float64) -> None:
        """Move a row that holds all columns paths may reach on by `steps`, in place."""
        token, blank = row
        spoken, before, of_searches = token[1:], blank[:-1], blank.reshape(2, -1)
        for _, gains, pauses in self._chunks(steps, (0, 0), row):
            for gain, pause in zip(gains, pauses, strict=False):
                np.maximum(blank, token, out=blank)
                np.maximum(spoken, before, out=spoken)
                np.add(spoken, gain, out=spoken)
                if pause is not None:
                    np.add(of_searches, pause, out=of_searches)

    def decide(self, steps: range, firsts: tuple[int, int], row: Float64, decisions: Decisions) -> None:
        """Move a row on by `steps`, in place, and note how the paths went.

        The row's columns begin at `firsts`. What comes from below them is missing, so after k steps only those columns
        are right that are at least k above the first; all are where the first is column 0.
        """
        token, blank = row
        spoken, before, of_searches = token[1:], blank[:-1], blank.reshape(2, -1)
        (token_f, token_b), (blank_f, blank_b) = row.reshape(2, 2, -1)
        spoken_f, before_f, spoken_b, before_b = token_f[1:], blank_f[:-1], token_b[1:], blank_b[:-1]
        for part, gains, pauses in self._chunks(steps, firsts, row):
            here = decisions.part(part, len(token_f))
            ways = zip(*here.leaps, *here.moves[:, :, 1:], strict=True)
            for (leap_f, leap_b, move_f, move_b), gain, pause in zip(ways, gains, pauses, strict=False):
                np.greater(token_f, blank_f, out=leap_f)
                np.greater_equal(token_b, blank_b, out=leap_b)
                np.maximum(blank, token, out=blank)
                np.greater(before_f, spoken_f, out=move_f)
                np.greater_equal(before_b, spoken_b, out=move_b)
                np.maximum(spoken, before, out=spoken)
                np.add(spoken, gain, out=spoken)
                if pause is not None:
                    np.add(of_searches, pause, out=of_searches)

    def _chunks(
        self, steps: range, firsts: tuple[int, int], row: Float64
    ) -> Iterator[tuple[range, Float64, Iterable[Float64 | None]]]:
        """Yield for a few steps at a time: which of `steps`, what all columns but the first gain, the pauses."""
        picked = self._lattice.picked(firsts, row.shape[1] // 2)
        size = max(1, len(self._gains) // max(row.shape[1], 2 * self._lattice.log_probs.shape[1]))
        for start in range(0, len(steps), size):
            part = range(len(steps))[start : start + size]
            table, pauses = self._lattice.relative(steps[start : start + size])
            gains = self._gains[: len(table) * len(picked)].reshape(len(table), len(picked))
            np.take(table, picked, axis=1, out=gains, mode="clip")  # other modes copy
            yield part, gains, pauses
