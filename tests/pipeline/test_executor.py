"""The executor by itself: work ahead, isolation, limits, what it leaves behind."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commit import commit_path
from pipeline.engines.turns import Turns
from pipeline.executor import SplitExecutor, SplitFailed, signs
from pipeline.executor.journal import Journal, read_journal
from pipeline.executor.output import Output
from pipeline.executor.strikes import Strikes
from pipeline.folders import OwnedFolder
from pipeline.job import Job
from pipeline.process import family, kill_marked, marked
from pipeline.storage import list_names
from tests.poison import LinesConfig, PoisonConfig, job_for


@contextmanager
def executor(job: Job) -> Iterator[SplitExecutor]:
    made = SplitExecutor(job)
    try:
        yield made
    finally:
        made.close()


def worked_on(diary: Path) -> list[str]:
    return diary.read_text().split()


def keys(*splits: int) -> list[str]:
    return [f"u{i:03d}" for split in splits for i in range(4 * split, 4 * split + 4)]


def written(root: Path) -> set[int]:
    return {int(name[6:12]) for name in list_names(str(root / "shards")) if name.startswith("shard-")}


def test_the_next_split_is_worked_on_while_one_is_written_but_not_written_unasked(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    job, _ = job_for(tmp_path, PoisonConfig(diary=str(diary)), record_seconds=30.0)
    with executor(replace(job, sink=LinesConfig(slow_seconds=1.0))) as one:
        one.run(0, 1)
        assert worked_on(diary) == keys(0, 1)
        time.sleep(1.5)  # time enough to write it
        assert written(tmp_path) == {0}
        one.run(1, 2)
        one.run(4)  # takes the second one back
        one.run(2)
    assert worked_on(diary) == keys(0, 1, 2, 4, 2)
    assert written(tmp_path) == {0, 1, 2, 4}
    assert (tmp_path / "shards" / "lines-000002.txt").read_text() == "".join(f"+ {key}\n" for key in keys(2))


@pytest.mark.parametrize("suspicious", [0, 1])
def test_with_suspects_about_nothing_is_done_ahead(tmp_path: Path, suspicious: int) -> None:
    diary = tmp_path / "diary"
    job, _ = job_for(tmp_path, PoisonConfig(diary=str(diary)), record_seconds=30.0)
    Strikes.load(job, suspicious).charge([keys(suspicious)[1]], certain=False)
    with executor(replace(job, sink=LinesConfig(slow_seconds=1.0))) as one:
        one.run(0, 1)
    assert worked_on(diary) == keys(0)


def test_a_death_ahead_blames_nobody_of_the_split_that_is_written(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(abort=("u005",)), record_seconds=30.0)
    with executor(replace(job, sink=LinesConfig(slow_seconds=1.5))) as one:
        assert one.run(0, 1)["records"] == 4
        assert Strikes.load(job, 0).suspects == set()
        assert Strikes.load(job, 1).suspects >= {"u005"}
        assert one.run(1)["rejects"] == 1
    assert not list((tmp_path / "work" / "strikes").iterdir())


def test_a_memory_error_is_a_death_like_any_other(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(starved=("u002",)), record_seconds=30.0)
    with executor(job) as one:
        assert one.run(0, 1)["rejects"] == 1
    assert "- u002 crashed u002.wav: killed, hung" in (tmp_path / "shards" / "lines-000000.txt").read_text()


@pytest.mark.slow
def test_a_death_beside_other_work_is_no_strike(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(seconds=0.6), batch=1, record_seconds=30.0)
    dying = replace(job, sink=LinesConfig(dies_on=0, slow_seconds=1.0))
    with executor(dying) as one, pytest.raises(SplitFailed, match="outside any record"):
        one.run(0, 1)
    assert not any(Strikes.load(job, split).strikes for split in range(6))


def test_a_child_whose_accelerator_broke_takes_no_other_split_with_it(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(breaks=("u002",)), record_seconds=30.0)
    with executor(job) as one:
        with pytest.raises(SplitFailed, match="split 0: RuntimeError: CUDA error: device-side assert"):
            one.run(0, 1)
        assert one.run(1)["records"] == 4


def test_a_split_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(seconds=0.5), record_seconds=30.0)
    limits = replace(job.limits, split_seconds=1.0)
    with executor(replace(job, limits=limits)) as one, pytest.raises(SplitFailed, match="split 0: not done after 1 s"):
        one.run(0)
    assert written(tmp_path) == set()


def test_a_worker_shows_that_it_lives_while_its_models_or_a_record_take_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own limits end what hangs; the driver is not to end it before them."""
    monkeypatch.setattr(signs, "LOCAL_SECONDS", 0.1)
    job, _ = job_for(tmp_path, PoisonConfig(setup_seconds=2.0, seconds=2.0), count=1, record_seconds=30.0)
    with executor(job) as one:
        one._ready()
        loaded = one._heart._beats
        one.run(0)
        assert loaded > 8
        assert one._heart._beats - loaded > 8


def test_models_that_never_load_end_their_split_and_then_the_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of a million splits would take three times the limit, and the driver would look on."""
    monkeypatch.setattr(signs, "LOCAL_SECONDS", 0.1)
    job, _ = job_for(tmp_path, PoisonConfig(setup_seconds=3600.0))
    limits = replace(job.limits, setup_seconds=0.5)
    with executor(replace(job, limits=limits)) as one:
        with pytest.raises(SplitFailed, match=r"died 3 times outside any record: no progress for 0\.5 s"):
            one.run(0)
        given = one._heart._beats
        assert given > 3
        with pytest.raises(SplitFailed, match="outside any record"):
            one.run(1)
        assert one._heart._beats == given


@pytest.mark.parametrize(("root", "seconds"), [("{}", signs.LOCAL_SECONDS), ("memory://heart", signs.REMOTE_SECONDS)])
def test_signs_of_life_limit_themselves_in_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, seconds: float
) -> None:
    clock, written = [100.0], []
    monkeypatch.setattr(signs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(signs.Heart, "_publish", lambda *_: written.append(clock[0]))
    heart = signs.Heart(root.format(tmp_path))
    for _ in range(1000):
        heart.beat()
        clock[0] += seconds / 100
    assert 9 <= len(written) <= 10


def test_two_workers_at_one_split_write_the_same(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(seconds=0.02, raises=("u002",)), record_seconds=30.0)
    with executor(job) as one, executor(job) as other, ThreadPoolExecutor(2) as pool:
        for split in range(6):
            first, second = pool.map(lambda worker, split=split: worker.run(split), (one, other))
            assert first == second
    assert sorted(list_names(str(tmp_path / "shards"))) == sorted(
        name for split in range(6) for name in (f"lines-{split:06d}.txt", Path(commit_path("", split)).name)
    )


def test_what_a_record_leaves_running_is_ended_and_nothing_stays_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "tmp"
    home.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(home))
    job, _ = job_for(tmp_path, PoisonConfig(forks=("u001",)), record_seconds=30.0)
    job = replace(job, limits=replace(job.limits, max_processes=20))
    with executor(job) as one:
        assert one.run(0)["rejects"] == 1
        mark = one._mark
    assert marked("INTERLOOM_CHILD", mark) == []
    assert not list(home.iterdir())


def test_a_forked_copy_of_a_child_does_not_go_on_with_our_work(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.enter(3, ["a"], "main")
    pid = os.fork()
    if pid == 0:
        try:
            journal.enter(3, ["b"], "main")
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert read_journal(tmp_path / "journal").keys == {3: ("a",)}


def test_the_journal_tells_hands_and_splits_apart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.enter(3, ["a", "b"], "main")
    journal.enter(4, ["x" * 100_000], "ahead")
    found = read_journal(tmp_path / "journal")
    assert (found.sequence, found.total, found.keys) == (2, 3, {3: ("a", "b"), 4: ("x" * 100_000,)})
    journal.enter(4, [], "ahead")
    assert read_journal(tmp_path / "journal").keys == {3: ("a", "b")}


def test_who_prints_too_much_has_to_wait() -> None:
    output = Output(10 * 2**20)
    code = "import os\nfor _ in range(100): os.write(1, b'x' * 2**20)\nos.write(1, b'\\nthe end')"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=output.theirs)
    output.handed_over()
    deadline = time.monotonic() + 30
    while not output.too_much and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    assert output.too_much
    assert child.poll() is None  # 100 MiB would long be written
    output.close()
    assert child.wait() == 0
    assert output.tail().endswith("the end")


def test_a_mark_finds_who_changed_session_and_parent() -> None:
    mark = f"test-{os.getpid()}"
    code = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0: time.sleep(600)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", code]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "MARK_OF_TEST": mark})
    assert child.stdout is not None
    child.stdout.readline()
    assert child.pid in family(os.getpid())
    assert len(marked("MARK_OF_TEST", mark)) == 4
    kill_marked("MARK_OF_TEST", mark)
    child.wait()
    assert marked("MARK_OF_TEST", mark) == []


def test_only_folders_of_the_dead_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "from pipeline.folders import OwnedFolder; print(OwnedFolder().path, flush=True); input()"
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert other.stdout is not None
    theirs = Path(other.stdout.readline().strip())
    ours = OwnedFolder()
    assert theirs.is_dir()
    other.kill()
    other.wait()
    assert theirs.is_dir()
    third = OwnedFolder()
    assert not theirs.exists()
    assert ours.path.is_dir()
    ours.close()
    third.close()
    assert not list(tmp_path.iterdir())


@given(st.integers(0, 30), st.lists(st.integers(0, 3), max_size=60), st.data())
def test_every_split_is_run_once_and_lost_ones_again(count: int, workers: list[int], data: st.DataObject) -> None:
    turns, taken, lost = Turns(range(count)), [], 0
    for worker in [*workers, *([0] * 100)]:
        turn = turns.take(worker)
        if turn is None:
            assert not turns
            continue
        taken.append(turn[0])
        assert turn[1] is None or turn[1] not in taken
        if lost < 3 and data.draw(st.booleans()):
            turns.put_back(taken.pop())
            lost += 1
    assert sorted(taken) == list(range(count))


def test_the_largest_comes_first_and_an_idle_worker_takes_what_is_kept_for_another() -> None:
    turns = Turns([5, 6, 7])
    assert turns.take("a") == (5, 6)
    assert turns.take("b") == (7, None)
    assert turns.take("b") == (6, None)
    assert turns.take("a") is None
