"""Status: what commit records say, what `work/` adds, and how little is read."""

import io
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from jobs.amounts import duration, size
from jobs.cli import main
from jobs.console import print_summary
from jobs.estimate_errors import keep
from jobs.status import Wanted, lines_of, one_line, status_step
from jobs.status_summary import summary_text, tidy
from pipeline import status as status_module
from pipeline.plan import Plan
from pipeline.status import PAUSE_SECONDS, RECENT, Observer, recent_rate
from pipeline.storage import publish_json
from tests.takedown_builders import build_dataset, build_split, finish_dataset, plan_dataset


def timing(split, wall=2.0, audio=4.0):
    return {
        "audio_seconds": audio, "peak_rss_bytes": 100 + split, "seconds": [["decode", 0.5], ["align", 1.0]],
        "passed": [["decode", 5, 4 - split // 2], ["align", 4 - split // 2, 3]],
        "split": split, "started": 10.0, "wall": wall,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Two of four splits committed, the older one ten seconds before."""
    root = str(tmp_path / "out")
    plan_dataset(root)
    for split, time in ((0, 1000.0), (2, 1010.0)):
        build_split(root, split)
        os.utime(f"{root}/shards/shard-{split:06d}.commit.json", (time, time))
        publish_json(timing(split), f"{root}/work/timings/{split:06d}.json")
    return root


def test_half_a_build(folder):
    status = Observer(folder).look()
    assert (status.planned, status.committed, status.fitted, status.finished) == (4, 2, True, False)
    assert (status.inputs, status.audio_seconds, status.audio_seconds_done) == (17, 16.0, 8.0)
    assert (status.counts.inputs, status.counts.records, status.counts.rejects) == (9, 6, 3)
    assert status.counts.reasons == {"silent": 2, "duplicate_id": 1}
    assert status.rate == 4.0 / 10
    assert status.eta_seconds == pytest.approx(20.0)
    assert status.stage_seconds == {"decode": 1.0, "align": 2.0}
    assert list(status.stage_seconds) == ["decode", "align"]
    assert status.stage_passed == {"decode": (10, 7), "align": (7, 6)}
    assert [counts.rejected for counts in status.stage_passed.values()] == [3, 1]


def test_what_passed_each_stage_is_shown_and_earlier_timings_do_without(folder):
    assert "  stages, records out of in: decode 7/10, align 6/7; 2 splits counted" in lines_of(
        Observer(folder).look(), 0.0
    )
    old = {name: value for name, value in timing(2).items() if name != "passed"}
    publish_json(old, f"{folder}/work/timings/000002.json")
    status = Observer(folder).look()
    assert (len(status.timings), status.stage_seconds["decode"]) == (2, 1.0)
    assert "decode 4/5, align 3/4; 1 splits counted" in summary_text(status)
    publish_json({**timing(0), "passed": [["decode", 5]]}, f"{folder}/work/timings/000000.json")
    status = Observer(folder).look()
    assert len(status.timings) == 1
    assert not [line for line in lines_of(status, 0.0) if "stages" in line]
    assert "stage records:  no timings" in summary_text(status)


def test_a_finished_dataset_says_so(folder):
    for split in range(4):
        build_split(folder, split)
    finish_dataset(folder)
    status = Observer(folder).look()
    assert status.finished
    assert status.counts.inputs == status.inputs == status.counts.records + status.counts.rejects
    assert "4/4 splits committed" in lines_of(status, 0.0)[0]
    assert lines_of(status, 0.0)[0].endswith("; finished")


def test_a_commit_record_that_was_taken_back_no_longer_counts(folder):
    observer = Observer(folder)
    assert observer.look().committed == 2
    Path(folder, "shards", "shard-000002.commit.json").unlink()
    status = observer.look()
    assert (status.committed, status.counts.splits, status.counts.inputs) == (1, 1, 5)


def test_a_second_look_reads_only_what_is_new(folder, monkeypatch):
    observer = Observer(folder)
    observer.look()
    asked = []
    read = status_module.read_many
    monkeypatch.setattr(
        status_module, "read_many", lambda f, names: (asked.extend(names := list(names)), read(f, names))[1]
    )
    build_split(folder, 1)
    assert observer.look().counts.splits == 3
    assert "shard-000001.commit.json" in asked
    assert not {"shard-000000.commit.json", "shard-000002.commit.json", "000000.json"} & set(asked)


def test_failures_and_strikes_are_told_and_damaged_files_are_not_fatal(folder):
    publish_json({"error": "split 1: OSError: disk full", "split": 1}, f"{folder}/work/failed/000001.json")
    publish_json({"strikes": {"k1": 2}, "suspects": ["k1", "k2"]}, f"{folder}/work/strikes/000003.json")
    for name in ("failed/000009.json", "strikes/000009.json", "timings/000000.json"):
        Path(folder, "work", name).write_bytes(b'{"split": ')
    Path(folder, "shards", "shard-000000.commit.json").write_bytes(b"[]")
    status = Observer(folder).look()
    assert [(f.split, f.error) for f in status.failures] == [(1, "split 1: OSError: disk full")]
    assert [(s.split, s.key, s.count) for s in status.struck] == [(3, "k1", 2)]
    assert len(status.timings) == 1
    assert status.counts.splits == 1
    text = "\n".join(lines_of(status, 1015.0))
    assert "disk full" in text
    assert "record k1 killed its worker 2 times" in text
    assert "in 1 of 2 commit records" in text


def remote_copy(folder, memory):
    for path in Path(folder).rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/scale/{path.relative_to(folder)}", path.read_bytes())
    return "memory://scale"


def test_an_object_store_gets_one_listing_of_shards_and_few_reads(folder, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    memory = MemoryFileSystem()
    root = remote_copy(folder, memory)
    listed = []
    ls = MemoryFileSystem.ls
    monkeypatch.setattr(
        MemoryFileSystem, "ls", lambda self, path, *a, **k: (listed.append(path), ls(self, path, *a, **k))[1]
    )
    try:
        status = Observer(root).look()
        local = Observer(folder).look()
        assert (status.counts, status.timings) == (local.counts, local.timings)
        assert listed.count("/scale/shards") == 1
        assert len(status.times) == 2
        monkeypatch.setattr(status_module, "LOOK_REMOTE", 1)
        assert Observer(root).look().counts.splits == 1
        assert Observer(root, everything=True).look().counts.splits == 2
    finally:
        memory.rm("/scale", recursive=True)


PLAN = Plan(root="", base="", fingerprint="", sizes=tuple(10.0 for _ in range(300)), inputs=(1,) * 300)


@given(count=st.integers(2, 300), step=st.floats(0.1, PAUSE_SECONDS - 1))
def test_an_even_pace_is_found_whatever_lies_behind_a_pause(count, step):
    times = {split: 1e6 + split * step for split in range(count)}
    expected = pytest.approx(10.0 / step, rel=1e-3)
    assert recent_rate(PLAN, times) == expected
    before = {split: time - (1e5 if split < count - 2 else 0) for split, time in times.items()}
    assert recent_rate(PLAN, before) == expected


def test_there_is_no_pace_before_two_commits_and_only_recent_ones_count():
    assert recent_rate(PLAN, {}) is None
    assert recent_rate(PLAN, {0: 5.0}) is None
    assert recent_rate(PLAN, {0: 5.0, 1: 5.0}) is None
    slow_then_fast = {split: 100.0 * split if split < 200 else 20_000.0 + split - 200 for split in range(300)}
    assert recent_rate(PLAN, slow_then_fast) == pytest.approx(10.0, rel=0.02)
    assert RECENT == 100


def test_the_summary_holds_what_a_ticket_needs_and_no_secret(folder, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    error = f"split 1: OSError: {folder}/shards/x: s3://me:hunter2@host/b?token=abc /home/someone/data/a.wav"
    publish_json({"error": error, "split": 1}, f"{folder}/work/failed/000001.json")
    Path(folder, "work", "logs").mkdir()
    Path(folder, "work", "logs", "engine.log").write_text("x")
    text = summary_text(Observer(folder, everything=True).look())
    plan = json.loads(Path(folder, "plan", "plan.json").read_text())
    for part in (
        "takedown", plan["fingerprint"], "2 of 4 committed", "9 inputs = 6 records + 3 rejects", "2 silent",
        "DATASET/work/logs/engine.log", "slowest splits", "numpy", "DATASET/shards/x", "~/data/a.wav",
        "decode 0.1250", "not finished", "decode 7/10, align 6/7; 2 splits counted",
    ):  # fmt: skip
        assert part in text, part
    for secret in ("hunter2", "abc", folder, "/home/someone"):
        assert secret not in text


def test_an_estimate_is_compared_with_the_finished_build(folder):
    def told() -> str:
        text = summary_text(Observer(folder, everything=True).look())
        return (
            next(line for line in text.splitlines() if line.startswith("estimate:")).removeprefix("estimate:").strip()
        )

    assert told() == "none"
    said = {"cpu_hours_by_stage": {"decode": 3.0 / 3600, "align": 3.0 / 3600}, "wall_hours": 0.01, "workers": 2}
    keep(folder, {**said, "records": 12, "bytes": 5_000_000})
    assert told() == ("CPU 6 s, wall 36 s with 2 workers, 12 records, 5.00 MB; compared when the build is finished")
    for split in range(4):
        build_split(folder, split)
        publish_json({**timing(split), "started": 100.0 + 20 * split}, f"{folder}/work/timings/{split:06d}.json")
    assert told().endswith("compared when the build is finished")
    publish_json({"fingerprint": "f"}, f"{folder}/dataset.json")
    wrote = sum(
        file["bytes"]
        for split in range(4)
        for file in json.loads(Path(folder, "shards", f"shard-{split:06d}.commit.json").read_text())["files"].values()
    )
    records = Observer(folder).look().counts.records
    assert told() == (
        "CPU 6 s, took 6 s (+0.0%); wall 36 s with 2 workers, took 1 min 2 s (-41.9%); "
        f"records 12, are {records} ({12 / records - 1:+.1%}); "
        f"shards 5.00 MB, are {size(wrote)} ({5_000_000 / wrote - 1:+.1%})"
    )
    Path(folder, "work", "timings", "000002.json").unlink()
    assert told().endswith("compared when the build is finished")
    for damaged in ({}, [1], "x", {**said, "records": "many"}, {**said, "cpu_hours_by_stage": 3}):
        keep(folder, damaged)
        assert told() == "none"


def test_tidy_makes_one_line():
    assert tidy("a\nb\r\n c", "/data/out") == "a b c"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def run(*arguments):
    return CliRunner().invoke(main, ["status", *arguments])


def test_the_command_prints_lines_json_and_a_summary(folder):
    plain = run(folder)
    assert plain.exit_code == 0, plain.output
    assert "2/4 splits committed, 0.002/0.004 h; not finished" in plain.output
    assert "rejected: 2 silent" in plain.output
    found = json.loads(run(folder, "--json").stdout)
    assert (found["splits_committed"], found["rejects"]) == (2, {"duplicate_id": 1, "silent": 2})
    assert found["stage_records"] == {
        "align": {"in": 7, "out": 6, "rejected": 1},
        "decode": {"in": 10, "out": 7, "rejected": 3},
    }
    assert run(folder, "--summary").stdout.startswith("interloom run summary\n")


def test_prometheus_goes_to_a_relative_name_too(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(folder, "--prometheus", "a.prom").exit_code == 0
    assert "interloom_splits_committed" in (tmp_path / "a.prom").read_text()
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["a.prom"]


def test_watching_without_a_terminal_prints_lines_until_it_is_finished(folder, monkeypatch, capsys):
    from rich.console import Console

    rest = iter([1, 3])
    told = []

    def build_next(seconds):
        told.append(seconds)
        split = next(rest, None)
        if split is None:
            finish_dataset(folder)
        else:
            build_split(folder, split)

    monkeypatch.setattr("jobs.status.time.sleep", build_next)
    status_step(Console(force_terminal=False), folder, Wanted(watch=7.0, prometheus=f"{folder}/work/a.prom"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines] == ["2/4", "3/4", "4/4", "4/4"]
    assert [line.endswith("finished") for line in lines] == [False, False, False, True]
    assert told == [7.0] * 3
    assert "interloom_finished" in Path(folder, "work", "a.prom").read_text()


def test_watching_takes_an_optional_number_and_no_other_form(folder):
    build_dataset(folder)
    assert run(folder, "--watch").exit_code == 0
    assert run("--watch", "2", folder).exit_code == 0
    assert run(folder, "--watch", "--json").exit_code == 2


def test_one_line_names_failures(folder):
    publish_json({"error": "x", "split": 1}, f"{folder}/work/failed/000001.json")
    assert "1 failures" in one_line(Observer(folder).look(), 1020.0)
    assert "last commit 10 s ago" in one_line(Observer(folder).look(), 1020.0)


def test_the_end_of_a_build_shows_records_and_costs_by_stage(folder):
    old = {name: value for name, value in timing(1).items() if name != "passed"}
    publish_json({**old, "seconds": [["decode", 0.5], ["later", 2.0]]}, f"{folder}/work/timings/000001.json")
    Path(folder, "work", "timings", "000003.json").write_text("damaged")
    console = Console(record=True, width=120, file=io.StringIO())
    info = {"num_samples": 0, "name": "a", "inputs": 9, "records": 6, "rejects": 3, "splits": 2, "reasons": {}}
    print_summary(console, folder, info, 1.0)
    rows = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["decode", "10", "7", "3", "1.5", "0.1250"],
        ["align", "7", "6", "1", "2.0", "0.1667"],
        ["later", "", "", "", "2.0", "0.1667"],
        ["all", "", "", "", "5.5", "0.4583"],
    ]
