"""The reader: sources to packed token blocks, drawn anew each epoch, resumable at any block, on any world size."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pipeline.reader.lane import Lane, Shelf
from pipeline.reader.mixing import Stream
from pipeline.reader.order import Interval, Left, deal
from pipeline.reader.packing import Block, Packer, block_of
from pipeline.reader.source import Packed, Source
from stages.vocabulary import Vocabulary

STATE_FORMAT = "interloom-reader/2"

ReaderState = dict[str, Any]


class SequenceReader:
    """Packed blocks of one or several sources, for one rank.

    The items of each source lie in an order of their own for each epoch (`pipeline/reader/order.py`), which is divided
    among `streams`. A stream packs each source by itself, so a block holds one source; which source is next is decided
    by the tokens given so far. This reader serves some of the streams, round robin. So the blocks of a stream depend on
    the seed and the number of streams alone, and with that number fixed the k-th blocks of all streams, taken together,
    are the same on any world size.

    Iterating goes on from where the reader stands. The whole state is a few integers per stream and source, and what
    was left out, by message; resuming opens one shard and redraws one document for each.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        vocabulary: Vocabulary,
        *,
        context: int,
        seed: int,
        shares: Sequence[float] | None = None,
        streams: int = 1,
        serve: Sequence[int] | None = None,
        epochs: int | None = None,
        last: Literal["pad", "drop"] = "pad",
        shuffle_shards: int = 16,
        on_corrupt: Literal["raise", "skip"] = "raise",
    ) -> None:
        """Set up; nothing is opened before the first block.

        Args:
            sources: what is read, see `pipeline.reader.open_reader` for sources from paths.
            vocabulary: of all sources.
            context: tokens of a block.
            seed: of the order and of the draws.
            shares: of the tokens, one per source; None: equal ones.
            streams: among how many streams the items are divided.
            serve: the streams that this reader serves; None: all.
            epochs: stop after this many of each source; None goes on for ever. Blocks run on from one epoch into the
                next. With several sources one that is at its end leaves its share to the others.
            last: what becomes of the last block of a source, if it is not full.
            shuffle_shards: shards whose items are shuffled together, and that a stream keeps open.
            on_corrupt: a damaged shard or record ends the reading, or is left out and counted in `skipped`, where rows
                of plain text that hold no text are counted in either case.

        Raises:
            ValueError: if a number makes no sense.
        """
        shares = [1.0] * len(sources) if shares is None else list(shares)
        served = list(range(streams)) if serve is None else list(serve)
        if not sources or len(shares) != len(sources) or min(shares) <= 0:
            raise ValueError(f"{len(sources)} sources need as many positive shares, got {shares}")
        if not served or sorted(set(served)) != sorted(served) or not 0 <= min(served) <= max(served) < streams:
            raise ValueError(f"a reader serves some of the streams 0 to {streams - 1}, got {served}")
        if shuffle_shards < 1:
            raise ValueError(f"shuffle_shards must be at least 1, got {shuffle_shards}")
        self._sources, self._vocabulary, self._context, self._seed = list(sources), vocabulary, context, seed
        self._shares = [share / sum(shares) for share in shares]
        self._count, self._last, self._width = streams, last, shuffle_shards
        self._shelves = [Shelf(source, seed, shuffle_shards, on_corrupt, len(served)) for source in sources]
        self._streams = {number: self._stream(number, epochs) for number in served}

    def _stream(self, number: int, epochs: int | None) -> Stream:
        lanes = [
            Lane(shelf, Packer(self._context, self._vocabulary), stream=number, streams=self._count, epochs=epochs)
            for shelf in self._shelves
        ]
        return Stream(lanes, self._shares, seed=self._seed, number=number, context=self._context)

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def epoch(self) -> int:
        """The lowest epoch in which a next block begins."""
        return min(lane.epoch for stream in self._streams.values() for lane in stream.lanes)

    @property
    def skipped(self) -> Counter[str]:
        """What the streams served here left out as damaged or without text: message to number of items.

        It goes on counting where the state that was loaded stood: the sum over all ranks is that of the whole run.
        """
        return sum((lane.skipped for stream in self._streams.values() for lane in stream.lanes), Counter())

    def __iter__(self) -> Iterator[Block]:
        for _, packed in self.packed():
            yield block_of(packed, self._context)

    def packed(self) -> Iterator[tuple[int, Packed]]:
        """Yield the number of its source with each block, without what `block_of` derives."""
        going = dict(self._streams)
        while going:
            number = min(going, key=lambda n: (going[n].blocks, n))
            found = going[number].next_block(self._last)
            if found is None:
                del going[number]
            else:
                yield found

    def progress(self) -> list[dict[str, Any]]:
        """Return, by source, what this reader has read since the run began, as plain JSON values.

        `tokens` given, `epochs` that the items read make of what it serves, and how many items were `skipped`.
        """
        served = len(self._streams) / self._count
        found = []
        for i, shelf in enumerate(self._shelves):
            lanes = [stream.lanes[i] for stream in self._streams.values()]
            found.append(
                {
                    "source": shelf.source.name,
                    "tokens": sum(lane.tokens for lane in lanes),
                    "epochs": sum(lane.items for lane in lanes) / max(1e-9, shelf.total * served),
                    "skipped": sum(lane.skipped.total() for lane in lanes),
                }
            )
        return found

    def state_dict(self) -> ReaderState:
        """Return where the reader stands, after the last block it gave, as plain JSON values."""
        return {
            "format": STATE_FORMAT,
            "of": self._identity(),
            "served": {str(number): stream.state() for number, stream in self._streams.items()},
            "streams": self._count,
        }

    def load_state_dict(self, state: ReaderState | Sequence[ReaderState]) -> None:
        """Go to where a reader of the same sources and settings stood, or several that shared the streams.

        With the number of streams unchanged, the states given must cover the streams that this reader serves, and
        every stream goes on with the same blocks. With another number they must cover all streams, and what is left to
        read is dealt anew: each document, and each rest of one, once; counts are divided so that their sums hold.

        Raises:
            ValueError: naming each setting that differs, or the streams whose states are missing.
        """
        states = [state] if isinstance(state, Mapping) else list(state)
        served = self._checked(states)
        old = states[0]["streams"]
        needed = set(self._streams) if old == self._count else set(range(old))
        if missing := sorted(needed - set(served)):
            raise ValueError(
                f"the states of streams {missing} of {old} are missing: give the states that all ranks saved"
            )
        if old != self._count:
            served = self._dealt(served)
        for number, stream in self._streams.items():
            stream.restore(served[number])

    def _checked(self, states: Sequence[ReaderState]) -> dict[int, Mapping[str, Any]]:
        if not states:
            raise ValueError("no reader state was given")
        mine, served = self._identity(), dict[int, Mapping[str, Any]]()
        for state in states:
            if state.get("format") != STATE_FORMAT:
                raise ValueError(f"a reader state of format {state.get('format')!r}, expected {STATE_FORMAT!r}")
            theirs = state["of"]
            if differs := [f"{k}: {theirs.get(k)!r} then, {mine[k]!r} now" for k in mine if mine[k] != theirs.get(k)]:
                raise ValueError("the reader's state belongs to another run: " + "; ".join(differs))
            if state["streams"] != states[0]["streams"]:
                raise ValueError(
                    f"states of {states[0]['streams']} and of {state['streams']} streams do not belong together"
                )
            served |= {int(number): value for number, value in state["served"].items()}
        return served

    def _dealt(self, served: Mapping[int, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
        """Return states for this reader's number of streams."""
        lanes: list[list[dict[str, Any]]] = [[] for _ in range(self._count)]
        for i, shelf in enumerate(self._shelves):
            old = {number: value["lanes"][i] for number, value in served.items()}
            left = {n: Left(v["epoch"], tuple(Interval(*todo) for todo in v["todo"])) for n, v in old.items()}
            skipped = sum((Counter(v.get("skipped", {})) for v in old.values()), Counter[str]())
            for number, new in enumerate(deal(left, streams=self._count, total=shelf.total)):
                counts = {name: _part(sum(v[name] for v in old.values()), number, self._count) for name in COUNTS}
                own = {why: part for why, count in skipped.items() if (part := _part(count, number, self._count))}
                todo = [list(interval) for interval in new.todo]
                lanes[number].append({"epoch": new.epoch, "todo": todo, "skipped": own, **counts})
        owed = [sum(v["owed"][i] for v in served.values()) / self._count for i in range(len(self._shelves))]
        return {number: {"blocks": 0, "lanes": lanes[number], "owed": owed} for number in range(self._count)}

    def _identity(self) -> dict[str, Any]:
        return {
            "context": self._context,
            "seed": self._seed,
            "shares": self._shares,
            "shuffle_shards": self._width,
            "sources": [source.identity() for source in self._sources],
        }


COUNTS = ("items", "tokens")


def _part(total: int, number: int, parts: int) -> int:
    """Return a part of a count that is divided among streams; the parts add up to it."""
    return (number + 1) * total // parts - number * total // parts
