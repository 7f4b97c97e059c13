"""Splits: consecutive, whole recordings, balanced, a function of the manifest alone."""

import json
import struct
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build import located, make_plan
from pipeline.fit import sample_rows
from pipeline.manifest import ManifestError, read_manifest
from pipeline.plan import (
    AUTO_SPLITS,
    UNKNOWN_SECONDS,
    Row,
    all_rows,
    cut,
    lengths_of,
    load_rows,
    read_plan,
    seconds_of,
    target_seconds,
    write_plan,
)
from pipeline.recipes import load_recipe
from pipeline.removed import Removed
from pipeline.verify_plan import plan_findings
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


def manifest(folder: Path, durations: list[float]) -> str:
    """A manifest of one row for each recording."""
    lines = [{"audio_filepath": f"{i}.wav", "text": "a", "id": f"u{i}", "duration": d} for i, d in enumerate(durations)]
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_a_row_that_claims_months_weighs_what_the_recipe_allows(tmp_path: Path) -> None:
    """Else every recording behind it gets a split of its own."""
    path = manifest(tmp_path, [10.0, 9e6, *[10.0] * 30])
    recipe = load_recipe("embedded", ["plan.hours_per_shard=0.02", "decode.max_seconds=60"])
    plan = make_plan(path, recipe, str(tmp_path / "out"))
    assert sum(plan.sizes) == 31 * 10.0 + 60.0
    assert len(plan.sizes) == round((31 * 10.0 + 60.0) / 72)
    assert max(plan.sizes) < 144
    assert read_plan(str(tmp_path / "out" / "plan")) == plan
    assert plan_findings(str(tmp_path / "out"), plan, None, Removed.of()) == []


def test_a_header_that_claims_months_weighs_no_more(tmp_path: Path) -> None:
    huge = (
        b"RIFF\xff\xff\xff\xffWAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 8000, 8000, 1, 8) + b"data\xf0\xff\xff\xff"
    )
    (tmp_path / "a.wav").write_bytes(huge + bytes(2**21))
    row = replace(utterance(0, "r0"), length=None, location=str(tmp_path / "a.wav"))
    assert seconds_of([row]) > [200.0]
    assert seconds_of([row, utterance(1, "r1", 90.0), utterance(2, "r2", 7.0)], 60.0) == [60.0, 60.0, 7.0]


def test_a_plan_made_without_the_limit_is_still_the_same_plan(tmp_path: Path) -> None:
    """Its splits have been built; a limit of today must not cut them anew."""
    path = manifest(tmp_path, [10.0, 9000.0, *[10.0] * 30])
    recipe = load_recipe("embedded", ["plan.hours_per_shard=0.02"])
    rows = located(read_manifest(path), str(tmp_path))
    old = write_plan(str(tmp_path / "out" / "plan"), str(tmp_path), rows, 0.02)
    assert "max_seconds" not in json.loads((tmp_path / "out" / "plan" / "plan.json").read_text())
    assert make_plan(path, recipe, str(tmp_path / "out")) == old
    assert plan_findings(str(tmp_path / "out"), old, None, Removed.of()) == []


def urls(count: int) -> list[Row]:
    """Rows of URLs without a duration, a recording each."""
    return [
        replace(utterance(i, f"r{i}"), length=None, audio=f"s3://b/{i}.wav", location=f"s3://b/{i}.wav")
        for i in range(count)
    ]


def test_rows_whose_length_nobody_states_are_cut_by_their_number(tmp_path: Path) -> None:
    plan = write_plan(str(tmp_path / "plan"), "/base", urls(1000), "auto", 120.0)
    assert len(plan.sizes) == AUTO_SPLITS
    assert max(plan.inputs) - min(plan.inputs) <= 1
    assert plan.unknown_seconds == UNKNOWN_SECONDS
    assert read_plan(str(tmp_path / "plan")) == plan
    assert plan_findings(str(tmp_path), plan, None, Removed.of()) == []
    assert seconds_of(urls(1), 4.0) == [4.0]


def test_a_local_file_is_unknown_where_its_header_says_nothing_and_weighs_nothing_where_it_is_missing(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.webm").write_bytes(b"no header")
    there = replace(utterance(0, "r0"), length=None, location=str(tmp_path / "a.webm"))
    gone = replace(there, location=str(tmp_path / "gone.wav"))
    assert lengths_of([there, gone]) == [None, 0.0]


def test_where_all_lengths_are_known_the_plan_says_nothing_of_unknown_ones(tmp_path: Path) -> None:
    plan = write_plan(str(tmp_path / "plan"), "/base", rows_of([(2, 10.0)]), "auto", 120.0)
    assert "unknown_seconds" not in json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert plan.unknown_seconds == 0.0


def test_a_plan_made_when_unknown_lengths_weighed_nothing_is_still_the_same_plan(tmp_path: Path) -> None:
    lines = [{"audio_filepath": f"s3://b/{i}.wav", "text": "a", "id": f"u{i}"} for i in range(100)]
    path = tmp_path / "manifest.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = located(read_manifest(str(path)), str(tmp_path))
    old = write_plan(str(tmp_path / "out" / "plan"), str(tmp_path), rows, "auto", 120.0, unknown_seconds=0.0)
    assert len(old.sizes) == 1
    assert make_plan(str(path), load_recipe("embedded"), str(tmp_path / "out")) == old
    assert len(make_plan(str(path), load_recipe("embedded"), str(tmp_path / "new")).sizes) == AUTO_SPLITS
    assert len(sample_rows(old, load_recipe("embedded", ["fit.max_hours=0.01"]))) == 100


def test_what_is_fitted_on_is_chosen_by_the_same_weights(tmp_path: Path) -> None:
    """A row that claims months does not use up the hours of the sample, whichever comes first."""
    path = manifest(tmp_path, [9e6] * 5 + [10.0] * 20)
    recipe = load_recipe("embedded", ["fit.max_hours=1"])
    plan = make_plan(path, recipe, str(tmp_path / "out"))
    assert len(sample_rows(plan, recipe)) == 25
