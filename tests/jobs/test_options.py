"""Options that the long commands share: limits of the workers and the form of the logs."""

import json
import os
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from pipeline.build import RunSettings
from pipeline.engines.on_ray import init_arguments, parse_options
from pipeline.job import Limits
from pipeline.log import VARIABLE, Log

ON_ENGINES = ("run", "transcribe", "fit", "build", "bake", "repair", "demo")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunSettings]:
    """What `demo` was told to do; it tells one event and does nothing."""
    seen: list[RunSettings] = []

    def demo_steps(_: Any, settings: RunSettings) -> int:
        seen.append(settings)
        Log(role="worker", root=settings.out).tell("split_done", split=3)
        return 0

    monkeypatch.setattr("jobs.steps.demo_steps", demo_steps)
    monkeypatch.delenv(VARIABLE, raising=False)
    return seen


def demo(*options: str) -> Result:
    return CliRunner().invoke(main, ["demo", "--out", "out", *options])


def test_the_limits_of_a_command_are_those_of_the_executor(asked: list[RunSettings]) -> None:
    assert demo().exit_code == 0
    assert asked[0].limits == Limits()


def test_limits_are_given_in_the_units_of_their_names(asked: list[RunSettings]) -> None:
    options = ("--record-seconds", "7", "--split-seconds", "90.5", "--max-processes", "3", "--printed-mb", "0.5")
    assert demo(*options, "--memory-gb", "2").exit_code == 0
    limits = asked[0].limits
    assert (limits.record_seconds, limits.split_seconds, limits.max_processes) == (7.0, 90.5, 3)
    assert (limits.max_printed_bytes, limits.max_rss_bytes) == (2**19, 2**31)


@pytest.mark.parametrize(
    "options", [("--split-seconds", "0"), ("--split-seconds", "nan"), ("--max-processes", "0"), ("--printed-mb", "0")]
)
def test_a_limit_that_limits_nothing_is_refused(asked: list[RunSettings], options: tuple[str, str]) -> None:
    assert demo(*options).exit_code == 2
    assert asked == []


@pytest.mark.parametrize("command", ON_ENGINES)
def test_every_command_that_runs_an_engine_has_them(command: str) -> None:
    told = CliRunner().invoke(main, [command, "--help"]).output
    for option in ("--split-seconds", "--max-processes", "--printed-mb", "--log-json"):
        assert option in told
    assert "--log-json" in CliRunner().invoke(main, ["plan", "--help"]).output


def test_log_json_is_the_variable(asked: list[RunSettings], monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.loads(demo("--log-json").stderr)
    assert (line["event"], line["split"], line["role"]) == ("split_done", 3, "worker")
    assert VARIABLE not in os.environ
    assert demo().stderr.endswith("worker split_done split=000003 stage=-\n")
    monkeypatch.setenv(VARIABLE, "text")
    assert json.loads(demo("--log-json").stderr)["event"] == "split_done"
    assert os.environ[VARIABLE] == "text"
    assert len(asked) == 3


@pytest.mark.parametrize("address", ["local", "10.0.0.1:6379"])
def test_workers_of_ray_log_in_the_same_form(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a cluster that was there before, they do not inherit it."""
    options = parse_options([f"--address={address}"])
    monkeypatch.setenv(VARIABLE, "json")
    assert init_arguments(options, 1, "")["runtime_env"]["env_vars"][VARIABLE] == "json"
    monkeypatch.delenv(VARIABLE)
    assert VARIABLE not in init_arguments(options, 1, "")["runtime_env"]["env_vars"]


def test_a_watchdog_too_quick_for_a_store_is_refused_before_anything_is_done(asked: list[RunSettings]) -> None:
    found = CliRunner().invoke(main, ["demo", "--out", "s3://bucket/out", "--stall-seconds", "179"])
    assert found.exit_code == 2
    assert found.stderr.splitlines() == [
        "interloom: --stall-seconds 179: at least 180 with an object store, "
        "where a worker gives a sign of life every 60 s"
    ]
    assert asked == []
    assert CliRunner().invoke(main, ["demo", "--out", "s3://bucket/out", "--stall-seconds", "180"]).exit_code == 0
    assert demo("--stall-seconds", "1").exit_code == 0
    assert "With an object store 180" in " ".join(CliRunner().invoke(main, ["build", "--help"]).output.split())


@pytest.mark.parametrize(
    ("told", "hint"), [("No module named 'ray'", True), ("Please install gcsfs to access Google Storage", False)]
)
def test_what_comes_with_no_extra_is_not_said_to(told: str, hint: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> int:
        raise ImportError(told)

    monkeypatch.setattr("jobs.steps.demo_steps", fails)
    line = demo().stderr
    assert line.startswith(f"interloom: {told}")
    assert ("interloom[all]" in line) == hint
