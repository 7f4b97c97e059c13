"""Words by column: what a reader of millions of utterances can afford, where an object per word is most of the cost."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, Self, cast, overload

from schemas.clock import Samples
from schemas.records import Word

Times = Sequence[Samples | None]


@dataclass(frozen=True, slots=True, eq=False)
class Words(Sequence[Word]):
    """A sequence of words; columns of equal length, see `schemas.records.Word`."""

    texts: Sequence[str] = ()
    starts: Times = ()
    ends: Times = ()
    scores: Sequence[float | None] = ()
    _made: "tuple[Word, ...] | None" = field(default=None, init=False, repr=False)
    _timed: bool = field(default=False, init=False, repr=False)
    """Whether it is known that every word has both times."""

    @classmethod
    def of(cls, words: Iterable[Word]) -> Self:
        if isinstance(words, cls):
            return words
        return cls(*zip(*words, strict=True))

    @classmethod
    def from_json(cls, rows: Any) -> Self:
        """Return words from lists of [text, start, end, score].

        Raises:
            TypeError: if that is not what the rows are.
            ValueError: if a row has another length.
        """
        if not rows:
            return cls()
        texts, starts, ends, scores = zip(*rows, strict=True)
        times = {*map(type, starts), *map(type, ends)}
        if {*map(type, texts)} != {str} or not times <= {int, NoneType}:
            raise TypeError("words are [text, start, end, score] with whole samples or null as times")
        if not {*map(type, scores)} <= {float, int, NoneType}:
            raise TypeError("the scores of words are numbers or null")
        return cls(texts, starts, ends, scores)._with(timed=NoneType not in times)

    @classmethod
    def joined(cls, parts: Sequence[tuple[Sequence[Word], int]]) -> Self:
        """Return the words of all parts, their times moved by as many samples as stand beside them."""
        if len(parts) == 1 and parts[0][1] == 0:
            return cls.of(parts[0][0])
        texts: list[str] = []
        starts: list[Samples | None] = []
        ends: list[Samples | None] = []
        scores: list[float | None] = []
        timed = True
        for words, by in parts:
            own = cls.of(words)
            timed = timed and own._timed
            texts += own.texts
            starts += _moved(own.starts, by)
            ends += _moved(own.ends, by)
            scores += own.scores
        return cls(texts, starts, ends, scores)._with(timed=timed)

    def _with(self, *, timed: bool) -> Self:
        object.__setattr__(self, "_timed", timed)
        return self

    def without_time(self) -> list[int]:
        """Return the words that have no start or no end."""
        if self._timed or (None not in self.starts and None not in self.ends):
            return []
        return [i for i, times in enumerate(zip(self.starts, self.ends, strict=True)) if None in times]

    def __len__(self) -> int:
        return len(self.texts)

    @overload
    def __getitem__(self, index: int) -> Word: ...
    @overload
    def __getitem__(self, index: slice) -> "Words": ...
    def __getitem__(self, index: int | slice) -> "Word | Words":
        if isinstance(index, slice):
            return Words(self.texts[index], self.starts[index], self.ends[index], self.scores[index])
        if self._made is not None:
            return self._made[index]
        return Word(self.texts[index], self.starts[index], self.ends[index], self.scores[index])

    def __iter__(self) -> Iterator[Word]:
        if self._made is None:
            object.__setattr__(self, "_made", tuple(map(Word, self.texts, self.starts, self.ends, self.scores)))
        return iter(self._made or ())

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))


def _moved(times: Times, by: int) -> Times:
    if by == 0:
        return times
    # A call of Samples for each word would double the price.
    return cast(Times, [None if time is None else time + by for time in times])
