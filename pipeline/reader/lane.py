"""A lane: what one stream reads of one source, packed into blocks."""

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, cast

from pipeline.reader.order import EpochOrder, Interval, Left, Window, share_of
from pipeline.reader.packing import Packer
from pipeline.reader.source import BadShard, Deferred, Item, LeftOut, Outcome, Packed, Shard, Source
from stages.vocabulary import TokenSequence

MIN_OPEN = 512
"""Open shards of a source, at least; they are memory maps, so the price of one is a few pages."""

MOST_AHEAD = 64
MOST_TOKENS_AHEAD = 32_768
"""How many items, and about how many tokens, a lane reads ahead."""

MOST_REASONS = 64
OTHERS = "others"
"""A lane counts what it leaves out by so many messages; further ones count together, so that states stay small."""


@dataclass(slots=True)
class Shelf:
    """A source with its open shards and the orders of its epochs, shared by the lanes of a reader.

    Attributes:
        on_corrupt: whether what is damaged ends the reading, or is left out and counted.
        lanes: how many read from it.
    """

    source: Source
    seed: int
    width: int
    on_corrupt: Literal["raise", "skip"]
    lanes: int = 1
    _open: "OrderedDict[int, Shard | BadShard]" = field(default_factory=OrderedDict)
    _orders: dict[int, EpochOrder] = field(default_factory=dict)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = int(self.source.sizes.sum())

    def order(self, epoch: int) -> EpochOrder:
        if epoch not in self._orders:
            # Lanes are at most an epoch apart, save after a state was dealt anew.
            if len(self._orders) >= 4:
                del self._orders[min(self._orders)]
            self._orders[epoch] = EpochOrder(self.source.sizes, seed=self.seed, epoch=epoch, window=self.width)
        return self._orders[epoch]

    def items(self, places: Sequence[tuple[int, int]], epoch: int) -> list[Outcome]:
        """Return the items at (shard, index), each its tokens or what is wrong with it."""
        found: list[Outcome | Deferred] = [self._item(shard, index, epoch) for shard, index in places]
        deferred = [(at, item) for at, item in enumerate(found) if isinstance(item, Deferred)]
        for finish, group in groupby(deferred, key=lambda pair: pair[1].finish):
            places_of, contents = zip(*((at, item.content) for at, item in group), strict=True)
            for at, outcome in zip(places_of, finish(contents), strict=True):
                found[at] = outcome
        return cast(list[Outcome], found)

    def _item(self, shard: int, index: int, epoch: int) -> Outcome | Deferred:
        try:
            opened = self._opened(shard)
            return opened if isinstance(opened, BadShard) else opened.item(index, epoch)
        except BadShard as error:
            return error

    def sound(self, outcome: Outcome, skipped: Counter[str]) -> Item:
        """Return an item; None in place of one that is left out, which is counted in `skipped` by its message.

        Raises:
            BadShard: if it is damaged and that ends the reading.
        """
        if not isinstance(outcome, BadShard | LeftOut):
            return outcome
        if isinstance(outcome, BadShard) and self.on_corrupt == "raise":
            raise outcome
        why = outcome.why if isinstance(outcome, LeftOut) else str(outcome)
        skipped[why if why in skipped or len(skipped) < MOST_REASONS else OTHERS] += 1
        return None

    def _opened(self, shard: int) -> Shard | BadShard:
        """Return the open shard, or why it cannot be opened, which is not tried again for each item."""
        if shard not in self._open:
            # Each lane comes back to the shards of its window.
            if len(self._open) >= max(MIN_OPEN, 2 * self.width * self.lanes):
                _, oldest = self._open.popitem(last=False)
                if not isinstance(oldest, BadShard):
                    oldest.close()
            try:
                self._open[shard] = self.source.open(shard)
            except BadShard as error:
                self._open[shard] = error
        self._open.move_to_end(shard)
        return self._open[shard]


class Lane:
    """Blocks of one source for one stream, resumable at each: between blocks nothing but `Left` and counts is kept.

    Attributes:
        items: taken up whole, those left out included.
        tokens: given in blocks.
        skipped: items that were left out as damaged or without text: message to number.
    """

    def __init__(self, shelf: Shelf, packer: Packer, *, stream: int, streams: int, epochs: int | None) -> None:
        self._shelf, self._packer = shelf, packer
        self._stream, self._streams, self._epochs = stream, streams, epochs
        self._epoch = -1
        self._todo: deque[Interval] = deque()
        self._window: tuple[int, Window] | None = None
        self._ahead: deque[tuple[int, int, Outcome]] = deque()
        self._reach = 1
        self._half_read: TokenSequence | None = None
        self._left = Left(-1, ())
        self.items, self.tokens, self.skipped = 0, 0, Counter[str]()
        self._counts = self._counted()

    @property
    def left(self) -> Left:
        """What is still to be read after the last block given."""
        return self._left

    @property
    def epoch(self) -> int:
        """The epoch in which the next block begins."""
        if self._left.todo:
            return self._left.todo[0].epoch
        # Where streams outnumber items, a stream's share of an epoch may be empty; it rotates through all shares.
        coming = range(self._left.epoch + 1, self._left.epoch + 1 + self._streams)
        shares = (share_of(self._stream, self._streams, self._shelf.total, epoch) for epoch in coming)
        return next((share.epoch for share in shares if share.start < share.stop), coming.start)

    def next_block(self, last: Literal["pad", "drop"]) -> Packed | None:
        """Return the next block; None after the last epoch.

        Raises:
            BadShard: if what comes next is damaged.
            ValueError: if epoch after epoch holds nothing for this stream.
        """
        idle = 0
        while True:
            if not self._todo:
                if self._epochs is not None and self._epoch + 1 >= self._epochs:
                    break
                if idle > self._streams and not self._packer.used:
                    raise ValueError(
                        f"stream {self._stream} of {self._streams} gets no document of {self._shelf.source.name}: "
                        "too few documents"
                    )
                idle += 1
                self._epoch += 1
                share = share_of(self._stream, self._streams, self._shelf.total, self._epoch)
                if share.start < share.stop:
                    self._todo.append(share)
                continue
            block = self._read_one()
            if block is not None:
                return self._given(block)
        if self._packer.used and (last == "pad" or self._packer.room == 0):
            return self._given(self._packer.take())
        return None

    def _read_one(self) -> Packed | None:
        """Take up the next item, or the rest of it; return a block where that fills one."""
        epoch, start, stop, token = self._todo[0]
        item = self._half_read or self._shelf.sound(self._next(epoch, start, stop), self.skipped)
        if isinstance(item, TokenSequence):
            after = self._packer.add(item, token)
            if after < len(item.ids):
                self._half_read = item
                self._todo[0] = Interval(epoch, start, stop, after)
                return self._packer.take()
        self._half_read = None
        self.items += 1
        self._todo.popleft()
        if start + 1 < stop:
            self._todo.appendleft(Interval(epoch, start + 1, stop))
        return item if isinstance(item, Packed) else None

    def _next(self, epoch: int, position: int, stop: int) -> Outcome:
        """Return the item at a position, and read a few more ahead, since they cost less together."""
        if self._ahead and self._ahead[0][:2] == (epoch, position):
            return self._ahead.popleft()[2]
        window = self._window_of(epoch, position)
        last = min(stop, window.stop, position + self._reach)
        here = slice(position - window.start, last - window.start)
        places = list(zip(window.shards[here].tolist(), window.items[here].tolist(), strict=True))
        found = self._shelf.items(places, epoch)
        tokens = sum(len(item.ids) for item in found if isinstance(item, TokenSequence | Packed))
        # The first item comes alone, so that a reader that resumes in an hour of speech is there at once.
        self._reach = max(1, min(2 * self._reach, MOST_AHEAD, MOST_TOKENS_AHEAD * len(found) // (tokens + 1)))
        self._ahead = deque((epoch, at, item) for at, item in enumerate(found, position))
        return self._ahead.popleft()[2]

    def _window_of(self, epoch: int, position: int) -> Window:
        if self._window is None or self._window[0] != epoch or not _holds(self._window[1], position):
            order = self._shelf.order(epoch)
            self._window = (epoch, order.window_at(position))
            now = dict.fromkeys(self._window[1].shards.tolist())
            self._shelf.source.expect([*now, *order.shards_from(position, self._shelf.width)])
        return self._window[1]

    def _given(self, block: Packed) -> Packed:
        self.tokens += len(block.ids)
        self._left, self._counts = Left(self._epoch, tuple(self._todo)), self._counted()
        return block

    def _counted(self) -> dict[str, Any]:
        return {"items": self.items, "skipped": dict(self.skipped), "tokens": self.tokens}

    def state(self) -> dict[str, Any]:
        """Return where the lane stood after the last block it gave, and what it had counted there."""
        return {
            "epoch": self._left.epoch,
            "todo": [list(interval) for interval in self._left.todo],
            **self._counts,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._left = Left(state["epoch"], tuple(Interval(*values) for values in state["todo"]))
        self._epoch, self._todo = self._left.epoch, deque(self._left.todo)
        self.items, self.tokens, self.skipped = state["items"], state["tokens"], Counter(state.get("skipped", {}))
        self._counts = self._counted()
        self._window, self._half_read = None, None
        self._ahead.clear()
        self._reach = 1
        self._packer.take()


def _holds(window: Window, position: int) -> bool:
    return window.start <= position < window.stop
