"""The driver and an engine that misbehaves as a process: it stands still, ends at once, or says why on a far store."""

import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import drive as module
from pipeline.drive import EngineSettings, RunFailed, _Home, _run_engine, _Watch, drive
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


@pytest.mark.slow
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


LEAVES = """
from multiprocessing.connection import Connection
from pathlib import Path
def main(pipe, parent):
    root = Path(Connection(pipe).recv().job.root)
    scratch = root / "work" / "tmp"
    with open(root / "seen", "a") as file:
        file.write(f"{len(list(scratch.glob('*/*')))} ")
    (scratch / "mark" / f"000000-{parent}-{len((root / 'seen').read_text())}").mkdir(parents=True)
    raise SystemExit(3)
"""


@pytest.mark.timeout(60)
def test_what_an_engine_left_is_gone_before_it_is_started_again(engine: Any, tmp_path: Path) -> None:
    engine(LEAVES)
    job, plan = job_for(tmp_path / "out", PoisonConfig())
    with pytest.raises(RunFailed, match="engine ended with status 3"):
        drive(job, plan, EngineSettings(workers=1), lambda *_: None)
    assert (tmp_path / "out" / "seen").read_text() == "0 0 0 "


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


@pytest.mark.parametrize("look_seconds", [0.01, 5.0, 47.0, 200.0])
def test_looks_that_take_long_are_frequent_enough_to_see_an_engine_live_and_to_see_it_stand_still(
    monkeypatch: pytest.MonkeyPatch, look_seconds: float
) -> None:
    """47 s is what 100,000 splits take on a store; its workers give a sign each minute."""
    clock, still, looks = [1000.0], [False], [0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(module, "beats", lambda _: {"worker": str(still[0] or clock[0] // REMOTE_SECONDS)})

    def commits(root: str, planned: int) -> dict[int, float]:
        clock[0] += look_seconds
        looks[0] += 1
        return {}

    monkeypatch.setattr(module, "commit_times", commits)
    watch = _Watch("s3://out", 100_000, 180.0)
    while clock[0] < 10_000:
        clock[0] += 0.2
        watch.commits_changed()
        assert not watch.stalled()
    assert looks[0] * look_seconds < 9000 * 0.85
    still[0], begun = True, clock[0]
    while not watch.stalled():
        clock[0] += 0.2
        watch.commits_changed()
    assert 180 < clock[0] - begun < 180 + 2 * (50 + look_seconds) + look_seconds


def test_looks_that_are_not_granted_end_nothing_until_the_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, away = [1000.0], [True]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(module, "beats", lambda _: {})

    def commits(root: str, planned: int) -> dict[int, float]:
        if away[0]:
            raise OSError(errno.ESTALE, "Stale file handle")
        return {3: 1.0}

    monkeypatch.setattr(module, "commit_times", commits)
    watch = _Watch("/out", 10, 60.0)
    for _ in range(100):
        clock[0] += 0.5
        assert not watch.commits_changed()
        assert not watch.stalled()
    away[0] = False
    clock[0] += 1
    assert watch.commits_changed()
    away[0], begun = True, clock[0]
    while clock[0] - begun < 59:
        clock[0] += 0.5
        assert not watch.commits_changed()
    clock[0] += 10
    with pytest.raises(OSError, match="Stale"):
        watch.commits_changed()
