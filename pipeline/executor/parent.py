"""The worker's side: owns the child, watches it, restarts it, and finds out which record is to blame."""

import subprocess
import time
import uuid
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypedDict

from pipeline.commit import remove_scratch, valid_commit
from pipeline.executor.deaths import MOST_DEATHS, Blame, blame
from pipeline.executor.journal import InFlight, read_journal
from pipeline.executor.messages import Done, Failed, Ready, RunSplit
from pipeline.executor.output import Output
from pipeline.executor.signs import Heart
from pipeline.executor.strikes import Strikes
from pipeline.folders import OwnedFolder
from pipeline.job import Job
from pipeline.log import Log
from pipeline.process import ended, family, kill_marked, memory_bytes, reap, rss_bytes, spawn
from pipeline.storage import join, publish_json

POLL_SECONDS = 0.05
FAMILY_SECONDS = 0.25
DYING_SECONDS = 5.0
"""A child that closed its pipe may take so long to be gone."""
MARK = "INTERLOOM_CHILD"


_TOLD = {
    Blame.NOBODY: "its worker died {} times outside any record",
    Blame.OUTSIDE: (
        "its worker was killed {} times from outside, by a signal or by the kernel when others left no memory, "
        "and no record is to blame"
    ),
}


class Ending(TypedDict):
    """How a child ended, see `deaths.blame`."""

    killed_by_us: bool
    peak_bytes: int
    status: int


class SplitFailed(RuntimeError):
    """A split cannot be done as things are (disk full, a broken installation); no record is to blame."""


class ChildDied(Exception):
    """The child ended, stood still or outgrew its limits."""


class SplitExecutor:
    """Runs splits one after another in a long-lived child process. Not thread-safe; one per worker."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._output = Output(job.limits.max_printed_bytes)
        self._output.handed_over()
        self._mark = uuid.uuid4().hex
        self._folder = OwnedFolder()
        self._journal = self._folder.path / "journal"
        self._heart = Heart(job.root)
        self._careful = False
        self._loaded_bytes = self._unready = 0
        self._log = Log(role="worker", root=job.root)

    def run(self, split: int, coming: int | None = None) -> dict[str, Any]:
        """Run a split unless it is committed; return its commit record.

        Args:
            split: its number.
            coming: the split that will probably be asked for next: its rows may be worked on ahead.

        Raises:
            SplitFailed: if it cannot be done on this machine as it is.
        """
        done = valid_commit(self._job.root, self._job.fingerprint, split)
        if done is not None:
            return done
        strikes, deaths = self._strikes(split), Counter[Blame]()
        while True:
            try:
                outcome = self._attempt(split, strikes, coming)
            except ChildDied as death:
                blamed, status = self._charge(split, strikes)
                self._log.tell("child_died", level="warning", split=split, why=str(death), blame=blamed, status=status)
                deaths[blamed] += 1
                if deaths[blamed] == MOST_DEATHS.get(blamed):
                    told = _TOLD[blamed].format(deaths[blamed])
                    raise SplitFailed(f"split {split}: {told}: {death}; exit status {status}") from None
                continue
            except BaseException:  # the child may still be at work on it, or be what is broken, for every split to come
                self._stop()
                raise
            self._report(split, outcome)
            strikes.forget()
            return outcome.record

    def close(self) -> None:
        self._stop()
        self._heart.stop()
        self._folder.close()

    def _strikes(self, split: int) -> Strikes:
        return Strikes.load(self._job, split)

    def _charge(self, split: int, strikes: Strikes) -> tuple[Blame, int]:
        """Stop the child if it lives; note whom it had in its hands; return who its death is laid to and its status."""
        held, careful = read_journal(self._journal), self._careful
        limit = min(self._job.limits.max_rss_bytes, memory_bytes())
        ending = self._stop()
        blamed = blame(held=held.total, loaded_bytes=self._loaded_bytes, memory_bytes=limit, **ending)
        for other, keys in held.keys.items():
            mine = other == split
            charged = strikes if mine else self._strikes(other)
            charged.charge(keys, certain=blamed == Blame.RECORD and mine and careful and held.total == 1)
        return blamed, ending["status"]

    def _attempt(self, split: int, strikes: Strikes, coming: int | None) -> Done:
        connection = self._ready()
        request = RunSplit(split=split, alone=frozenset(strikes.suspects), crashed=strikes.crashed)
        self._careful = request.careful
        self._output.forget()
        try:
            connection.send(request)
            if coming is not None and not request.careful and not self._strikes(coming).suspects:
                connection.send(RunSplit(split=coming, announced=True))
        except OSError:
            raise self._gone("it ended between two splits") from None
        answer = self._await(connection, split)
        if isinstance(answer, Failed):
            raise SplitFailed(answer.error)
        if not isinstance(answer, Done) or answer.record["split"] != split:
            raise TypeError(f"unexpected answer {answer!r}")
        return answer

    def _ready(self) -> Connection:
        """Return the pipe to a child that has loaded its models."""
        if self._child is not None and self._connection is not None:
            if not ended(self._child):
                return self._connection
            raise ChildDied("it ended between two splits")
        self._stop()
        self._loaded_bytes = 0
        self._output = Output(self._job.limits.max_printed_bytes)
        env = {MARK: self._mark, "TMPDIR": str(self._folder.path)}
        arguments = str(self._journal), self._mark
        try:
            self._child, ours = spawn("pipeline.executor.child", *arguments, log=self._output.theirs, env=env)
        finally:
            self._output.handed_over()
        self._connection = ours
        self._unready += 1
        try:
            ours.send(self._job)
        except OSError:
            raise self._gone("it ended at its start") from None
        answer = self._await(ours, None)
        if isinstance(answer, Failed):
            self._stop()
            raise SplitFailed(answer.error)
        if not isinstance(answer, Ready):
            raise TypeError(f"unexpected answer {answer!r}")
        self._loaded_bytes, self._unready = rss_bytes(self._child.pid), 0
        return ours

    def _await(self, connection: Connection, split: int | None) -> object:
        """Wait for the child's answer while it makes progress, and show the driver that somebody watches it.

        Who lost a split's worth of children before any was ready shows no more while it starts others.

        Raises:
            ChildDied: when it ended, stood still or outgrew its limits.
            SplitFailed: when the split takes too long.
        """
        limits, seen = self._job.limits, InFlight(0, {})
        begun = since = counted = time.monotonic()
        while not connection.poll(POLL_SECONDS):
            if self._unready <= MOST_DEATHS[Blame.NOBODY]:
                self._heart.beat()
            child = self._child
            if child is None or (ended(child) and not connection.poll(0)):
                raise ChildDied(f"it ended; {self._output.tail()}")
            if self._output.too_much:
                raise ChildDied(f"it printed more than {limits.max_printed_bytes} bytes")
            now = time.monotonic()
            in_flight = read_journal(self._journal)
            if in_flight.sequence != seen.sequence:
                seen, since = in_flight, now
                if self._careful:
                    self._output.forget()
            allowed = limits.record_seconds * seen.total or limits.setup_seconds
            if now - since > allowed:
                raise ChildDied(f"no progress for {allowed:g} s")
            if split is not None and now - begun > limits.split_seconds:
                self._stop()
                raise SplitFailed(f"split {split}: not done after {limits.split_seconds:g} s")
            whole_family = now - counted > FAMILY_SECONDS
            counted = now if whole_family else counted
            self._check_size(child.pid, whole_family)
        try:
            answer: object = connection.recv()
        except (EOFError, OSError):
            raise self._gone("; ".join(filter(None, ("it closed the pipe", self._output.tail())))) from None
        return answer

    def _gone(self, told: str) -> ChildDied:
        """Wait for the end of a child that closed its pipe: who is dying was not killed by us."""
        deadline = time.monotonic() + DYING_SECONDS
        while self._child is not None and not ended(self._child) and time.monotonic() < deadline:
            time.sleep(0.005)
        return ChildDied(told)

    def _check_size(self, pid: int, whole_family: bool) -> None:
        limits = self._job.limits
        pids = family(pid) if whole_family else [pid]
        if sum(map(rss_bytes, pids)) > limits.max_rss_bytes:
            raise ChildDied(f"more than {limits.max_rss_bytes} bytes of memory")
        if len(pids) > limits.max_processes:
            raise ChildDied(f"more than {limits.max_processes} processes")

    def _report(self, split: int, done: Done) -> None:
        timing = {
            "audio_seconds": done.audio_seconds,
            "passed": [[stage, *counts] for stage, counts in done.passed.items()],
            "peak_rss_bytes": done.peak_rss_bytes,
            "seconds": list(done.seconds.items()),
            "split": split,
            "started": done.started,
            "wall": done.wall,
        }
        for stage, seconds in done.seconds.items():
            came, left = done.passed[stage]
            self._log.tell(
                "stage_done",
                split=split,
                stage=stage,
                cpu_seconds=round(seconds, 6),
                records_in=came,
                records_out=left,
                rejected=came - left,
            )
        with suppress(OSError):  # the split is committed, whatever becomes of its timing
            publish_json(timing, timing_path(self._job.root, split))

    def _stop(self) -> Ending:
        """End the child, whatever it started, and what it left behind; return how it ended."""
        child, living = self._child, self._child is not None and not ended(self._child)
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if child is None:
            return {"killed_by_us": False, "peak_bytes": 0, "status": 0}
        if living:
            child.kill()
        status, peak = reap(child)
        self._child = None
        kill_marked(MARK, self._mark)
        self._output.close()
        self._folder.empty()
        remove_scratch(self._job.root, self._mark)
        return {"killed_by_us": living, "peak_bytes": peak, "status": status}


def timing_path(root: str, split: int) -> str:
    return join(root, "work", "timings", f"{split:06d}.json")
