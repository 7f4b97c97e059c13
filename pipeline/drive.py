"""The driver: hands splits to an engine, watches the commit records appear, and trusts nothing else.

The engine runs in a process of its own, so that a hang, a crash or a flood of logs cannot reach us: when nothing moves
for `stall_seconds` it is killed and started again on what is left. Reruns are free: committed splits are kept.
"""

import hashlib
import os
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

from pipeline.commit import FETCHERS, CommitConflict, keep_valid, remove_scratch, valid_commit, valid_commits
from pipeline.engine_log import EngineLog
from pipeline.engines import EngineName, EngineRequest
from pipeline.engines.worker import failure_path
from pipeline.executor.signs import REMOTE_SECONDS, beats
from pipeline.folder_lock import locked
from pipeline.folders import OwnedFolder, remove_abandoned
from pipeline.job import Job
from pipeline.log import Log
from pipeline.plan import Plan
from pipeline.process import kill_marked, spawn
from pipeline.status_files import commit_times
from pipeline.storage import is_remote, join, list_names, publish_json_once, read_json, remove

MAX_ENGINE_STARTS = 3
MOST_REASONS = 100
"""Failures that are read to say why splits are missing."""
MARK = "INTERLOOM_RUN"
POLL_SECONDS = 0.2
SIGNS_AWAITED = 3
"""Signs of life that may fail to come, each, before an engine passes for dead."""
LOOK_SHARE = 10.0
"""The driver waits so many times as long as its last look took: listing 100,000 splits takes a while."""
LOOKS_A_STALL = 4
"""But never longer than the time that an engine may stand still, divided by this."""

Progress = Callable[[int, int, float, float], None]
"""Called with splits done, splits planned, audio seconds done, audio seconds planned."""


class RunFailed(RuntimeError):
    """The run ended and planned splits have no valid commit record; the message names them and the reasons."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How a run is carried out. None of it changes a byte of the output.

    Attributes:
        engine: `local`, `beam` or `ray`.
        workers: how many splits run at once.
        options: the engine's own options.
        stall_seconds: an engine that commits nothing and whose workers give no sign of life for this long is killed and
            started again.
    """

    engine: EngineName = "local"
    workers: int = 2
    options: tuple[str, ...] = ()
    stall_seconds: float = 1800.0

    def __post_init__(self) -> None:
        if self.engine == "local" and self.options:
            raise ValueError(f"the local engine takes no options of its own, got {' '.join(self.options)}")


def drive(job: Job, plan: Plan, settings: EngineSettings, progress: Progress) -> dict[int, dict[str, Any]]:
    """Run every split that has no valid commit record; return the records of all splits.

    Raises:
        RunFailed: if splits are missing after `MAX_ENGINE_STARTS` starts of the engine that brought nothing.
        CommitConflict: if the folder holds records of another plan.
        FolderInUse: if another run works in it.
        ValueError: see `require_patience`.
    """
    require_patience(job.root, settings.stall_seconds)
    splits, log = range(len(plan.sizes)), Log(role="driver", root=job.root)
    with locked(job.root), _engine_home(job.root) as home:
        _remove_leftovers(job.root)
        _require_own(job)
        done = keep_valid(job.root, job.fingerprint, splits)
        starts = 0
        while starts < MAX_ENGINE_STARTS:
            _show(progress, plan, done)
            todo = _in_order(job.root, plan, set(splits) - set(done))
            if not todo:
                log.tell("run_done", committed=len(done), planned=len(splits))
                return done
            _forget_failures(job.root)
            request = EngineRequest(
                engine=settings.engine, job=job, splits=tuple(todo), workers=settings.workers, options=settings.options
            )
            log.tell("engine_asked", engine=settings.engine, splits=len(todo), workers=settings.workers)
            problem = _run_engine(request, home, plan, settings, progress)
            _remove_leftovers(job.root)
            before, done = len(done), _committed(job, splits)
            if problem:
                log.tell("engine_failed", level="warning", problem=problem, committed=len(done) - before)
            starts = starts + 1 if len(done) == before else 1
        _show(progress, plan, done)
        if missing := sorted(set(splits) - set(done)):
            told = _explain(job.root, missing, problem)
            log.tell("run_failed", level="error", missing=len(missing), error=told)
            raise RunFailed(told)
        return done


def _require_own(job: Job) -> None:
    """Claim a folder of a store for the fingerprint of its job: no lock keeps two runs apart there.

    Raises:
        CommitConflict: if it was claimed for another.
    """
    claim = join(job.root, "work", "job.json")
    if is_remote(job.root) and not publish_json_once({"fingerprint": job.fingerprint}, claim):
        raise CommitConflict(
            f"{claim} says that a run with other settings works in {job.root}, or did; use another --out, or delete "
            f"that file if none does and nothing was committed"
        )


def _in_order(root: str, plan: Plan, splits: Iterable[int]) -> list[int]:
    """Return the largest first, but last what failed in the last start: it may take its worker with it."""
    failed = _failures(root)
    return sorted(plan.largest_first(splits), key=lambda split: failure_path(root, split) in failed)


def require_patience(root: str, stall_seconds: float) -> None:
    """Refuse a watchdog that would kill sound engines.

    Raises:
        ValueError: if workers give their signs of life, on a store, too seldom for it.
    """
    least = SIGNS_AWAITED * REMOTE_SECONDS
    if is_remote(root) and not stall_seconds >= least:
        raise ValueError(
            f"--stall-seconds {stall_seconds:g}: at least {least:g} with an object store, where a worker gives a sign "
            f"of life every {REMOTE_SECONDS:g} s"
        )


def _committed(job: Job, splits: range) -> dict[int, dict[str, Any]]:
    """Return the records that count; those that a store does not list yet are asked for by name."""
    done = valid_commits(job.root, job.fingerprint, splits)
    if is_remote(job.root):
        missing = [split for split in splits if split not in done]
        with ThreadPoolExecutor(FETCHERS) as pool:
            found = pool.map(lambda split: valid_commit(job.root, job.fingerprint, split), missing)
            done |= {split: record for split, record in zip(missing, found, strict=True) if record}
    return dict(sorted(done.items()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Home:
    """Where an engine lives: what it and its workers leave behind is found by these.

    Attributes:
        mark: value of `MARK` in the environment of all its processes.
        folder: its temporary folder.
    """

    mark: str
    folder: str


@contextmanager
def _engine_home(root: str) -> Iterator[_Home]:
    """Remove what a killed run left on this machine, and at the end what ours leaves."""
    family = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:16] + ":"
    if not is_remote(root):
        kill_marked(MARK, family)  # we hold the folder's lock: whoever works for it is an orphan
    folder = OwnedFolder()
    mark = f"{family}{uuid.uuid4().hex}"
    try:
        yield _Home(mark=mark, folder=str(folder.path))
    finally:
        kill_marked(MARK, mark)
        folder.close()
        remove_abandoned()
        _remove_leftovers(root)


def _run_engine(request: EngineRequest, home: _Home, plan: Plan, settings: EngineSettings, progress: Progress) -> str:
    """Run the engine process to its end or to a stall; return what went wrong, "" if nothing did."""
    job = request.job
    log = EngineLog(job.root)
    try:
        env = {MARK: home.mark, "TMPDIR": home.folder}
        process, connection = spawn("pipeline.engines.serve", log=log.theirs, session=True, env=env)
    finally:
        log.handed_over()
    try:
        watch, handed = _Watch(job.root, len(plan.sizes), settings.stall_seconds), _Handover(connection, request)
        while process.poll() is None:
            handed.go_on()
            time.sleep(POLL_SECONDS)
            log.take()
            if watch.commits_changed():
                _show(progress, plan, watch.committed)
            if watch.stalled():
                return f"no progress for {settings.stall_seconds:g} s, engine killed{log.told()}"
        if process.returncode == 0:
            return ""
        ended = f"with status {process.returncode}" if handed.done else "at its start"
        return f"engine ended {ended}{log.told()}"
    finally:
        _kill_group(process)
        kill_marked(MARK, home.mark)
        connection.close()
        log.close()


class _Handover:
    """Hands a request over piece by piece: an engine that stands still takes no more than fills the pipe.

    There is no thread for it, nor for the log: where memory is short, `Thread.start` may wait for ever, and nobody
    watches the driver.

    Attributes:
        done: the engine took it.
    """

    def __init__(self, connection: Connection, request: EngineRequest) -> None:
        data = bytes(ForkingPickler.dumps(request))
        self._rest = memoryview(struct.pack("!i", len(data)) + data)  # as `Connection.send_bytes` frames it
        self._descriptor = connection.fileno()
        os.set_blocking(self._descriptor, False)

    @property
    def done(self) -> bool:
        return not self._rest

    def go_on(self) -> None:
        with suppress(OSError):  # the pipe is full, or the engine is gone
            while self._rest:
                self._rest = self._rest[os.write(self._descriptor, self._rest) :]


class _Watch:
    """Notices commit records and heartbeats.

    A look may take as long as an engine may stand still, so that a silence is counted from the end of a look to the
    beginning of another. One that the system or the store does not grant is no look.

    Attributes:
        committed: planned splits that have a commit record, as of the last look.
    """

    def __init__(self, root: str, planned: int, stall_seconds: float) -> None:
        self._root, self._planned, self._stall = root, planned, stall_seconds
        self._least = 5.0 if is_remote(root) else 0.5
        self._last_look = self._next_look = self._last_change = time.monotonic()
        self._beats: dict[str, str] = {}
        self.committed: set[int] = set()

    def commits_changed(self) -> bool:
        """Look, if it is time; return whether there are other commit records than before.

        Raises:
            OSError: if none was granted for as long as an engine may stand still.
        """
        begun = time.monotonic()
        if begun < self._next_look:
            return False
        try:
            committed = {split for split in commit_times(self._root, self._planned) if split < self._planned}
            changed, alive = committed != self.committed, self._heartbeats_changed()
        except OSError:
            if begun - self._last_change > self._stall:
                raise
            self._next_look = time.monotonic() + self._least
            return False
        now = time.monotonic()
        if changed or alive:
            self._last_change = now
        self._last_look = begun
        self._next_look = now + min(max(self._least, LOOK_SHARE * (now - begun)), self._stall / LOOKS_A_STALL)
        self.committed = committed
        return changed

    def stalled(self) -> bool:
        return self._last_look - self._last_change > self._stall

    def _heartbeats_changed(self) -> bool:
        found = beats(self._root)
        changed = found != self._beats
        self._beats = found
        return changed


def _show(progress: Progress, plan: Plan, done: Any) -> None:
    progress(len(done), len(plan.sizes), sum(plan.sizes[split] for split in done), sum(plan.sizes))


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    """End the engine and whatever it left running in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _explain(root: str, missing: list[int], problem: str) -> str:
    shown = ", ".join(map(str, missing[:10])) + (" and more" if len(missing) > 10 else "")
    noted = _failures(root)
    paths = [path for split in missing if (path := failure_path(root, split)) in noted]
    reasons = {str((read_json(path) or {}).get("error", "")) for path in paths[:MOST_REASONS]} - {""}
    because = "; ".join([*sorted(reasons)[:3], *([problem] if problem else [])]) or "the engine dropped them"
    return (
        f"{len(missing)} splits have no valid commit record ({shown}): {because}. Run the same command again to resume"
    )


def _remove_leftovers(root: str) -> None:
    """Remove what interrupted attempts left; safe because the folder is locked and orphans only fail on it.

    A store shows no half object, and no lock tells us who else works there: signs of life are all that is removed.
    """
    for name in list_names(join(root, "work", "alive")):
        remove(join(root, "work", "alive", name))
    if not is_remote(root):
        remove_scratch(root)
        for folder in (Path(root) / "shards", *(Path(root) / "work").glob("*/")):
            for path in folder.glob("*.tmp-*"):
                path.unlink(missing_ok=True)


def _forget_failures(root: str) -> None:
    for path in _failures(root):
        remove(path)


def _failures(root: str) -> set[str]:
    """Return the paths of the failures that are noted."""
    folder = join(root, "work", "failed")
    return {join(folder, name) for name in list_names(folder)}
