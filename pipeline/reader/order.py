"""The order of a source's items in an epoch, and what a stream of it has still to read.

The order is a pure function of the seed, the epoch and the sizes of the shards: shards are permuted, taken in windows,
and the items of a window permuted together. Streams are contiguous intervals of it, so a stream opens few shards at a
time, and any number of streams divides the items without overlap or hole.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.canonical import rng_for

Index = npt.NDArray[np.int64]


class Window(NamedTuple):
    """Positions [start, stop) of the order, and the shard and the item at each."""

    start: int
    stop: int
    shards: Index
    items: Index


class EpochOrder:
    """The order in one epoch.

    Costs one permutation of the shards; a window costs one permutation of its items.
    """

    def __init__(self, sizes: Index, *, seed: int, epoch: int, window: int) -> None:
        """Args are the items of each shard, and how many shards make a window."""
        filled = np.flatnonzero(sizes)
        self._order = filled[rng_for(seed, "shards", epoch).permutation(len(filled))]
        self._ends = np.cumsum(sizes[self._order])
        self._sizes, self._seed, self._epoch, self._width = sizes, seed, epoch, window

    def window_at(self, position: int) -> Window:
        """Return the window that holds a position.

        Raises:
            IndexError: if the order ends before it.
        """
        place = int(np.searchsorted(self._ends, position, side="right"))
        if position < 0 or place >= len(self._order):
            raise IndexError(f"position {position} of {int(self._ends[-1]) if len(self._ends) else 0}")
        number = place // self._width
        first, last = number * self._width, min((number + 1) * self._width, len(self._order))
        chosen = self._order[first:last]
        counts = self._sizes[chosen]
        start = int(self._ends[first - 1]) if first else 0
        shards = np.repeat(chosen, counts)
        items = np.arange(len(shards)) - np.repeat(np.cumsum(counts) - counts, counts)
        mixed = rng_for(self._seed, "items", self._epoch, number).permutation(len(shards))
        return Window(start, start + len(shards), shards[mixed], items[mixed])

    def shards_from(self, position: int, count: int) -> list[int]:
        """Return the next shards from the window after a position's on, at most `count`."""
        place = int(np.searchsorted(self._ends, position, side="right"))
        after = (place // self._width + 1) * self._width
        return [int(shard) for shard in self._order[after : after + count]]


class Interval(NamedTuple):
    """Positions [start, stop) of an epoch's order; of the item at `start`, the tokens before `token` are done."""

    epoch: int
    start: int
    stop: int
    token: int = 0


def share_of(stream: int, streams: int, total: int, epoch: int) -> Interval:
    """Return a stream's part of an epoch.

    Which interval a stream has rotates with the epoch, so that none goes empty for ever where items are few.
    """
    place = (stream + epoch) % streams
    return Interval(epoch, place * total // streams, (place + 1) * total // streams)


class Left(NamedTuple):
    """What a stream has still to read: these intervals, then its shares of the epochs after `epoch`."""

    epoch: int
    todo: tuple[Interval, ...]


def deal(left: Mapping[int, Left], *, streams: int, total: int) -> list[Left]:
    """Divide what all of some streams have still to read among another number of streams.

    Streams may be in different epochs: all are brought up to the newest, epoch by epoch, and go on together from there.

    Args:
        left: of every old stream, by its number.
        streams: how many new ones.
        total: items in an epoch.
    """
    newest = max(one.epoch for one in left.values())
    pools: dict[int, list[Interval]] = {}
    for stream, one in sorted(left.items()):
        full = [share_of(stream, len(left), total, epoch) for epoch in range(one.epoch + 1, newest + 1)]
        for interval in (*one.todo, *full):
            if interval.start < interval.stop:
                pools.setdefault(interval.epoch, []).append(interval)
    parts = [_divided(sorted(pools[epoch], key=lambda i: i.start), streams) for epoch in sorted(pools)]
    return [Left(newest, tuple(interval for part in parts for interval in part[new])) for new in range(streams)]


def _divided(intervals: Sequence[Interval], streams: int) -> list[list[Interval]]:
    """Cut ascending intervals into parts of equal numbers of items, in order."""
    total = sum(i.stop - i.start for i in intervals)
    ends = [place * total // streams for place in range(1, streams + 1)]
    parts: list[list[Interval]] = [[] for _ in ends]
    for interval, begin in zip(intervals, _begins(intervals), strict=True):
        for part, (low, high) in enumerate(zip([0, *ends], ends, strict=False)):
            start, stop = max(low, begin), min(high, begin + interval.stop - interval.start)
            if start < stop:
                shifted = interval.start - begin
                token = interval.token if start == begin else 0
                parts[part].append(Interval(interval.epoch, start + shifted, stop + shifted, token))
    return parts


def _begins(intervals: Iterable[Interval]) -> Iterator[int]:
    """Yield how many items lie before each interval."""
    lengths = [i.stop - i.start for i in intervals]
    return iter([0, *accumulate(lengths)][: len(lengths)])
