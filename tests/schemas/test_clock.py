"""Frames partition whenever intervals partition."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import (
    FrameGrid,
    Samples,
    centred_grid,
    cut_frames,
    frames_between,
    frames_covering,
    samples_at_rate,
    samples_from_seconds,
)

GRIDS = st.builds(FrameGrid, hop=st.integers(1, 2000).map(Samples), offset=st.integers(0, 3000).map(Samples))


@given(cuts=st.lists(st.integers(0, 50_000), max_size=8).map(sorted), grid=GRIDS, count=st.integers(0, 200))
def test_cuts_lose_no_frame_and_use_none_twice(cuts: list[int], grid: FrameGrid, count: int) -> None:
    ranges = cut_frames(cuts, grid, count)
    assert len(ranges) == len(cuts) + 1
    assert [frame for found in ranges for frame in found] == list(range(count))


@given(start=st.integers(0, 5000), length=st.integers(0, 5000), grid=GRIDS, count=st.integers(0, 100))
def test_frames_between_are_those_whose_position_lies_inside(
    start: int, length: int, grid: FrameGrid, count: int
) -> None:
    inside = [i for i in range(count) if start <= grid.offset + i * grid.hop < start + length]
    assert list(frames_between(start, start + length, grid, count)) == inside


def test_descending_cuts_are_refused() -> None:
    with pytest.raises(ValueError, match="descend"):
        cut_frames([5, 4], centred_grid(Samples(640)), 3)


@given(st.integers(0, 10**6), st.integers(1, 4000))
def test_frames_cover_the_clip_and_no_more(num_samples: int, hop: int) -> None:
    count = frames_covering(num_samples, hop)
    assert count * hop >= num_samples > (count - 1) * hop or num_samples == count == 0


def test_rates_are_exact() -> None:
    assert centred_grid(Samples(640)).rate == 25
    assert centred_grid(Samples(1280)).rate == Fraction(25, 2)


@given(st.integers(0, 10**7), st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]))
def test_positions_at_other_rates_are_the_nearest(samples: int, rate: int) -> None:
    exact = Fraction(samples * rate, 16_000)
    assert abs(samples_at_rate(samples, rate) - exact) <= Fraction(1, 2)


@pytest.mark.parametrize(("seconds", "samples"), [(0.0, 0), (1.0, 16_000), (0.5 / 16_000, 1), (0.49 / 16_000, 0)])
def test_seconds_round_to_the_nearest_sample(seconds: float, samples: int) -> None:
    assert samples_from_seconds(seconds) == samples


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf")])
def test_impossible_seconds_are_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="seconds"):
        samples_from_seconds(seconds)
