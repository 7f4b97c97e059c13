"""The reader over sources made up here: who gets what, in which order, and what a state is worth."""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.lane import MOST_REASONS
from pipeline.reader.mixing import implied_epochs
from pipeline.reader.packing import Block
from pipeline.reader.sequence_reader import SequenceReader
from pipeline.reader.source import BadShard, JoinedSource, Packed, Shard
from stages.vocabulary import TokenSequence, Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer

VOCABULARY = Vocabulary(ByteTokenizer(), SIZES)
CONTEXT = 16


class Numbered:
    """Items of 1 to 40 text tokens: a marker, then the item's own number, the epoch and the place of the token."""

    def __init__(self, sizes: Sequence[int], *, name: str = "numbered", bad: Sequence[int] = ()) -> None:
        self.name, self.sizes, self._bad = name, np.array(sizes), set(bad)
        self.opened: list[int] = []

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}

    def open(self, shard: int) -> Shard:
        self.opened.append(shard)
        if shard in self._bad:
            raise BadShard(f"{self.name}/shard-{shard} is damaged")
        return _Items(shard)

    def expect(self, shards: Sequence[int]) -> None:
        assert len(shards) == len(set(shards))


class _Items:
    def __init__(self, shard: int) -> None:
        self._shard = shard

    def item(self, index: int, epoch: int) -> TokenSequence | None:
        length = (7 * self._shard + 11 * index) % 40
        if length == 0:
            return None
        body = [number_of(self._shard, index, epoch, at) for at in range(length)]
        ids = np.array([VOCABULARY.marker_id(0), *body], dtype=np.int64)
        glued = np.zeros(len(ids), dtype=bool)
        glued[1] = True
        return TokenSequence(ids, np.zeros(len(ids), dtype=np.int8), glued)

    def close(self) -> None:
        pass


class Blocks:
    """Items that are blocks already."""

    name = "blocks"

    def __init__(self, count: int) -> None:
        self.sizes = np.array([count])

    def identity(self) -> dict[str, Any]:
        return {}

    def open(self, shard: int) -> Shard:
        return self

    def expect(self, shards: Sequence[int]) -> None: ...

    def item(self, index: int, epoch: int) -> Packed:
        ids = np.array([VOCABULARY.marker_id(0), index, index], dtype=np.int64)
        return Packed(ids, np.zeros(3, dtype=np.int8), np.array([3]))

    def close(self) -> None: ...


def number_of(shard: int, index: int, epoch: int, at: int) -> int:
    return 10_000_000 * epoch + 100_000 * shard + 1000 * index + at


def tokens(sizes: Sequence[int], epochs: range) -> Counter[int]:
    """Every token of some epochs."""
    return Counter(
        number_of(shard, index, epoch, at)
        for epoch in epochs
        for shard, size in enumerate(sizes)
        for index in range(size)
        for at in range((7 * shard + 11 * index) % 40)
    )


def content(blocks: Sequence[Block]) -> Counter[int]:
    """The tokens of blocks, without markers and padding."""
    return Counter(
        int(token)
        for block in blocks
        for token, number in zip(block["input_ids"], block["document_ids"], strict=True)
        if number >= 0 and token not in (VOCABULARY.marker_id(0), VOCABULARY.marker_id(1))
    )


# A text token would be below 256; the content above begins at 0, so markers (256, 257) must not be mistaken for it.
FAR = [0, 0, 0, 5, 9, 0, 4, 12, 3]


def reader(sizes: Sequence[int], **options: Any) -> SequenceReader:
    settings = {"context": CONTEXT, "seed": 1, "epochs": 2, "shuffle_shards": 2, **options}
    return SequenceReader([Numbered(sizes)], VOCABULARY, **settings)


def all_of(sizes: Sequence[int], world: int, streams: int, **options: Any) -> list[SequenceReader]:
    return [reader(sizes, streams=streams, serve=range(rank, streams, world), **options) for rank in range(world)]


@given(world=st.integers(1, 6), more=st.integers(0, 5), epochs=st.integers(1, 3))
def test_ranks_together_read_each_epoch_exactly_once(world: int, more: int, epochs: int) -> None:
    ranks = all_of(FAR, world, world + more, epochs=epochs)
    found = sum((content(list(one)) for one in ranks), Counter())
    assert found == tokens(FAR, range(epochs))


@given(streams=st.sampled_from([1, 2, 4, 6, 12]), data=st.data())
def test_batches_do_not_depend_on_the_world_size(streams: int, data: st.DataObject) -> None:
    """Round k holds the k-th block of every stream, whoever serves it."""
    world = data.draw(st.sampled_from([w for w in (1, 2, 3, 4, 6, 12) if streams % w == 0]))
    rounds = [iter(one) for one in all_of(FAR, world, streams, epochs=None)]
    alone = iter(reader(FAR, streams=streams, epochs=None))
    for _ in range(5):
        batch = [next(rounds[place % world]) for place in range(streams)]
        for block, same in zip(batch, islice(alone, streams), strict=True):
            assert np.array_equal(block["input_ids"], same["input_ids"])


@given(data=st.data(), world=st.integers(1, 4), streams=st.integers(1, 6))
def test_resuming_goes_on_with_exactly_what_is_left(data: st.DataObject, world: int, streams: int) -> None:
    """Each rank is stopped where it happens to be; other ranks, in another number, read the rest."""
    before = all_of(FAR, world, max(world, streams))
    blocks, states = [], []
    for one in before:
        blocks += list(islice(one, data.draw(st.integers(0, 30))))
        states.append(json.loads(json.dumps(one.state_dict())))
    new_world = data.draw(st.integers(1, 4))
    after = all_of(FAR, new_world, max(new_world, data.draw(st.integers(1, 6))))
    for one in after:
        one.load_state_dict(states)
        blocks += list(one)
    assert content(blocks) == tokens(FAR, range(2))


def test_resuming_on_the_same_streams_gives_the_same_blocks() -> None:
    whole = list(reader(FAR, streams=3))
    for stop in range(len(whole) + 1):
        first = reader(FAR, streams=3)
        before = list(islice(first, stop))
        ranks = all_of(FAR, 1, 3)
        ranks[0].load_state_dict(json.loads(json.dumps(first.state_dict())))
        resumed = before + list(ranks[0])
        assert len(resumed) == len(whole)
        assert all(np.array_equal(a[name], b[name]) for a, b in zip(whole, resumed, strict=True) for name in a)


def test_resuming_opens_one_shard_and_reads_one_item() -> None:
    one = reader([3000] * 20, epochs=None)
    state = [one.state_dict() for _ in islice(one, 2000)][-1]
    source = Numbered([3000] * 20)
    again = SequenceReader([source], VOCABULARY, context=CONTEXT, seed=1, shuffle_shards=2)
    again.load_state_dict(state)
    next(iter(again))
    assert len(source.opened) == 1


def test_two_resumes_in_a_row_onto_other_worlds() -> None:
    blocks: list[Block] = []
    states: list[Any] = []
    for world in (3, 2, 5, 1):
        ranks = all_of(FAR, world, world)
        last = world == 1
        for one in ranks:
            if states:
                one.load_state_dict(states)
            blocks += list(one) if last else list(islice(one, 4))
        states = [one.state_dict() for one in ranks]
    assert content(blocks) == tokens(FAR, range(2))


def test_states_that_do_not_cover_what_is_needed_are_refused() -> None:
    states = [one.state_dict() for one in all_of(FAR, 3, 3)]
    with pytest.raises(ValueError, match=r"streams \[1\] of 3 are missing"):
        reader(FAR, streams=2).load_state_dict([states[0], states[2]])
    with pytest.raises(ValueError, match=r"streams \[2\] of 3 are missing"):
        reader(FAR, streams=3, serve=[2]).load_state_dict(states[0])
    with pytest.raises(ValueError, match="do not belong together"):
        reader(FAR).load_state_dict([states[0], reader(FAR).state_dict()])
    with pytest.raises(ValueError, match=r"another run: seed: 1 then, 2 now"):
        reader(FAR, seed=2).load_state_dict(states)
    with pytest.raises(ValueError, match="format 'other'"):
        reader(FAR).load_state_dict({"format": "other"})


def test_mixtures_keep_their_shares_and_every_item() -> None:
    sources = [Numbered([40] * 5, name="a"), Numbered([40] * 5, name="b"), Numbered([40] * 5, name="c")]
    one = SequenceReader(sources, VOCABULARY, context=CONTEXT, seed=0, shares=[3, 2, 1], streams=4)
    given_by = Counter[int]()
    firsts = []
    for source, packed in islice(one.packed(), 1200):
        given_by[source] += len(packed.ids)
        firsts.append(source)
    total = sum(given_by.values())
    for source, share in enumerate((3 / 6, 2 / 6, 1 / 6)):
        assert abs(given_by[source] - share * total) < 4 * 2 * CONTEXT, "off by no more than a block or two per stream"
    assert len(set(firsts[:4])) > 1, "streams do not all begin with the same source"
    progress = one.progress()
    assert [one["source"] for one in progress] == ["a", "b", "c"]
    assert progress[0]["epochs"] > progress[1]["epochs"] > progress[2]["epochs"] > 0
    assert [one["tokens"] for one in progress] == [given_by[i] for i in range(3)]


def test_a_mixture_resumes_exactly_and_onto_other_streams() -> None:
    def mixed(streams: int, serve: Sequence[int] | None = None) -> SequenceReader:
        sources = [Numbered(FAR, name="a"), JoinedSource([Numbered([3, 4], name="b")]), Blocks(7)]
        return SequenceReader(
            sources, VOCABULARY, context=CONTEXT, seed=0, shares=[2, 1, 1], streams=streams, serve=serve, epochs=1
        )

    whole = list(mixed(2))
    first = mixed(2)
    before = list(islice(first, 9))
    state = json.loads(json.dumps(first.state_dict()))
    same, other = mixed(2), mixed(3)
    same.load_state_dict(state)
    other.load_state_dict(state)
    assert [b["input_ids"].tolist() for b in before + list(same)] == [b["input_ids"].tolist() for b in whole]
    assert content(before + list(other)) == content(whole)


def test_blocks_that_come_ready_are_given_as_they_are() -> None:
    one = SequenceReader([Blocks(9)], VOCABULARY, context=8, seed=0, epochs=1, streams=2)
    blocks = list(one)
    assert sorted(int(block["input_ids"][1]) for block in blocks) == list(range(9))
    assert blocks[0]["cu_seqlens"].tolist() == [0, 3, 8]


def test_a_damaged_shard_ends_reading_or_is_left_out_and_counted() -> None:
    def with_bad(on_corrupt: str) -> SequenceReader:
        sources = [Numbered([2, 3, 4], bad=[1])]
        return SequenceReader(sources, VOCABULARY, context=CONTEXT, seed=0, epochs=1, on_corrupt=on_corrupt)

    with pytest.raises(BadShard, match="numbered/shard-1 is damaged"):
        list(with_bad("raise"))
    one = with_bad("skip")
    expected = tokens([2, 0, 4], range(1))
    assert content(list(one)) == expected
    assert one.skipped == {"numbered/shard-1 is damaged": 3}


def with_damage(streams: int = 1, serve: Sequence[int] | None = None, **options: Any) -> SequenceReader:
    """Two sources, two epochs, with 4 + 12 damaged items in each epoch."""
    sources = [Numbered(FAR, name="a", bad=[6]), Numbered([5, 4, 8, 9], name="b", bad=[1, 2])]
    settings = {"context": CONTEXT, "seed": 1, "epochs": 2, "shuffle_shards": 2, "on_corrupt": "skip", **options}
    return SequenceReader(sources, VOCABULARY, streams=streams, serve=serve, **settings)


ALL_DAMAGE = {"a/shard-6 is damaged": 8, "b/shard-1 is damaged": 8, "b/shard-2 is damaged": 16}


def test_what_was_left_out_is_counted_on_after_a_resume() -> None:
    whole = with_damage(streams=3)
    blocks = list(whole)
    assert whole.skipped == ALL_DAMAGE
    assert [one["skipped"] for one in whole.progress()] == [8, 24]
    for last in ("pad", "drop"):
        for stop in range(len(blocks) + 1):
            first, again = with_damage(streams=3, last=last), with_damage(streams=3, last=last)
            list(islice(first, stop))
            again.load_state_dict(json.loads(json.dumps(first.state_dict())))
            list(again)
            assert again.skipped == ALL_DAMAGE
            if last == "pad":
                assert again.progress() == whole.progress()


@given(data=st.data(), world=st.integers(1, 4), streams=st.integers(1, 6))
def test_counts_are_divided_where_streams_are_dealt_anew(data: st.DataObject, world: int, streams: int) -> None:
    def ranks(world: int, streams: int) -> list[SequenceReader]:
        return [with_damage(streams, range(rank, streams, world)) for rank in range(world)]

    def summed(readers: Sequence[SequenceReader]) -> tuple[Counter[str], list[int]]:
        given = [sum(one.progress()[i]["tokens"] for one in readers) for i in range(2)]
        return sum((one.skipped for one in readers), Counter()), given

    before = ranks(world, max(world, streams))
    for one in before:
        list(islice(one, data.draw(st.integers(0, 30))))
    states = [json.loads(json.dumps(one.state_dict())) for one in before]
    new_world = data.draw(st.integers(1, 4))
    after = ranks(new_world, max(new_world, data.draw(st.integers(1, 6))))
    for one in after:
        one.load_state_dict(states)
    assert summed(after) == summed(before)
    for one in after:
        list(one)
    assert summed(after)[0] == ALL_DAMAGE


def test_many_messages_are_counted_together() -> None:
    source = Numbered([1] * 200, bad=range(200))
    one = SequenceReader([source], VOCABULARY, context=CONTEXT, seed=0, epochs=2, on_corrupt="skip")
    assert list(one) == []
    assert len(one.skipped) == MOST_REASONS + 1
    assert one.skipped.total() == 400
    assert one.skipped["others"] == 2 * (200 - MOST_REASONS)
    assert {count for why, count in one.skipped.items() if why != "others"} == {2}


def test_the_epoch_of_the_next_block_is_that_of_its_first_token() -> None:
    """More streams than items, so that in most epochs most of them have none."""
    for stream in range(8):
        one = reader([0, 2, 1], streams=8, serve=[stream], epochs=20)
        told = [one.epoch]
        begun = []
        for block in one:
            told.append(one.epoch)
            begun.append(int(block["input_ids"][1]) // 10_000_000)
        assert begun == told[:-1]
        assert len(begun) > 3


def test_nothing_to_read_is_said_instead_of_spinning() -> None:
    with pytest.raises(ValueError, match="stream 0 of 1 gets no document of numbered: too few documents"):
        next(iter(reader([1], epochs=None)))


def test_settings_that_make_no_sense_are_refused() -> None:
    for options in ({"streams": 2, "serve": [2]}, {"serve": []}, {"shuffle_shards": 0}, {"shares": [0.0]}):
        with pytest.raises(ValueError, match=r"streams|shuffle_shards|shares"):
            reader(FAR, **options)


def test_implied_epochs_of_a_mixture() -> None:
    sources = [Blocks(100), Numbered([10] * 8, name="n")]
    blocks, numbered = implied_epochs(sources, [1, 3], 1200, seed=0)
    assert (blocks.tokens, blocks.epoch_tokens, blocks.epochs) == (300, 300, 1.0)
    exact = (
        sum(tokens([10] * 8, range(1)).values())
        + 8 * 10
        - sum((7 * s + 11 * i) % 40 == 0 for s in range(8) for i in range(10))
    )
    assert numbered.epoch_tokens == exact
    assert numbered.epochs == pytest.approx(900 / exact)
