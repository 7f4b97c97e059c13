"""Strikes outlive the worker, and no longer than what they were given under: the job, its limits, what is installed."""

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from pipeline.executor import SplitFailed
from pipeline.executor import strikes as module
from pipeline.executor.strikes import Strikes
from pipeline.job import Job, Limits
from pipeline.storage import publish_json
from tests.pipeline.test_executor import executor
from tests.poison import LinesConfig, PoisonConfig, job_for


def job_in(tmp_path: Path, **limits: Any) -> Job:
    return Job(
        root=str(tmp_path), fingerprint="test", rows_path="rows", sink=LinesConfig(), limits=Limits(strikes=2, **limits)
    )


def struck(job: Job) -> Strikes:
    strikes = Strikes.load(job, 0)
    strikes.charge(["a"], certain=True)
    strikes.charge(["a"], certain=True)
    return Strikes.load(job, 0)


def test_strikes_survive_the_worker(tmp_path: Path) -> None:
    strikes = Strikes.load(job_in(tmp_path), 0)
    strikes.charge(["a", "b"], certain=True)
    strikes.charge(["a"], certain=True)
    again = Strikes.load(job_in(tmp_path), 0)
    assert (again.suspects, again.strikes, again.crashed) == ({"a", "b"}, {"a": 1}, {})
    again.charge(["a"], certain=True)
    assert Strikes.load(job_in(tmp_path), 0).crashed == {"a": 2}


def test_who_crashed_before_the_cause_was_mended_is_tried_again(tmp_path: Path) -> None:
    """Its two strikes were noted, but its split never came to its end."""
    job, _ = job_for(tmp_path, PoisonConfig(abort=("u001",)), record_seconds=30.0)
    with executor(replace(job, sink=LinesConfig(dies_on=0))) as one, pytest.raises(SplitFailed, match="outside any"):
        one.run(0)
    assert Strikes.load(job, 0).crashed == {"u001": 2}
    mended = replace(job, fingerprint="mended", steps=(PoisonConfig(),))
    with executor(mended) as one:
        record = one.run(0)
    assert (record["records"], record["rejects"]) == (4, 0)
    assert not list((tmp_path / "work" / "strikes").iterdir())


@pytest.mark.parametrize(
    "limits",
    [
        {"record_seconds": 240.0},
        {"record_seconds": float("inf")},
        {"max_rss_bytes": 2**40},
        {"max_processes": 100},
        {"max_printed_bytes": 2**30},
        {"device": "cpu"},
        {"compile_models": True},
    ],
)
def test_strikes_under_other_limits_do_not_count_but_suspects_stay(tmp_path: Path, limits: dict[str, Any]) -> None:
    assert struck(job_in(tmp_path)).crashed == {"a": 2}
    again = Strikes.load(job_in(tmp_path, **limits), 0)
    assert (again.suspects, again.strikes) == ({"a"}, {})
    again.charge(["a"], certain=True)
    assert Strikes.load(job_in(tmp_path, **limits), 0).strikes == {"a": 1}


@pytest.mark.parametrize("limits", [{"batch_records": 1}, {"setup_seconds": 1.0}, {"split_seconds": 7.0}])
def test_strikes_outlive_limits_that_kill_no_record(tmp_path: Path, limits: dict[str, Any]) -> None:
    struck(job_in(tmp_path))
    assert Strikes.load(job_in(tmp_path, **limits), 0).crashed == {"a": 2}


def test_strikes_under_another_installation_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    struck(job_in(tmp_path))
    assert f"hypothesis-{version('hypothesis')}.dist-info" in module.installed()
    monkeypatch.setattr(module, "installed", lambda: ("mended-1.1.dist-info",))
    assert Strikes.load(job_in(tmp_path), 0).crashed == {}


@pytest.mark.parametrize("state", [{"strikes": {"a": 2}, "suspects": ["a"]}, {"strikes": 3}, ["a"], "a", 3])
def test_a_file_of_another_form_strikes_nobody(tmp_path: Path, state: Any) -> None:
    publish_json(state, f"{tmp_path}/work/strikes/000000.json")
    found = Strikes.load(job_in(tmp_path), 0)
    assert found.crashed == {}
    assert found.suspects == ({"a"} if isinstance(state, dict) and "suspects" in state else set())
