"""The child process: loads the models once, then runs splits until it is told to stop.

Three threads hand splits on: one decodes, the main thread runs the models, one writes and commits. So while a split is
written, the rows of the next one are decoded and computed, and a model never waits at the border of two splits. What is
ahead is bounded: `AHEAD` batches before the models and `AHEAD` behind them. With suspects about, all work on a split is
done by the main thread, one thing at a time.

It dies with its parent.
"""

import faulthandler
import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Queue

from pipeline.commit import commit, scratch_folder
from pipeline.executor.attempt import Attempt, Stages
from pipeline.executor.journal import Journal
from pipeline.executor.messages import Done, Failed, Ready, RunSplit
from pipeline.job import Job, Origin, Outcome, Sink
from pipeline.process import adopt_orphans, die_with_parent
from schemas.clock import SAMPLE_RATE
from stages.compute import COMPILE_VARIABLE, DEVICE_VARIABLE

AHEAD = 2
"""Batches that wait between two threads."""

STARVED = 71
"""Exit status of a child that met a MemoryError."""

Passed = tuple[Attempt, list[Outcome] | None]
"""A batch of a split; None behind its last one."""


def main(pipe: int, parent: int, journal_path: str, owner: str) -> None:
    """Serve split requests that arrive on an inherited pipe; scratch is made in the owner's name."""
    die_with_parent(parent)
    adopt_orphans()
    faulthandler.enable()
    connection = Connection(pipe)
    job: Job = connection.recv()  # from our own parent over a private pipe
    started = time.monotonic()
    os.environ[DEVICE_VARIABLE] = job.limits.device
    os.environ[COMPILE_VARIABLE] = str(int(job.limits.compile_models))
    try:
        stages = [(config.name, config.setup()) for config in job.steps]
        source = job.source.setup() if job.source is not None else None
        sink = job.sink.setup()
    except Exception as error:
        connection.send(Failed(error=f"a stage cannot be set up: {type(error).__name__}: {error}"))
        return
    connection.send(Ready(seconds=time.monotonic() - started))
    Flow(job, stages, source, sink, Journal(Path(journal_path)), connection, owner).run()


class Flow:
    """Splits follow each other through three threads in the order in which they are asked for."""

    def __init__(
        self,
        job: Job,
        stages: Stages,
        source: Origin | None,
        sink: Sink,
        journal: Journal,
        connection: Connection,
        owner: str,
    ) -> None:
        self._job, self._stages, self._source, self._sink = job, stages, source, sink
        self._journal, self._connection, self._owner = journal, connection, owner
        self._asked: Queue[Attempt] = Queue()
        self._decoded: Queue[Passed] = Queue(AHEAD)
        self._finished: Queue[Passed] = Queue(AHEAD)
        self._last_end = time.time()

    def run(self) -> None:
        """Run the models, in this thread, for ever."""
        for loop in (self._receive, self._decode, self._write):
            threading.Thread(target=loop, name=loop.__name__.strip("_"), daemon=True).start()
        while True:
            attempt, batch = self._decoded.get()
            if attempt.serial:  # the writer has ended what was before it: see `_decode`
                self._connection.send(self._written(attempt, attempt.one_by_one()))
                attempt.over.set()
                continue
            outcomes = None
            if batch is not None and not attempt.stopped:
                try:
                    outcomes = attempt.through(batch)
                except Exception as error:  # whatever a record could cause was caught by the guard
                    self._note(attempt, error, "main")
            if batch is None or outcomes is not None:
                self._finished.put((attempt, outcomes))

    def _receive(self) -> None:
        announced: Attempt | None = None
        while True:
            try:
                request: RunSplit = self._connection.recv()
            except EOFError:
                os._exit(0)  # the parent wants no more
            if announced is not None and announced.request == replace(request, announced=True):
                announced.decided.set()
                announced = None
                continue
            if announced is not None:
                announced.taken_back = True
                announced.decided.set()
            attempt = Attempt(self._job, self._stages, self._source, self._journal, request)
            announced = attempt if request.announced else None
            if not request.announced:
                attempt.decided.set()
            self._asked.put(attempt)

    def _decode(self) -> None:
        before: Attempt | None = None
        while True:
            attempt = self._asked.get()
            if attempt.serial:
                if before is not None:
                    before.over.wait()
                self._decoded.put((attempt, None))
                attempt.over.wait()
                continue
            try:
                for batch in attempt.batches():
                    if attempt.stopped:
                        break
                    self._decoded.put((attempt, batch))
            except Exception as error:
                self._note(attempt, error, "ahead")
            self._decoded.put((attempt, None))
            before = attempt

    def _write(self) -> None:
        while True:
            attempt, first = self._finished.get()
            attempt.decided.wait()
            arriving = self._arriving(attempt, first)
            answer = None if attempt.taken_back else self._written(attempt, arriving)
            attempt.answered = True
            for _ in arriving:  # what the sink did not take
                pass
            if answer is not None:
                self._connection.send(answer)
            attempt.over.set()

    def _arriving(self, attempt: Attempt, first: list[Outcome] | None) -> Iterator[Outcome]:
        batch = first
        while batch is not None:
            yield from batch
            batch = self._finished.get()[1]
        if attempt.problem is not None and not attempt.answered:
            raise attempt.problem

    def _note(self, attempt: Attempt, problem: Exception, *hands: str) -> None:
        """Drop the rest of an attempt; but a process without memory ends here, its keys in its hands."""
        if isinstance(problem, MemoryError):
            os._exit(STARVED)
        for hand in hands:
            self._journal.enter(attempt.request.split, [], hand)
        attempt.problem = problem

    def _written(self, attempt: Attempt, outcomes: Iterator[Outcome]) -> Done | Failed:
        """Feed the sink and commit."""
        job, split, before, folder = self._job, attempt.request.split, time.thread_time(), None
        try:
            folder = scratch_folder(job.root, split, self._owner)
            facts = self._sink.write(split, outcomes, folder)
            attempt.check(facts)
            record = commit(job.root, split, job.fingerprint, folder, facts)
        except Exception as error:  # whatever a record could cause was caught by the guard
            self._note(attempt, error, *(("ahead", "main") if attempt.serial else ()))
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            return Failed(error=f"split {split}: {type(error).__name__}: {error}")
        elsewhere = sum(attempt.seconds.values()) if attempt.serial else 0.0
        attempt.seconds["commit"] += time.thread_time() - before - elsewhere
        begun, self._last_end = max(attempt.started, self._last_end), time.time()
        return Done(
            record=record,
            seconds=attempt.seconds,
            passed={name: (came, left) for name, (came, left) in attempt.passed.items()},
            started=begun,
            wall=self._last_end - begun,
            audio_seconds=attempt.audio_samples / SAMPLE_RATE,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )
