"""Mixing: which source a stream's next block comes from, and what shares mean in epochs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.reader.lane import Lane, Shelf
from pipeline.reader.order import EpochOrder
from pipeline.reader.source import Packed, Source
from schemas.canonical import rng_for

SAMPLED_ITEMS = 200
MOST_ROUNDS = 1000


class Stream:
    """Blocks of several sources, by shares of the tokens: the next block comes from the source that is owed most."""

    def __init__(self, lanes: Sequence[Lane], shares: Sequence[float], *, seed: int, number: int, context: int) -> None:
        self.lanes, self._shares = lanes, shares
        self._owed = [0.0] * len(lanes)
        # Streams begin at different places of the round: otherwise all would draw on the same source at the same time.
        for _ in range(int(rng_for(seed, "mixture", number).integers(min(MOST_ROUNDS, math.ceil(1 / min(shares)))))):
            self._give(self._next(frozenset()), context)
        self.blocks = 0

    def next_block(self, last: Literal["pad", "drop"]) -> tuple[int, Packed] | None:
        """Return the number of a source and a block of it; None when every source is at its end."""
        ended: set[int] = set()
        while len(ended) < len(self.lanes):
            chosen = self._next(ended)
            block = self.lanes[chosen].next_block(last)
            if block is None:
                ended.add(chosen)
                continue
            self._give(chosen, len(block.ids))
            self.blocks += 1
            return chosen, block
        return None

    def _next(self, ended: Set[int]) -> int:
        return max((i for i in range(len(self.lanes)) if i not in ended), key=lambda i: self._owed[i])

    def _give(self, source: int, tokens: int) -> None:
        self._owed = [owed + share * tokens for owed, share in zip(self._owed, self._shares, strict=True)]
        self._owed[source] -= tokens

    def state(self) -> dict[str, Any]:
        return {"blocks": self.blocks, "lanes": [lane.state() for lane in self.lanes], "owed": self._owed}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.blocks, self._owed = state["blocks"], list(state["owed"])
        for lane, own in zip(self.lanes, state["lanes"], strict=True):
            lane.restore(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """How much of a source a run of so many tokens takes.

    Attributes:
        tokens: of the run, that come from this source.
        epoch_tokens: estimate of the tokens in an epoch of it.
    """

    name: str
    share: float
    items: int
    tokens: float
    epoch_tokens: float

    @property
    def epochs(self) -> float:
        return self.tokens / self.epoch_tokens if self.epoch_tokens else float("inf")


def implied_epochs(sources: Sequence[Source], shares: Sequence[float], tokens: float, *, seed: int) -> list[Drawn]:
    """Return what a mixture implies, from a sample of each source's items, spread over the order of epoch 0.

    Raises:
        BadShard: if a sampled item is damaged.
    """
    found = []
    for source, share in zip(sources, shares, strict=True):
        shelf = Shelf(source, seed, 1, "raise")
        count = min(SAMPLED_ITEMS, shelf.total)
        order = EpochOrder(source.sizes, seed=seed, epoch=0, window=1)
        seen = 0
        for i in range(count):
            window = order.window_at(i * shelf.total // count)
            at = i * shelf.total // count - window.start
            (outcome,) = shelf.items([(int(window.shards[at]), int(window.items[at]))], 0)
            item = shelf.sound(outcome, Counter())
            seen += len(item.ids) if item is not None else 0
        mean = seen / count if count else 0.0
        part = share / sum(shares)
        found.append(
            Drawn(
                name=source.name, share=part, items=shelf.total, tokens=part * tokens, epoch_tokens=mean * shelf.total
            )
        )
    return found
