from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.order import EpochOrder, Interval, Left, deal, share_of

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any)


def places(sizes: list[int], *, seed: int = 0, epoch: int = 0, window: int = 3) -> list[tuple[int, int]]:
    order = EpochOrder(np.array(sizes), seed=seed, epoch=epoch, window=window)
    found = []
    for position in range(sum(sizes)):
        held = order.window_at(position)
        at = position - held.start
        found.append((int(held.shards[at]), int(held.items[at])))
    return found


@given(sizes=SIZES, seed=st.integers(0, 99), epoch=st.integers(0, 9), window=st.integers(1, 14))
def test_an_epoch_holds_each_item_once(sizes: list[int], seed: int, epoch: int, window: int) -> None:
    everything = [(shard, item) for shard, size in enumerate(sizes) for item in range(size)]
    assert sorted(places(sizes, seed=seed, epoch=epoch, window=window)) == everything


@given(sizes=SIZES, window=st.integers(1, 4))
def test_few_shards_are_open_at_a_time(sizes: list[int], window: int) -> None:
    order = EpochOrder(np.array(sizes), seed=0, epoch=0, window=window)
    position = 0
    while position < sum(sizes):
        held = order.window_at(position)
        assert held.start == position, "windows follow each other without a gap"
        assert len(set(held.shards.tolist())) <= window
        coming = order.shards_from(position, window)
        position = held.stop
        if position < sum(sizes):
            assert set(order.window_at(position).shards.tolist()) == set(coming)
    assert coming == []


def test_seeds_and_epochs_have_orders_of_their_own_and_windows_shuffle() -> None:
    sizes = [20] * 6
    orders = {tuple(places(sizes, seed=seed, epoch=epoch)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    one = places(sizes, window=6)
    assert len({shard for shard, _ in one[:12]}) > 3, "items of all shards of a window are mixed"


def test_a_position_outside_the_order_is_refused() -> None:
    order = EpochOrder(np.array([2, 0, 3]), seed=0, epoch=0, window=2)
    for position in (-1, 5):
        with pytest.raises(IndexError, match=f"position {position} of 5"):
            order.window_at(position)


@given(total=st.integers(0, 200), streams=st.integers(1, 20), epoch=st.integers(0, 30))
def test_shares_divide_an_epoch_evenly(total: int, streams: int, epoch: int) -> None:
    shares = [share_of(stream, streams, total, epoch) for stream in range(streams)]
    covered = sorted(position for share in shares for position in range(share.start, share.stop))
    assert covered == list(range(total))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_no_stream_is_empty_for_ever_where_items_are_few() -> None:
    for stream in range(5):
        epochs = [share_of(stream, 5, 2, epoch) for epoch in range(5)]
        assert sum(share.stop - share.start for share in epochs) == 2


@st.composite
def interrupted(draw: st.DrawFn) -> tuple[dict[int, Left], int]:
    """What streams have left after each has read some way into one of a few epochs, perhaps half an item more."""
    total, streams = draw(st.integers(1, 60)), draw(st.integers(1, 7))
    left = {}
    for stream in range(streams):
        epoch = draw(st.integers(2, 4))
        share = share_of(stream, streams, total, epoch)
        done = draw(st.integers(0, share.stop - share.start))
        token = draw(st.sampled_from([0, 17])) if share.start + done < share.stop else 0
        todo = (Interval(epoch, share.start + done, share.stop, token),) if share.start + done < share.stop else ()
        left[stream] = Left(epoch, todo)
    return left, total


def remaining(left: dict[int, Left], total: int, until: int) -> Counter[tuple[int, int, int]]:
    """Each (epoch, position, first token) that is left up to an epoch, written down one by one."""
    found: Counter[tuple[int, int, int]] = Counter()
    for stream, one in left.items():
        later = [share_of(stream, len(left), total, epoch) for epoch in range(one.epoch + 1, until + 1)]
        for interval in (*one.todo, *later):
            for position in range(interval.start, interval.stop):
                found[interval.epoch, position, interval.token if position == interval.start else 0] += 1
    return found


@given(case=interrupted(), streams=st.integers(1, 9))
def test_dealing_anew_keeps_exactly_what_is_left(case: tuple[dict[int, Left], int], streams: int) -> None:
    left, total = case
    dealt = deal(left, streams=streams, total=total)
    newest = max(one.epoch for one in left.values())
    assert [one.epoch for one in dealt] == [newest] * streams
    assert remaining(dict(enumerate(dealt)), total, newest) == remaining(left, total, newest)
    assert remaining(dict(enumerate(dealt)), total, newest + 2) == remaining(left, total, newest + 2)
    for epoch in range(2, newest + 1):
        lengths = [sum(i.stop - i.start for i in one.todo if i.epoch == epoch) for one in dealt]
        assert max(lengths) - min(lengths) <= 1, "what is left is shared evenly"
        assert all([i.epoch for i in one.todo] == sorted(i.epoch for i in one.todo) for one in dealt)


@given(case=interrupted(), first=st.integers(1, 5), second=st.integers(1, 5))
def test_dealing_twice_still_keeps_what_is_left(case: tuple[dict[int, Left], int], first: int, second: int) -> None:
    left, total = case
    once = dict(enumerate(deal(left, streams=first, total=total)))
    twice = dict(enumerate(deal(once, streams=second, total=total)))
    newest = max(one.epoch for one in left.values())
    assert remaining(twice, total, newest + 1) == remaining(left, total, newest + 1)
