"""The worker's side: owns the child, watches it, restarts it, and finds out which record is to blame."""

import json
import os
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.commit import valid_commit
from pipeline.executor.journal import InFlight, read_journal
from pipeline.executor.messages import Done, Failed, Ready, RunSplit
from pipeline.executor.strikes import Strikes
from pipeline.job import Job
from pipeline.process import spawn
from pipeline.storage import join, publish_json

POLL_SECONDS = 0.05
MAX_UNEXPLAINED_DEATHS = 3
LOG_BYTES = 16 * 2**20


class SplitFailed(RuntimeError):
    """A split cannot be done as things are (disk full, a broken installation); no record is to blame."""


class ChildDied(Exception):
    """The child ended, stood still or outgrew its memory."""


class SplitExecutor:
    """Runs splits one after another in a long-lived child process. Not thread-safe; one per worker."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="interloom-worker-")
        self._journal = Path(self._scratch.name) / "journal"
        self._log = Path(self._scratch.name) / "log"

    def run(self, split: int) -> dict[str, Any]:
        """Run a split unless it is committed; return its commit record.

        Raises:
            SplitFailed: if it cannot be done on this machine as it is.
        """
        done = valid_commit(self._job.root, self._job.fingerprint, split)
        if done is not None:
            return done
        strikes = Strikes.load(self._job.root, split, self._job.limits.strikes)
        for _ in range(MAX_UNEXPLAINED_DEATHS):
            unexplained = False
            while not unexplained:
                try:
                    outcome = self._attempt(split, strikes)
                except ChildDied as death:
                    in_flight = read_journal(self._journal)
                    self._stop()
                    unexplained = not in_flight.keys
                    strikes.charge(in_flight.keys)
                    last_death = str(death)
                    continue
                self._report(split, outcome)
                strikes.forget()
                return outcome.record
        raise SplitFailed(
            f"split {split}: its worker died {MAX_UNEXPLAINED_DEATHS} times outside any record: {last_death}"
        )

    def close(self) -> None:
        self._stop()
        self._scratch.cleanup()

    def _attempt(self, split: int, strikes: Strikes) -> Done:
        connection = self._ready()
        request = RunSplit(split=split, alone=frozenset(strikes.suspects), crashed=strikes.crashed)
        try:
            connection.send(request)
        except OSError:
            raise ChildDied("it ended between two splits") from None
        answer = self._await(connection, split)
        if isinstance(answer, Failed):
            raise SplitFailed(answer.error)
        if not isinstance(answer, Done):
            raise TypeError(f"unexpected answer {answer!r}")
        return answer

    def _ready(self) -> Connection:
        if self._child is not None and self._child.poll() is None and self._connection is not None:
            return self._connection
        self._stop()
        self._journal.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        with open(self._log, "ab") as log:
            self._child, ours = spawn("pipeline.executor.child", str(self._journal), log=log)
        self._connection = ours
        try:
            ours.send(self._job)
        except OSError:
            raise ChildDied("it ended at its start") from None
        answer = self._await(ours, None)
        if isinstance(answer, Failed):
            self._stop()
            raise SplitFailed(answer.error)
        if not isinstance(answer, Ready):
            raise TypeError(f"unexpected answer {answer!r}")
        return ours

    def _await(self, connection: Connection, split: int | None) -> object:
        """Wait for the child's answer while it makes progress.

        Raises:
            ChildDied: when it ended, stood still or outgrew its memory.
        """
        limits, seen, since = self._job.limits, InFlight(0, ()), time.monotonic()
        beat = 0.0
        while not connection.poll(POLL_SECONDS):
            child = self._child
            if child is None or (child.poll() is not None and not connection.poll(0)):
                raise ChildDied(f"exit status {child.returncode if child else None}; {self._log_tail()}")
            now = time.monotonic()
            in_flight = read_journal(self._journal)
            if in_flight.sequence != seen.sequence:
                seen, since = in_flight, now
                if split is not None and now - beat > 1.0:
                    beat = now
                    heartbeat(self._job.root, split)
            allowed = limits.record_seconds * len(seen.keys) or limits.setup_seconds
            if now - since > allowed:
                raise ChildDied(f"no progress for {allowed:g} s")
            if rss_bytes(child.pid) > limits.max_rss_bytes:
                raise ChildDied(f"more than {limits.max_rss_bytes} bytes of memory")
            if self._log.stat().st_size > LOG_BYTES:
                os.truncate(self._log, 0)
        try:
            answer: object = connection.recv()
        except (EOFError, OSError):
            raise ChildDied(f"it closed the pipe; {self._log_tail()}") from None
        return answer

    def _log_tail(self) -> str:
        try:
            tail = self._log.read_bytes()[-2000:].decode("utf-8", "replace")
        except OSError:
            return ""
        return " | ".join(tail.split("\n")[-12:])

    def _report(self, split: int, done: Done) -> None:
        timing = {
            "audio_seconds": done.audio_seconds,
            "peak_rss_bytes": done.peak_rss_bytes,
            "seconds": list(done.seconds.items()),
            "split": split,
            "started": done.started,
            "wall": done.wall,
        }
        publish_json(timing, timing_path(self._job.root, split))

    def _stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._child is not None:
            if self._child.poll() is None:
                self._child.kill()
            self._child.wait()
            self._child = None


def timing_path(root: str, split: int) -> str:
    return join(root, "work", "timings", f"{split:06d}.json")


def heartbeat(root: str, split: int) -> None:
    """Show a local driver that the split is alive."""
    folder = Path(root) / "work" / "alive"
    if "://" not in root:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split:06d}").write_text(json.dumps(time.time()))


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
