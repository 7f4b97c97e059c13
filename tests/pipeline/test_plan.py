"""Splits: consecutive, whole recordings, balanced, a function of the manifest alone."""

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.manifest import ManifestError
from pipeline.plan import AUTO_SPLITS, Row, all_rows, cut, load_rows, read_plan, target_seconds, write_plan
from schemas.clock import Samples
from schemas.records import Utterance
from schemas.rejects import Reason, Reject


def utterance(index: int, recording: str, seconds: float = 10.0) -> Utterance:
    return Utterance(
        key=f"k{index}",
        id=f"k{index}",
        audio="a.wav",
        location="/base/a.wav",
        text="text",
        recording=recording,
        index=index,
        length=Samples(int(seconds * 16_000)),
    )


def rows_of(sizes: list[tuple[int, float]]) -> list[Row]:
    """Rows of recordings given as (utterances, seconds each)."""
    found: list[Row] = []
    for number, (count, seconds) in enumerate(sizes):
        found += [utterance(len(found) + i, f"r{number}", seconds) for i in range(count)]
    return found


CORPORA = st.lists(st.tuples(st.integers(1, 5), st.floats(0, 300)), min_size=1, max_size=20)


@given(sizes=CORPORA, hours=st.floats(0.001, 0.2) | st.just("auto"))
def test_splits_are_consecutive_and_divide_no_recording(sizes: list[tuple[int, float]], hours: float | str) -> None:
    rows = rows_of(sizes)
    splits = cut(rows, [seconds for count, seconds in sizes for _ in range(count)], hours)
    assert splits == sorted(splits)
    assert sorted(set(splits)) == list(range(splits[-1] + 1))
    for _, group in groupby(zip(rows, splits, strict=True), key=lambda pair: pair[0].recording):  # type: ignore[union-attr]
        assert len({split for _, split in group}) == 1


@given(count=st.integers(20, 200), target=st.integers(20, 200))
def test_even_recordings_give_even_splits(count: int, target: int) -> None:
    rows = rows_of([(1, 10.0)] * count)
    splits = cut(rows, [10.0] * count, target / 3600)
    sizes = [splits.count(split) * 10.0 for split in range(splits[-1] + 1)]
    assert max(sizes) - min(sizes) <= 20.0
    assert abs(len(sizes) - count * 10 / target) <= 1


def test_auto_depends_on_the_total_alone_within_bounds() -> None:
    assert target_seconds(60.0, "auto") == 30.0
    assert target_seconds(3600.0 * 8, "auto") == 3600.0 * 8 / AUTO_SPLITS
    assert target_seconds(1e9, "auto") == 3600.0


def test_a_recording_that_is_torn_apart_is_an_error_that_names_it() -> None:
    rows: list[Row] = [utterance(0, "r0"), utterance(1, "r1"), utterance(2, "r0")]
    with pytest.raises(ManifestError, match="'r0'"):
        cut(rows, [1.0] * 3, "auto")


def test_rejected_rows_travel_with_their_neighbours_and_count(tmp_path: Path) -> None:
    bad = Reject(key="bad", id="bad", stage="plan", reason=Reason.BAD_ROW, detail="m:2: not valid JSON")
    rows: list[Row] = [bad, utterance(0, "r0"), replace(bad, key="bad2"), utterance(1, "r0"), utterance(2, "r1")]
    plan = write_plan(str(tmp_path), "/base", rows, "auto")
    assert sum(plan.inputs) == 5
    assert list(all_rows(plan)) == rows


@given(sizes=CORPORA)
@settings(max_examples=25)
def test_a_split_reads_back_its_own_rows_and_the_plan_itself(
    sizes: list[tuple[int, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("plan")
    rows = rows_of(sizes)
    plan = write_plan(str(folder), "/base", rows, 0.02)
    assert read_plan(str(folder)) == plan
    loaded = [load_rows(plan.rows_path, split, "/base") for split in range(len(plan.inputs))]
    assert [len(found) for found in loaded] == list(plan.inputs)
    assert [row for found in loaded for row in found] == rows


def test_the_fingerprint_follows_rows_and_cut_but_not_the_folder(tmp_path: Path) -> None:
    rows = rows_of([(2, 10.0), (3, 20.0)])
    first = write_plan(str(tmp_path / "a"), "/base", rows, 0.01)
    assert write_plan(str(tmp_path / "b"), "/elsewhere", rows, 0.01).fingerprint == first.fingerprint
    assert write_plan(str(tmp_path / "c"), "/base", rows, 1.0).fingerprint != first.fingerprint
    changed = [replace(rows[0], text="other"), *rows[1:]]  # type: ignore[type-var]
    assert write_plan(str(tmp_path / "d"), "/base", changed, 0.01).fingerprint != first.fingerprint


def test_largest_splits_come_first(tmp_path: Path) -> None:
    plan = write_plan(str(tmp_path), "/base", rows_of([(1, 10.0), (1, 90.0), (1, 50.0)]), 0.001)
    assert plan.largest_first(range(3)) == [1, 2, 0]
