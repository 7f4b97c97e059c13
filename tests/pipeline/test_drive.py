"""The driver and the executor on the local engine: resume, blame, reconcile. No audio, no models."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import Mock

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.commit import CommitConflict, commit, commit_path, remove_scratch, scratch_folder, valid_commits
from pipeline.drive import EngineSettings, RunFailed, _remove_leftovers, _require_own, drive
from pipeline.engines import EngineRequest, on_local, on_ray, worker
from pipeline.folder_lock import FolderInUse
from pipeline.job import Job
from pipeline.storage import publish_json, read_json
from tests.poison import LaterConfig, LinesConfig, PoisonConfig, job_for

LOCAL = EngineSettings(engine="local", workers=2, stall_seconds=60)


def quiet(*_: object) -> None:
    """No progress is shown."""


def shards(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "shards").iterdir())}


def test_all_splits_are_committed_and_a_rerun_touches_nothing(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig())
    assert sum(record["records"] for record in drive(job, plan, LOCAL, quiet).values()) == 24
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()}
    drive(job, plan, LOCAL, quiet)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "shards").iterdir()} == before


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("workers", [1, 3])
def test_batch_size_and_workers_change_no_byte(tmp_path: Path, batch: int, workers: int) -> None:
    poison = PoisonConfig(raises=("u005",), abort=("u018",))
    job, plan = job_for(tmp_path / "a", poison)
    drive(job, plan, LOCAL, quiet)
    other, plan = job_for(tmp_path / "b", poison, batch=batch)
    drive(other, plan, EngineSettings(engine="local", workers=workers), quiet)
    assert shards(tmp_path / "a") == shards(tmp_path / "b")


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_what_passes_each_stage_is_counted_whatever_the_batches_and_deaths(
    tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERLOOM_LOG", "json")
    poison = PoisonConfig(raises=("u005",), abort=("u018",))
    job, plan = job_for(tmp_path, poison, batch=batch)
    job = replace(job, steps=(poison, LaterConfig(raises=("u006", "u007"))))
    records = drive(job, plan, LOCAL, quiet)
    passed = {split: read_json(f"{tmp_path}/work/timings/{split:06d}.json")["passed"] for split in range(6)}
    assert passed[0] == [["read", 4, 4], ["poison", 4, 4], ["later", 4, 4], ["commit", 4, 4]]
    assert passed[1] == [["read", 4, 4], ["poison", 4, 3], ["later", 3, 1], ["commit", 1, 1]]
    assert passed[4] == [["read", 4, 3], ["poison", 3, 3], ["later", 3, 3], ["commit", 3, 3]]
    for split, record in records.items():
        assert sum(came - left for _, came, left in passed[split]) == record["rejects"]
        assert "passed" not in record
    lines = [json.loads(line) for line in (tmp_path / "work" / "logs" / "engine.log").read_text().splitlines()]
    done = [line for line in lines if line["event"] == "stage_done" and line["split"] == 1]
    told = [(line["stage"], line["records_in"], line["records_out"], line["rejected"]) for line in done]
    assert told == [("read", 4, 4, 0), ("poison", 4, 3, 1), ("later", 3, 1, 2), ("commit", 1, 1, 0)]


def test_a_sink_that_loses_a_record_fails_its_split(tmp_path: Path) -> None:
    """Though what it says adds up: a record that passed the stages has come out as a reject."""
    job, plan = job_for(tmp_path, PoisonConfig())
    with pytest.raises(RunFailed, match="4 records left the stages, but 3 were written"):
        drive(replace(job, sink=LinesConfig(loses=1)), plan, LOCAL, quiet)


def test_a_crash_costs_the_culprit_and_not_its_batch_mates(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig(abort=("u001", "u002"), hang=("u010",)))
    drive(job, plan, LOCAL, quiet)
    text = "".join(path.read_text() for path in sorted((tmp_path / "shards").glob("lines-*")))
    rejected = [line.split()[1:3] for line in text.splitlines() if line.startswith("-")]
    assert rejected == [["u001", "crashed"], ["u002", "crashed"], ["u010", "crashed"]]
    assert not list((tmp_path / "work" / "strikes").iterdir())


def test_a_full_disk_blames_no_record_and_the_run_says_so(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig(disk_full=("u009",)))
    with pytest.raises(RunFailed, match=r"1 splits have no valid commit record \(2\).*No space left"):
        drive(job, plan, LOCAL, quiet)
    healed, plan = job_for(tmp_path, PoisonConfig())
    assert len(drive(healed, plan, LOCAL, quiet)) == 6


def test_what_failed_in_the_last_start_comes_last_in_the_next(tmp_path: Path) -> None:
    diary = tmp_path / "diary"
    job, plan = job_for(tmp_path, PoisonConfig(breaks=("u009",), diary=str(diary)), batch=1)
    settings = EngineSettings(engine="local", workers=1, stall_seconds=60)
    with pytest.raises(RunFailed, match=r"1 splits have no valid commit record \(2\): .*CUDA error"):
        drive(job, plan, settings, quiet)
    for split in (3, 5):
        Path(commit_path(str(tmp_path), split)).unlink()
    diary.unlink()
    with pytest.raises(RunFailed, match=r"1 splits have no valid commit record \(2\)"):
        drive(job, plan, settings, quiet)
    begun = [key for key in diary.read_text().split() if key in ("u008", "u012", "u020")]
    assert begun[:3] == ["u012", "u020", "u008"]
    assert set(begun[3:]) == {"u008"}


@pytest.mark.slow
def test_a_driver_killed_again_and_again_ends_with_the_same_bytes(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path / "calm", PoisonConfig(seconds=0.05))
    drive(job, plan, LOCAL, quiet)
    root = tmp_path / "storm"
    code = (
        "import sys; from pathlib import Path; from tests.poison import PoisonConfig, job_for;"
        "from tests.pipeline.test_drive import quiet, LOCAL; from pipeline.drive import drive;"
        "drive(*job_for(Path(sys.argv[1]), PoisonConfig(seconds=0.05)), LOCAL, quiet)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    for wait in (0.9, 1.3, 1.7):
        run = subprocess.Popen([sys.executable, "-c", code, str(root)], env=environment)
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.wait()
    deadline = time.monotonic() + 60
    while True:
        job, plan = job_for(root, PoisonConfig(seconds=0.05))
        try:
            drive(job, plan, LOCAL, quiet)
            break
        except FolderInUse:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert shards(root) == shards(tmp_path / "calm")
    assert not list((root / "work" / "tmp").glob("*"))


def test_what_a_killed_worker_left_is_gone_at_the_end_of_the_same_run(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig(seconds=0.1))

    def leave(done: int, *_: object) -> None:
        if 0 < done < 6:
            (tmp_path / "shards" / "shard-000000.commit.json.tmp-dead").write_text("half")
            (tmp_path / "work" / "tmp" / "000000-dead").mkdir(parents=True, exist_ok=True)
            (tmp_path / "work" / "alive" / "dead").write_text("1")

    drive(job, plan, LOCAL, leave)
    assert not list((tmp_path / "shards").glob("*.tmp-*"))
    assert not [path for name in ("tmp", "alive") for path in (tmp_path / "work" / name).glob("*")]


def test_a_commit_record_outside_the_plan_is_nobodys_progress(tmp_path: Path) -> None:
    """A bigger plan left it, say; `verify` names it."""
    job, plan = job_for(tmp_path, PoisonConfig(seconds=0.1))
    publish_json({"split": 99}, commit_path(str(tmp_path), 99))
    shown: list[tuple[float, ...]] = []
    assert len(drive(job, plan, LOCAL, lambda *numbers: shown.append(numbers))) == 6
    assert shown[-1] == (6, 6, 240.0, 240.0)
    assert len(shown) > 2
    assert Path(commit_path(str(tmp_path), 99)).exists()


@pytest.mark.slow
def test_a_record_that_hangs_is_ended_by_its_worker_and_not_by_the_driver(tmp_path: Path) -> None:
    """Though it may take longer than an engine may stand still: else it would be met again and again."""
    job, plan = job_for(tmp_path, PoisonConfig(hang=("u001",)), count=4, record_seconds=9.0, strikes=1)
    records = drive(job, plan, EngineSettings(workers=1, stall_seconds=6.0), quiet)
    assert [(record["records"], record["rejects"]) for record in records.values()] == [(3, 1)]


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    import fcntl

    job, plan = job_for(tmp_path, PoisonConfig())
    (tmp_path / "work").mkdir()
    with open(tmp_path / "work" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(FolderInUse, match=f"{tmp_path} is in use by another run"):
            drive(job, plan, LOCAL, quiet)


@pytest.mark.parametrize("damage", ["missing file", "short file", "torn record"])
def test_a_commit_that_does_not_hold_is_redone(tmp_path: Path, damage: str) -> None:
    job, plan = job_for(tmp_path, PoisonConfig())
    drive(job, plan, LOCAL, quiet)
    before = shards(tmp_path)
    victim = tmp_path / "shards" / "lines-000003.txt"
    if damage == "missing file":
        victim.unlink()
    elif damage == "short file":
        victim.write_bytes(victim.read_bytes()[:-1])
    else:
        Path(commit_path(str(tmp_path), 3)).write_text('{"format": "interloom-co')
    drive(job, plan, LOCAL, quiet)
    assert shards(tmp_path) == before


def test_a_commit_record_of_other_bytes_is_an_error(tmp_path: Path) -> None:
    for content in ("one", "one"):
        folder = scratch_folder(str(tmp_path), 0)
        (folder / "lines-000000.txt").write_text(content)
        commit(str(tmp_path), 0, "plan", folder, {"records": 1})
    folder = scratch_folder(str(tmp_path), 0)
    (folder / "lines-000000.txt").write_text("two")
    with pytest.raises(CommitConflict, match="other bytes"):
        commit(str(tmp_path), 0, "plan", folder, {"records": 1})


def test_records_of_another_plan_are_refused(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig())
    drive(job, plan, LOCAL, quiet)
    record = read_json(commit_path(str(tmp_path), 0))
    publish_json({**record, "plan": "other"}, commit_path(str(tmp_path), 0))
    assert 0 not in valid_commits(str(tmp_path), "test", range(6))
    with pytest.raises(CommitConflict, match="another plan"):
        drive(job, plan, LOCAL, quiet)


def test_a_stage_that_cannot_be_set_up_fails_the_run_with_its_reason(tmp_path: Path) -> None:
    from tests.poison import BrokenConfig

    job, plan = job_for(tmp_path, BrokenConfig())  # type: ignore[arg-type]
    with pytest.raises(RunFailed, match="no such model"):
        drive(job, plan, LOCAL, quiet)


@pytest.mark.slow
def test_a_sink_that_is_slow_or_dies_blames_no_record(tmp_path: Path) -> None:
    job, plan = job_for(tmp_path, PoisonConfig())
    dying = replace(job, sink=LinesConfig(dies_on=1, slow_seconds=1.5))  # longer than a record may take
    with pytest.raises(RunFailed, match="outside any record"):
        drive(dying, plan, LOCAL, quiet)
    records = drive(job, plan, LOCAL, quiet)
    assert sum(record["records"] for record in records.values()) == 24


class _Broken:
    """A worker's executor whose machine fails at once, or which takes its time."""

    broken: ClassVar[list[bool]] = []

    def __init__(self, job: Job) -> None:
        self._sound = not self.broken or not self.broken.pop()

    def run(self, split: int, coming: int | None = None) -> dict[str, Any]:
        if not self._sound:
            raise LookupError("no such device")
        time.sleep(0.01)
        return {}

    def close(self) -> None:
        pass


@pytest.mark.parametrize("broken", [[True, False], [True, True]])
def test_a_worker_whose_splits_all_fail_does_not_take_those_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: list[bool]
) -> None:
    job, _ = job_for(tmp_path, PoisonConfig())
    monkeypatch.setattr(worker, "SplitExecutor", _Broken)
    monkeypatch.setattr(_Broken, "broken", broken.copy())
    on_local.run(EngineRequest(engine="local", job=job, splits=tuple(range(40)), workers=2))
    failed = [read_json(str(path)) for path in (tmp_path / "work" / "failed").iterdir()]
    assert len(failed) == worker.MOST_FAILURES * sum(broken)
    assert {note["error"] for note in failed} == {"LookupError: no such device"}


def test_a_folder_of_a_store_is_claimed_by_one_fingerprint(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig())
    one = replace(job, root="memory://claimed")
    try:
        _require_own(one)
        _require_own(one)
        with pytest.raises(CommitConflict, match="with other settings"):
            _require_own(replace(one, fingerprint="other"))
    finally:
        MemoryFileSystem.store.clear()
    _require_own(replace(job, fingerprint="other"))  # a local folder has its lock
    assert not (tmp_path / "work" / "job.json").exists()


def test_scratch_that_is_removed_under_a_commit_leaves_no_record_of_half_a_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = scratch_folder(str(tmp_path), 0)
    (folder / "a-000000.txt").write_text("a")
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.commit.shutil.rmtree", quiet_removal)
        remove_scratch(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        commit(str(tmp_path), 0, "plan", folder, {"inputs": 1})
    assert not list((tmp_path / "shards").glob("*"))
    _remove_leftovers(str(tmp_path))
    assert not list((tmp_path / "work").glob("*/*"))


def quiet_removal(path: Path, ignore_errors: bool) -> None:
    """Stand still before the first file is removed."""


class _Cluster:
    """Ray, as far as the engine asks it: an actor says after a while that it is worn, is dead, or is sound."""

    class exceptions:
        class RayError(Exception):
            pass

    def __init__(self, kinds: list[str]) -> None:
        self._kinds, self._failures = kinds.copy(), Counter[str]()
        self.done: set[int] = set()

    def remote(self, **_: Any) -> Any:
        return lambda _: SimpleNamespace(remote=lambda _: self._actor(self._kinds.pop()))

    def _actor(self, kind: str) -> Any:
        actor = Mock()
        actor.run.remote = lambda split, coming: (kind, split)
        return actor

    def wait(self, references: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        first = min(references, key=lambda reference: reference[0] == "sound")  # who fails is the quickest
        return [first], []

    def get(self, reference: tuple[str, int]) -> bool:
        kind, split = reference
        if kind == "dead":
            raise self.exceptions.RayError
        self._failures[kind] += 1
        if kind == "sound":
            self.done.add(split)
        return kind == "sound" or self._failures[kind] < worker.MOST_FAILURES


KINDS = [(["sound", "worn"], 3), (["sound", "dead"], 0), (["worn", "dead"], 40), (["sound", "sound"], 0)]


@pytest.mark.parametrize(("kinds", "missing"), KINDS)
def test_ray_gives_nothing_more_to_actors_that_do_nothing(tmp_path: Path, kinds: list[str], missing: int) -> None:
    job, _ = job_for(tmp_path, PoisonConfig())
    request = EngineRequest(engine="ray", job=job, splits=tuple(range(40)), workers=2)
    cluster = _Cluster(kinds)
    on_ray._schedule(cluster, request, on_ray.parse_options(()))
    assert len(cluster.done) == 40 - missing
