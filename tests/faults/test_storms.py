"""The short form of the storms: five kills on each engine; and the driver's watchdog by itself."""

import hashlib
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from pipeline.commit import committed_splits
from pipeline.drive import EngineSettings, drive
from pipeline.engines import EngineName
from pipeline.process import marked
from pipeline.storage import list_names
from tests.faults import run
from tests.faults.victims import part_of
from tests.poison import PoisonConfig, job_for

ENGINES: tuple[EngineName, ...] = ("local", "beam", "ray")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("engine", ENGINES)
def test_five_kills(engine: EngineName, capsys: pytest.CaptureFixture[str]) -> None:
    code = run.main(["--engine", engine, "--kills", "5", "--seed", "1"])
    assert code == 0, capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_kills_on_a_cluster_of_two_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    code = run.main(["--engine", "ray", "--cluster", "--kills", "5", "--seed", "700"])
    told = capsys.readouterr().out
    assert code == 0, told
    assert "'kill second node': " in told


@pytest.mark.parametrize(
    ("again", "bad", "code"),
    [(0.0, 0, 0), (7.9, 0, 0), (8.0, 0, 0), (8.1, 0, 1), (0.0, 1, 1)],
)
def test_a_fault_may_cost_the_time_of_one_split(again: float, bad: int, code: int) -> None:
    assert run.verdict(Counter({"kill child": 3, "fill disk": 1}), again, bad) == code


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_stands_still_is_started_again(engine: EngineName, tmp_path: Path) -> None:
    import psutil

    job, plan = job_for(tmp_path, PoisonConfig(seconds=0.2))
    family = hashlib.sha256(os.path.realpath(tmp_path).encode()).hexdigest()[:16]
    stopped: list[int] = []

    def stop() -> None:
        while not committed_splits(list_names(str(tmp_path / "shards"))):
            time.sleep(0.05)
        for pid in marked("INTERLOOM_RUN", family):
            if part_of(psutil.Process(pid), 0) in ("engine", "worker", "child"):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)

    threading.Thread(target=stop, daemon=True).start()
    settings = EngineSettings(engine=engine, workers=2, stall_seconds=45.0)
    begun = time.monotonic()
    records = drive(job, plan, settings, lambda *_: None)
    assert len(records) == 6
    assert stopped
    assert time.monotonic() - begun > 45.0
    assert marked("INTERLOOM_RUN", family) == []
