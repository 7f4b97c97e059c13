"""The driver and an engine that misbehaves as a process: it stands still, ends at once, or says why on a far store."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import drive as module
from pipeline.drive import EngineSettings, RunFailed, _Home, _run_engine, drive
from pipeline.engine_log import LOG_BYTES
from pipeline.engines import EngineRequest
from pipeline.executor.signs import REMOTE_SECONDS
from pipeline.process import spawn
from tests.poison import PoisonConfig, job_for

STILL = "import time\ndef main(pipe, parent):\n    time.sleep(600)\n"
ENDS = "def main(pipe, parent):\n    raise SystemExit(3)\n"
TELLS = """
import sys
from multiprocessing.connection import Connection
def main(pipe, parent):
    Connection(pipe).recv()
    print("https://user:" + "hunter2@" * 10_000)
    print("x" * 5000)
    print("cannot read https://user:hunter2@host/out?token=abc", file=sys.stderr)
    raise SystemExit(3)
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Put a module of this source in the engine's place."""

    def becomes(source: str) -> None:
        (tmp_path / "modules").mkdir()
        (tmp_path / "modules" / "engine_of_test.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path / "modules"))
        monkeypatch.setattr(module, "spawn", lambda _, **options: spawn("engine_of_test", **options))

    yield becomes
    MemoryFileSystem.store.clear()


def run(root: str, folder: Path, splits: int, stall_seconds: float) -> str:
    """Run an engine over so many splits; return what went wrong."""
    job, plan = job_for(folder / "out", PoisonConfig())
    request = EngineRequest(engine="local", job=replace(job, root=root), splits=tuple(range(splits)), workers=1)
    (folder / "home").mkdir()
    home = _Home(mark=f"test-{folder}", folder=str(folder / "home"))
    return _run_engine(request, home, plan, EngineSettings(stall_seconds=stall_seconds), lambda *_: None)


@pytest.mark.timeout(60)
def test_an_engine_that_takes_no_request_is_killed_however_long_the_request_is(engine: Any, tmp_path: Path) -> None:
    engine(STILL)
    begun = time.monotonic()
    assert run(str(tmp_path / "out"), tmp_path, 100_000, 1.5).startswith("no progress for 1.5 s, engine killed; see ")
    assert time.monotonic() - begun < 30


FLOODS = """
import os
def main(pipe, parent):
    for _ in range(40):
        os.write(1, b"x" * 2**20)
    raise SystemExit(3)
"""


@pytest.mark.timeout(60)
def test_a_flood_fills_no_disk(engine: Any, tmp_path: Path) -> None:
    engine(FLOODS)
    assert run(str(tmp_path / "out"), tmp_path, 3, 30.0).startswith("engine ended with status 3; see ")
    log = (tmp_path / "out" / "work" / "logs" / "engine.log").read_bytes()
    assert log[: LOG_BYTES + 2] == b"x" * LOG_BYTES + b"\n["
    assert log.endswith(f"[{40 * 2**20 - LOG_BYTES:,} bytes more left out]\n".encode())


STARVED = """
import sys, threading
from pathlib import Path
from pipeline.drive import EngineSettings, drive
from tests.poison import PoisonConfig, job_for
job, plan = job_for(Path(sys.argv[1]), PoisonConfig())
def never(self):
    raise RuntimeError("a thread was started")
threading.Thread.start = never
drive(job, plan, EngineSettings(workers=1), lambda *_: None)
"""


@pytest.mark.timeout(120)
def test_the_driver_of_a_local_folder_starts_no_thread_which_might_wait_for_ever(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", STARVED, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    assert len(list((tmp_path / "shards").glob("*.commit.json"))) == 6


@pytest.mark.timeout(60)
def test_an_engine_that_ends_before_it_took_its_request_is_told_apart(engine: Any, tmp_path: Path) -> None:
    engine(ENDS)
    log = tmp_path / "out" / "work" / "logs" / "engine.log"
    assert run(str(tmp_path / "out"), tmp_path, 100_000, 60.0) == f"engine ended at its start; see {log}"


def test_with_a_store_the_last_lines_of_the_engine_are_told(engine: Any, tmp_path: Path) -> None:
    engine(TELLS)
    problem = run("memory://out", tmp_path, 3, 600.0)
    assert problem.startswith("engine ended with status 3; its last lines: xxx")
    assert problem.endswith("xxx | cannot read https://host/out?token=...")
    assert len(problem) < 2200
    assert not (tmp_path / "out" / "work").exists()


def test_with_a_store_a_run_that_failed_says_why(engine: Any, tmp_path: Path) -> None:
    engine(TELLS)
    job, plan = job_for(tmp_path, PoisonConfig())
    with pytest.raises(RunFailed, match=r"6 splits .* cannot read https://host/out\?token=\.\.\.\. Run the same"):
        drive(replace(job, root="memory://out"), plan, EngineSettings(workers=1), lambda *_: None)


@pytest.mark.parametrize("seconds", [3 * REMOTE_SECONDS - 1, float("nan")])
def test_a_watchdog_that_sees_no_sign_of_life_in_time_is_refused(tmp_path: Path, seconds: float) -> None:
    job, plan = job_for(tmp_path, PoisonConfig())
    settings = EngineSettings(workers=1, stall_seconds=seconds)
    with pytest.raises(ValueError, match="at least 180 with an object store"):
        drive(replace(job, root="memory://out"), plan, settings, lambda *_: None)
