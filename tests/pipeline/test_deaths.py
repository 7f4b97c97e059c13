"""Whose doing a death is: kills from outside cost no record, greed does however fast it is."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.executor import SplitFailed
from pipeline.executor.deaths import Blame, blame
from pipeline.executor.journal import read_journal
from pipeline.executor.strikes import Strikes
from pipeline.process import ended, memory_bytes, reap
from tests.pipeline.test_executor import executor
from tests.poison import PoisonConfig, job_for
from tests.shots import ShotConfig

GIB = 2**30


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_record_whose_child_is_killed_from_outside_six_times_is_kept(
    tmp_path: Path, batch: int, number: signal.Signals
) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(), batch=batch, record_seconds=30.0)
    job = replace(job, steps=(PoisonConfig(), ShotConfig(slow=("u002",))))  # the first one is never given batches
    killed: list[int] = []
    over = threading.Event()
    with executor(job) as one:

        def kill() -> None:
            while len(killed) < 6 and not over.wait(0.01):
                child, held = one._child, read_journal(one._journal)
                if child is None or child.pid in killed or "u002" not in held.keys.get(0, ()):
                    continue
                killed.append(child.pid)
                os.kill(child.pid, number)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            record = one.run(0)
        finally:
            over.set()
            killer.join()
    assert len(killed) == 6
    assert (record["records"], record["rejects"]) == (4, 0)
    assert not list((tmp_path / "work" / "strikes").iterdir())


def test_a_split_whose_worker_is_killed_on_and_on_fails_and_blames_no_record(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(), record_seconds=30.0)
    job = replace(job, steps=(PoisonConfig(), ShotConfig(keys=("u002",))))
    with executor(job) as one:
        with pytest.raises(SplitFailed, match=r"split 0: its worker was killed 10 times from outside.*exit status -9"):
            one.run(0)
        assert one.run(1)["records"] == 4
    strikes = Strikes.load(job, 0)
    assert (strikes.strikes, strikes.suspects) == ({}, {"u000", "u001", "u002", "u003"})


def test_who_takes_memory_faster_than_anybody_looks_is_to_blame_for_the_kernels_kill(tmp_path: Path) -> None:
    shot = ShotConfig(keys=("u002",), memory_bytes=400 * 2**20)
    job, _ = job_for(tmp_path, shot, record_seconds=30.0, max_rss_bytes=700 * 2**20)
    with executor(job) as one:
        one._check_size = lambda pid, whole_family: None  # type: ignore[method-assign]  # it looks too seldom
        assert one.run(0)["rejects"] == 1
    assert "- u002 crashed u002.wav: killed, hung" in (tmp_path / "shards" / "lines-000000.txt").read_text()


@pytest.mark.parametrize(
    ("status", "ours", "peak", "loaded", "held", "expected"),
    [
        (-signal.SIGKILL, False, GIB, 0, 1, Blame.OUTSIDE),
        (-signal.SIGKILL, False, GIB, 0, 0, Blame.OUTSIDE),
        (-signal.SIGTERM, False, GIB, 0, 8, Blame.OUTSIDE),
        (-signal.SIGKILL, False, 2 * GIB, 0, 1, Blame.RECORD),
        (-signal.SIGKILL, False, 2 * GIB, 0, 0, Blame.NOBODY),
        (-signal.SIGKILL, False, 2 * GIB, GIB, 1, Blame.OUTSIDE),
        (-signal.SIGKILL, False, 3 * GIB, GIB, 1, Blame.RECORD),
        (-signal.SIGKILL, True, 0, 0, 1, Blame.RECORD),
        (-signal.SIGKILL, True, 0, 0, 0, Blame.NOBODY),
        (-signal.SIGSEGV, False, 0, 0, 1, Blame.RECORD),
        (-signal.SIGABRT, False, 0, 0, 0, Blame.NOBODY),
        (71, False, 0, 0, 1, Blame.RECORD),
    ],
)
def test_the_rule(status: int, ours: bool, peak: int, loaded: int, held: int, expected: Blame) -> None:
    known = {"killed_by_us": ours, "status": status, "peak_bytes": peak, "loaded_bytes": loaded}
    found = blame(memory_bytes=4 * GIB, held=held, **known)
    assert found is expected


def test_a_peak_is_told_though_nobody_looked() -> None:
    code = "import os; held = bytearray(b'x') * 200_000_000; del held; os.kill(os.getpid(), 9)"
    child = subprocess.Popen([sys.executable, "-c", code])
    while not ended(child):
        pass
    assert ended(child)  # looking takes nothing away
    status, peak = reap(child)
    assert status == -9
    assert 200_000_000 < peak < 200_000_000 + 2 * GIB
    assert reap(child) == (-9, 0)
    assert ended(child)


def test_what_a_cgroup_allows_counts(tmp_path: Path) -> None:
    groups, ours = tmp_path / "cgroup", tmp_path / "ours"
    (groups / "pod" / "box").mkdir(parents=True)
    (groups / "memory" / "old").mkdir(parents=True)
    (groups / "pod" / "memory.max").write_text("300000000\n")
    (groups / "pod" / "box" / "memory.max").write_text("max\n")
    (groups / "memory" / "old" / "memory.limit_in_bytes").write_text("200000000\n")
    ours.write_text("0::/pod/box\n")
    assert memory_bytes(str(groups), str(ours)) == 300_000_000
    ours.write_text("9:cpu:/old\n0::/pod/box\n4:memory:/old\n")
    assert memory_bytes(str(groups), str(ours)) == 200_000_000
    assert memory_bytes(str(groups), str(tmp_path / "none")) == psutil.virtual_memory().total
