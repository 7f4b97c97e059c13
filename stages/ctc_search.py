"""The best CTC path of a transcript through a clip's log-probabilities: exact, in memory that hours of audio fit into.

Viterbi search over the CTC lattice (Graves et al. 2006, "Connectionist Temporal Classification", section 4.1, with the
sum replaced by the maximum). Two things differ from the textbook:

- Where a token repeats its neighbour, CTC wants a blank between them. It is written into the targets as a token of
  its own that happens to sound like the blank. So every token may follow its neighbour directly, and no special case is
  left in the inner loop.
- Instead of a back-pointer per frame and token, one row of scores is kept every few frames. The way back computes the
  frames between two kept rows once more, and there only the cone of tokens that can reach the path's place.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_Float64 = npt.NDArray[np.float64]

_TOKEN, _BLANK = 0, 1
"""The two lines of a row of scores."""
_WHOLE_CELLS = 1 << 21
"""A lattice of at most so many frames x tokens is kept whole: 32 MB, and the way back computes nothing again."""
_CHUNK_CELLS = 1 << 16
"""Emissions are gathered so many at a time: 512 kB, which stay in the cache until they are added."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CtcPath:
    """One label per frame.

    Attributes:
        tokens: (num_frames,), index into the targets of the token that each frame carries, -1 for blank. Never falls
            from token to token; every target has at least one frame.
        nats: (num_frames,), log-probability of that frame's label.
    """

    tokens: npt.NDArray[np.int32]
    nats: npt.NDArray[np.float32]


def align_ctc(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], blank: int) -> CtcPath | None:
    """Return the path of the highest total log-probability, or None where there is none.

    There is no path where the frames are fewer than `least_frames(targets)` or every path holds a -inf.

    Scores are running sums in float64, added in the order of the frames: over an hour they are right to 1e-9 nats, and
    the same on every machine. Of paths that tie, the one wins that is, read from the last frame backwards, further on
    in the transcript: blank after the last token, then the last token, and so on. So tokens begin as early as a tie
    allows.

    Args:
        log_probs: (num_frames, vocab), natural logarithm; -inf is allowed, NaN and +inf are not.
        targets: (num_targets,), at least one; ids of the vocabulary other than `blank`.
        blank: the id of the blank.

    Raises:
        ValueError: wrong dtype, rank or id, no targets, NaN or +inf.

    Price: frames x targets steps of about 2 ns each on one thread; memory beside the input: 32 MB, or about
    50 (frames x targets)^(2/3) bytes where that is more.
    """
    _check(log_probs, targets, blank)
    lattice = _Lattice.of(log_probs, targets, blank)
    tokens = _best_tokens(lattice)
    if tokens is None:
        return None
    labels = np.where(tokens < 0, blank, targets[tokens])
    return CtcPath(tokens=tokens, nats=log_probs[np.arange(len(log_probs)), labels])


def least_frames(targets: npt.NDArray[np.int32]) -> int:
    """Return how many frames any path of these targets takes: one each, and a blank between equal neighbours."""
    return len(targets) + int(np.count_nonzero(targets[1:] == targets[:-1]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lattice:
    """The search's view of one clip.

    A row of scores is float64, (2, num_tokens + 1). Column c holds in line _TOKEN the best path so far that ends on
    token c - 1, and in line _BLANK the best that ends on the blank before token c.
    """

    log_probs: npt.NDArray[np.float32]
    blank: int
    labels: npt.NDArray[np.intp]
    """(num_tokens,), vocabulary ids of the targets with the blanks that CTC demands."""
    index: npt.NDArray[np.int32]
    """(num_tokens,), where each comes from in the targets, -1 for a demanded blank."""

    @classmethod
    def of(cls, log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int32], blank: int) -> "_Lattice":
        repeats = np.flatnonzero(targets[1:] == targets[:-1]) + 1
        return cls(
            log_probs=log_probs,
            blank=blank,
            labels=np.insert(targets.astype(np.intp), repeats, blank),
            index=np.insert(np.arange(len(targets), dtype=np.int32), repeats, -1),
        )

    @property
    def num_frames(self) -> int:
        return len(self.log_probs)

    @property
    def num_tokens(self) -> int:
        return len(self.labels)

    def least_token(self, frame: int) -> int:
        """Return the first token from which the rest can still be spoken when `frame` is on it."""
        return max(0, self.num_tokens - self.num_frames + frame)

    def emissions(self, frames: range, tokens: slice) -> tuple[_Float64, _Float64]:
        """Return the frames' log-probabilities of the tokens, (frames, tokens), and of the blank, (frames, 1)."""
        rows = self.log_probs[frames.start : frames.stop].astype(np.float64)
        return rows[:, self.labels[tokens]], rows[:, self.blank, None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _KeptRow:
    """Scores before frame `frame`, of the columns from `first` on that paths reach and can still finish from."""

    frame: int
    first: int
    scores: _Float64

    def cut(self, columns: slice) -> _Float64:
        """Return a row of just these columns, `columns.start >= first`; those no path reaches yet hold -inf."""
        row = np.full((2, columns.stop - columns.start), -np.inf)
        held = self.scores[:, columns.start - self.first : columns.stop - self.first]
        row[:, : held.shape[1]] = held
        return row


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the path is after some frame: on token `column - 1`, or on the blank before token `column`."""

    column: int
    line: int


def _best_tokens(lattice: _Lattice) -> npt.NDArray[np.int32] | None:
    num_frames, num_tokens = lattice.num_frames, lattice.num_tokens
    if num_frames < num_tokens:
        return None
    tokens = np.empty(num_frames, np.int32)
    place, end = None, num_frames
    for kept in reversed(_kept_rows(lattice, _rows_apart(num_frames, num_tokens))):
        top = num_tokens if place is None else place.column
        first = max(kept.first, top - (end - kept.frame) - 1)
        history = _history(lattice, range(kept.frame, end), first, kept.cut(slice(first, top + 1)))
        if place is None:
            place = _final_place(history[-1], num_tokens)
            if place is None:
                return None
        place = _trace(history, first, place, lattice.index, tokens[kept.frame : end])
        end = kept.frame
    return tokens


def _rows_apart(num_frames: int, num_tokens: int) -> int:
    """Return after how many frames a row is kept: kept rows and the cone between two of them cost alike."""
    cells = num_frames * num_tokens
    return num_frames if cells <= _WHOLE_CELLS else math.ceil((cells / 2) ** (1 / 3))


def _kept_rows(lattice: _Lattice, step: int) -> list[_KeptRow]:
    """Run the search forwards and return the row before frames 0, step, 2 step, ..."""
    scores = np.full((2, lattice.num_tokens + 1), -np.inf)
    scores[_BLANK, 0] = 0.0
    kept = [_KeptRow(frame=0, first=0, scores=scores.copy())]
    for start in range(0, lattice.num_frames - step, step):
        stop = start + step
        _advance(lattice, range(start, stop), scores)
        first = lattice.least_token(stop)
        reached = min(stop, lattice.num_tokens) + 1
        kept.append(_KeptRow(frame=stop, first=first, scores=scores[:, first:reached].copy()))
    return kept


def _advance(lattice: _Lattice, frames: range, scores: _Float64) -> None:
    """Move a row of scores on in place, in each frame only where paths are and can finish.

    Below that band the row goes stale. What is stale climbs one token per frame, as the band does, and never enters it.
    """
    for part in _chunks(frames, lattice.num_tokens):
        low, high = lattice.least_token(part.start), min(part.stop, lattice.num_tokens)
        token, blank = scores[_TOKEN, low : high + 1], scores[_BLANK, low : high + 1]
        spoken, before = token[1:], blank[:-1]
        of_tokens, of_blank = lattice.emissions(part, slice(low, high))
        for gain, pause in zip(of_tokens, of_blank, strict=True):
            np.maximum(blank, token, out=blank)
            np.maximum(spoken, before, out=spoken)
            np.add(spoken, gain, out=spoken)
            np.add(blank, pause, out=blank)


def _history(lattice: _Lattice, frames: range, first: int, row: _Float64) -> _Float64:
    """Return the rows before and after all frames, (num_frames + 1, 2, columns), the first of them `row`.

    Right where token columns lie at least as far above `first` as the frame above the first frame.
    """
    rows = np.empty((len(frames) + 1, *row.shape))
    rows[0] = row
    rows[1:, _TOKEN, 0] = -np.inf
    columns = slice(first, first + row.shape[1] - 1)
    token, blank = row
    for part in _chunks(frames, row.shape[1]):
        mine = rows[part.start - frames.start + 1 : part.stop - frames.start + 1]
        after = zip(mine[:, _TOKEN], mine[:, _TOKEN, 1:], mine[:, _BLANK], mine[:, _BLANK, :-1], strict=True)
        of_tokens, of_blank = lattice.emissions(part, columns)
        spoken = token[1:]
        for (next_token, next_spoken, next_blank, before), gain, pause in zip(after, of_tokens, of_blank, strict=True):
            np.maximum(blank, token, out=next_blank)
            np.maximum(spoken, before, out=next_spoken)
            np.add(next_spoken, gain, out=next_spoken)
            np.add(next_blank, pause, out=next_blank)
            token, spoken, blank = next_token, next_spoken, next_blank
    return rows


def _chunks(frames: range, width: int) -> Iterator[range]:
    size = max(1, _CHUNK_CELLS // max(1, width))
    for start in range(frames.start, frames.stop, size):
        yield range(start, min(start + size, frames.stop))


def _final_place(row: _Float64, num_tokens: int) -> _Place | None:
    token, blank = row[:, -1]
    if max(token, blank) == -np.inf:
        return None
    return _Place(num_tokens, _BLANK if blank >= token else _TOKEN)


def _trace(
    history: _Float64, first: int, place: _Place, index: npt.NDArray[np.int32], tokens: npt.NDArray[np.int32]
) -> _Place:
    """Walk back from `place` after the last frame, write what each frame carries, return the place before them all."""
    column, on_token = place.column - first, place.line == _TOKEN
    token, blank = history[:, _TOKEN], history[:, _BLANK]
    for frame in range(len(tokens) - 1, -1, -1):
        if on_token:
            tokens[frame] = index[first + column - 1]
            stay = token[frame, column]
            column -= 1
            of_token, of_blank = token[frame, column], blank[frame, column]
            if stay >= of_token and stay >= of_blank:
                column += 1
            else:
                on_token = of_token > of_blank
        else:
            tokens[frame] = -1
            on_token = token[frame, column] > blank[frame, column]
    return _Place(column + first, _TOKEN if on_token else _BLANK)


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
