"""The planner: what is chosen, what is measured, and how it is carried over to the whole plan."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import main
from jobs.estimate import table_of
from pipeline import estimate, estimate_sample
from pipeline.build import planned
from pipeline.estimate import deal, project
from pipeline.estimate_sample import EstimateFailed, Measured, measure, relative_error, sample
from pipeline.job import Limits
from pipeline.plan import Plan, load_rows, write_plan
from schemas.recipe import Recipe
from schemas.records import Utterance
from tests.takedown_builders import build_dataset, rows_of

RECIPE = Recipe.model_validate({"name": "r", "fit": {"max_hours": 0.5}})
NO_AUDIO = Recipe.model_validate({"name": "r", "store": {"audio": False}})


def plan_of(*hours: float, inputs: int = 300) -> Plan:
    return Plan(
        root="", base="", fingerprint="f", sizes=tuple(h * 3600 for h in hours), inputs=tuple(inputs for _ in hours)
    )


def measured(**more) -> Measured:
    values = {
        "rows": 100, "records": 90, "audio_seconds": 360.0, "planned_seconds": 360.0,
        "stage_seconds": {"decode": 3.6, "align": 32.4},
        "relative_error": 0.1, "wall_seconds": 72.0, "overhead_seconds": 36.0, "fit_seconds": 72.0,
        "audio_bytes": 7_200_000, "other_bytes": 360_000, "file_bytes": (10_000.0, 50.0), "files": 5, "on_gpu": False,
    }  # fmt: skip
    return Measured(**(values | more))


def test_an_hour_is_ten_times_six_minutes():
    found = project(measured(), plan_of(1.0, 1.0), RECIPE, workers=2)
    assert found.audio_hours == 2
    assert found.cpu_hours_by_stage == pytest.approx({"decode": 0.02, "align": 0.18})
    assert found.cpu_hours == pytest.approx(0.2 + 2 * 0.01)
    assert found.wall_hours == pytest.approx(0.2 + 0.01)
    assert found.fit_cpu_hours == pytest.approx(72 * 5 / 3600)  # half an hour at most is fitted
    assert found.records == 540
    assert found.bytes_without_audio == 20 * 360_000 + 2 * (10_000 + 5632) + 540 * 50
    assert found.bytes == found.bytes_without_audio + 20 * 7_200_000
    assert (found.objects, found.gpu_hours) == (25, 0.0)
    assert found.requests == {"PUT": 12, "GET": 4, "HEAD": 24, "LIST": 12}


def test_where_lengths_are_unknown_the_sample_says_what_they_are():
    """Rows that were planned as 10 s and turn out to have 40 s cost four times as much."""
    known, plan = measured(), replace(plan_of(1.0, 1.0), unknown_seconds=10.0)
    found, want = project(measured(planned_seconds=90.0), plan, RECIPE, workers=2), plan_of(4.0, 4.0)
    assert replace(found, lengths_known=True) == project(known, want, RECIPE, workers=2)
    assert not found.lengths_known


def test_audio_counts_only_where_it_is_stored_and_a_gpu_only_where_one_works():
    found = project(measured(on_gpu=True), plan_of(1.0), NO_AUDIO, workers=1)
    assert found.bytes == found.bytes_without_audio
    assert found.gpu_hours == pytest.approx(0.2)


def test_more_workers_than_splits_do_not_help():
    two = project(measured(), plan_of(1.0, 1.0), RECIPE, workers=2)
    many = project(measured(), plan_of(1.0, 1.0), RECIPE, workers=64)
    assert (many.wall_hours, many.cpu_hours) == (two.wall_hours, two.cpu_hours)


LENGTHS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30)


@given(lengths=LENGTHS, workers=st.integers(1, 8))
def test_dealing_is_longest_first_to_whoever_is_free(lengths, workers):
    ends = [0.0] * workers
    for length in sorted(lengths, reverse=True):
        ends[ends.index(min(ends))] += length
    found = deal(lengths, workers)
    assert found == pytest.approx(max(ends))
    least = max(max(lengths), sum(lengths) / workers)
    assert least - 1e-6 <= found <= sum(lengths) / workers + max(lengths) + 1e-6


def test_the_spread_of_the_sample_is_its_error():
    assert relative_error([(10.0, 1.0), (20.0, 2.0), (5.0, 0.5)]) == pytest.approx(0.0)
    assert relative_error([(10.0, 1.0)]) is None
    assert relative_error([]) is None
    # Ratio 0.15; residuals -0.5 and 0.5; standard error of the mean 0.5; mean cost 1.5.
    assert relative_error([(10.0, 1.0), (10.0, 2.0)]) == pytest.approx(1.96 * 0.5 / 1.5)


@pytest.fixture
def big(tmp_path):
    """120 recordings of 4 seconds in 60 splits."""
    return write_plan(str(tmp_path / "plan"), "/b", rows_of("/b", 120), 8 / 3600)


def test_a_sample_is_spread_in_order_and_about_as_long_as_asked(big):
    rows = sample(big, 60.0)
    assert 60 <= len(rows) < 60 + len(big.sizes)
    assert all(isinstance(row, Utterance) for row in rows)
    places = [row.index for row in rows]
    assert places == sorted(set(places))
    halves = [sum(place < 240 for place in places), sum(place >= 240 for place in places)]
    assert min(halves) > 15
    assert sample(big, 60.0) == rows
    assert len(sample(big, 1e9)) == 480


def test_a_sample_of_a_huge_plan_looks_at_some_splits_only(big, monkeypatch):
    monkeypatch.setattr(estimate_sample, "LOOKED_AT", 5)
    looked = []
    monkeypatch.setattr(estimate_sample, "load_rows", lambda *a: (looked.append(a[1]), load_rows(*a))[1])
    rows = sample(big, 30.0)
    assert len(set(looked)) == len(looked) == 5
    assert max(looked) - min(looked) > 20
    assert len(rows) >= 30


def test_the_bytes_of_a_dataset_are_found_again(tmp_path):
    root = str(tmp_path)
    build_dataset(root)
    records = {s: json.loads(Path(root, f"shards/shard-{s:06d}.commit.json").read_text()) for s in range(4)}
    flac, other = estimate_sample._members(root, records)
    constant, each = estimate_sample._beside(root, records)
    tars = sum(record["files"][f"shard-{s:06d}.tar"]["bytes"] for s, record in records.items())
    assert 0 < tars - flac - other <= 4 * 10_240
    assert flac > other / 10
    beside = sum(path.stat().st_size for path in Path(root, "shards").iterdir()) - tars
    assert 4 * constant + 12 * each == pytest.approx(beside, rel=0.01)
    # One split of all records would have one table and one commit record, and the same rejects and offsets.
    table = Path(root, "together.parquet").stat().st_size
    commit = sum(path.stat().st_size for path in Path(root, "shards").glob("*.commit.json")) / 4
    rejects = sum(path.stat().st_size for path in Path(root, "shards").glob("rejects-*"))
    assert constant + 12 * each == pytest.approx(table + commit + 8 + 12 * 8 + rejects)


def test_a_plan_without_a_usable_row_is_an_error_of_one_line(tmp_path):
    with pytest.raises(EstimateFailed, match="no usable row"):
        measure([], plan_of(1.0), RECIPE, str(tmp_path), Limits(), lambda *_: None)


def unknown(count: int) -> list[Utterance]:
    found = [row for row in rows_of("/b", count) if isinstance(row, Utterance)]
    return [replace(row, audio=f"s3://b/{row.recording}.wav", location="s3://b/x.wav", length=None) for row in found]


def test_a_sample_of_rows_of_unknown_length_is_a_sample(tmp_path):
    plan = write_plan(str(tmp_path / "plan"), "/b", unknown(120), "auto")
    assert 6 <= len(sample(plan, 60.0)) < 6 + len(plan.sizes)


def test_a_plan_that_took_unknown_lengths_for_nothing_is_refused(tmp_path):
    plan = write_plan(str(tmp_path / "plan"), "/b", unknown(3), "auto", unknown_seconds=0.0)
    with pytest.raises(EstimateFailed, match="earlier version") as error:
        measure(sample(plan, 60.0), plan, RECIPE, str(tmp_path), Limits(), lambda *_: None)
    assert "\n" not in str(error.value)


def test_the_table_names_every_stage():
    from rich.console import Console

    console = Console(width=150, file=None)
    with console.capture() as capture:
        console.print(table_of(project(measured(), plan_of(1.0), RECIPE, workers=3)))
    text = capture.get()
    for part in ("decode", "align", "wall, 3 workers", "75.63 MB", "+-10%", "PUT"):
        assert part in text, part
    assert "about 1.000 h" not in text
    with console.capture() as capture:
        console.print(table_of(project(measured(), replace(plan_of(1.0), unknown_seconds=10.0), RECIPE, workers=3)))
    assert "about 1.000 h" in (told := capture.get())
    assert "without `duration`" in told


def test_options_of_the_estimate_need_it(tmp_path):
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "text": "hello", "duration": 2}\n')
    arguments = ["plan", "embedded", "--manifest", str(manifest), "--out", str(tmp_path / "o")]
    assert CliRunner().invoke(main, [*arguments, "--json"]).exit_code == 2
    assert CliRunner().invoke(main, [*arguments, "--workers", "2"]).exit_code == 2


def test_the_sample_has_the_limits_that_were_asked_for(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr("jobs.estimate.estimate_step", lambda *_, **options: given.update(options))
    arguments = ["plan", "embedded", "--manifest", "examples/corpus/manifest.jsonl", "--out", str(tmp_path)]
    arguments += ["--estimate", "--memory-gb", "12.5", "--record-seconds", "7", "--device", "cpu", "--workers", "3"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert given["limits"] == Limits(device="cpu", record_seconds=7.0, max_rss_bytes=int(12.5 * 2**30))
    assert given["workers"] == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_estimate_of_the_bundled_corpus_costs_what_its_stages_cost(tmp_path):
    out = str(tmp_path / "o")
    arguments = ["plan", "embedded", "--manifest", "examples/corpus/manifest.jsonl", "--out", out, "--estimate"]
    arguments += ["--set", "text.vocab_size=300", "--sample-minutes", "0.7", "--json", "--workers", "4"]
    found = json.loads(CliRunner().invoke(main, arguments).stdout)
    assert found["splits"] == len(planned(out).sizes)
    assert list(found["cpu_hours_by_stage"])
    per_second = found["cpu_hours"] / found["audio_hours"]
    assert 0.02 < per_second < 1.0
    assert 1.0e4 < found["bytes"] / (found["audio_hours"] * 3600) < 4.0e4
    assert math.isclose(found["records"], 87, abs_tol=3)
    assert not list(Path(out).glob("shards*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_requests_of_a_split_are_those_that_a_server_counts():
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale_store"], check=True, capture_output=True, text=True
    ).stdout
    found = json.loads(answer.splitlines()[-1])
    assert {kind: found["each_file"][kind] for kind in ("PUT", "GET", "HEAD")} == {"PUT": 1, "GET": 0, "HEAD": 1}
    assert {k: found["each_split"][k] for k in ("PUT", "GET", "HEAD")} == {"PUT": 2, "GET": 2, "HEAD": 8}
    assert found["each_split"]["LIST"] == pytest.approx(estimate.REQUESTS["LIST"], abs=2)
