"""What the reader reads: items in shards, addressed by (shard, item)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from stages.vocabulary import TokenSequence


class BadShard(ValueError):
    """A shard is damaged or missing; the message names the file and the fix."""


class Packed(NamedTuple):
    """The content of one block, without padding and without what can be derived.

    Attributes:
        ids: int64, shape (n,), n at most the context.
        modality: int8, shape (n,): 0 text, 1 speech; a marker counts to what it opens.
        lengths: int64: tokens of each stretch of a document in the block; their sum is n.
    """

    ids: npt.NDArray[np.int64]
    modality: npt.NDArray[np.int8]
    lengths: npt.NDArray[np.int64]


class Deferred(NamedTuple):
    """An item that costs less when it is finished together with others.

    Attributes:
        content: what `finish` takes.
        finish: returns one outcome for each content given, in order.
    """

    content: Any
    finish: "Callable[[Sequence[Any]], list[Outcome]]"


class LeftOut(NamedTuple):
    """In place of an item that holds nothing to read, such as a row without text: the reader counts it by `why`."""

    why: str


Item = TokenSequence | Packed | None
"""A document to be packed, a block as it is, or None for what is left out on purpose."""

Outcome = Item | LeftOut | BadShard


class Shard(Protocol):
    """One open shard."""

    def item(self, index: int, epoch: int) -> Item | LeftOut | Deferred:
        """Return an item as tokens, or how to get them.

        Raises:
            BadShard: if what is read is damaged.
        """

    def close(self) -> None: ...


class Source(Protocol):
    """A collection of items. Which items come when is the reader's business, what an item is the source's."""

    @property
    def name(self) -> str:
        """How people call it, in reports and errors."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Items of each shard."""

    def identity(self) -> dict[str, Any]:
        """Return, as plain JSON values, all that the items depend on: a reader's state holds for equal ones only."""

    def open(self, shard: int) -> Shard:
        """Open a shard.

        Raises:
            BadShard: if it is damaged or missing.
        """

    def expect(self, shards: Sequence[int]) -> None:
        """Take note that these shards will be opened soon, in this order; remote ones may be fetched ahead."""


class JoinedSource:
    """Several sources read as one: their items are shuffled together, each once in an epoch."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._firsts = np.cumsum([0, *(len(source.sizes) for source in self._sources)])

    @property
    def name(self) -> str:
        return " + ".join(source.name for source in self._sources)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return np.concatenate([source.sizes for source in self._sources])

    def identity(self) -> dict[str, Any]:
        return {"joined": [source.identity() for source in self._sources]}

    def open(self, shard: int) -> Shard:
        number, own = self._place(shard)
        return self._sources[number].open(own)

    def expect(self, shards: Sequence[int]) -> None:
        places = [self._place(shard) for shard in shards]
        for number, source in enumerate(self._sources):
            if own := [at for where, at in places if where == number]:
                source.expect(own)

    def _place(self, shard: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._firsts, shard, side="right")) - 1
        return number, shard - int(self._firsts[number])
