"""The child process: loads the models once, then runs splits until it is told to stop.

Its standard output goes to a log file, so that a chatty library cannot disturb anything. It dies with its parent.
"""

import faulthandler
import os
import resource
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipeline.commit import commit, scratch_folder
from pipeline.executor.journal import Journal
from pipeline.executor.messages import Done, Failed, Ready, RunSplit
from pipeline.guard import run_stage
from pipeline.job import Job, Origin, Outcome, Sink
from pipeline.plan import Row, load_rows
from pipeline.process import die_with_parent
from schemas.clock import SAMPLE_RATE
from schemas.records import Clip
from schemas.rejects import Reason, Reject
from stages.base import Stage
from stages.compute import COMPILE_VARIABLE, DEVICE_VARIABLE


def main(pipe: int, parent: int, journal_path: str) -> None:
    """Serve split requests that arrive on an inherited pipe."""
    die_with_parent(parent)
    faulthandler.enable()
    connection = Connection(pipe)
    job: Job = connection.recv()  # from our own parent over a private pipe
    journal = Journal(Path(journal_path))
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
    while True:
        try:
            request = connection.recv()
        except EOFError:
            return
        connection.send(SplitRun(job, stages, source, sink, journal, request).run())


def ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield what an iterator yields, one item ahead in a thread: decoding goes on while the models are busy."""
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


class SplitRun:
    """One attempt at one split."""

    def __init__(
        self,
        job: Job,
        stages: list[tuple[str, Stage[Any, Any]]],
        source: Origin | None,
        sink: Sink,
        journal: Journal,
        request: RunSplit,
    ) -> None:
        self._job, self._stages, self._source, self._sink = job, stages, source, sink
        self._journal, self._request = journal, request
        self._seconds = {"read": 0.0, **{name: 0.0 for name, _ in stages}, "commit": 0.0}
        self._inputs = self._audio_samples = 0

    def run(self) -> Done | Failed:
        job, split, started = self._job, self._request.split, time.monotonic()
        folder = scratch_folder(job.root, split)
        try:
            rows = load_rows(job.rows_path, split, job.base) if self._source is None else []
            self._inputs = len(rows)
            before = time.process_time()
            outcomes = self._outcomes(rows) if self._source is None else self._given(self._source)
            facts = self._sink.write(split, outcomes, folder)
            self._check(facts)
            record = commit(job.root, split, job.fingerprint, folder, facts)
        except Exception as error:  # whatever a stage's record could cause was caught by the guard
            self._journal.enter([])
            shutil.rmtree(folder, ignore_errors=True)
            return Failed(error=f"split {split}: {type(error).__name__}: {error}")
        spent = time.process_time() - before
        self._seconds["commit"] += spent - sum(self._seconds.values())
        return Done(
            record=record,
            seconds=self._seconds,
            started=time.time() - (time.monotonic() - started),
            wall=time.monotonic() - started,
            audio_seconds=self._audio_samples / 16_000,
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        )

    def _check(self, facts: dict[str, Any]) -> None:
        if facts["inputs"] != self._inputs or facts["records"] + facts["rejects"] != self._inputs:
            raise RuntimeError(f"{self._inputs} inputs, but {facts['records']} records and {facts['rejects']} rejects")

    def _given(self, source: Origin) -> Iterator[Outcome]:
        for outcome in source.outcomes(self._request.split):
            self._journal.enter([])  # a sign of life
            self._inputs += 1
            yield outcome

    def _outcomes(self, rows: list[Row]) -> Iterator[Outcome]:
        # With suspects about, nothing is read ahead: whoever is in hand at a death must be alone.
        batches = self._batches(rows) if self._request.alone else ahead(self._batches(rows))
        for batch in batches:
            yield from self._through(batch)

    def _batches(self, rows: list[Row]) -> Iterator[list[Outcome]]:
        """Pass rows through the first stage (decoding) one by one, and cut them into batches by number and by audio.

        A suspect is a batch of its own. A batch depends on the rows alone, never on timing.
        """
        limits = self._job.limits
        batch: list[Outcome] = []
        samples = 0
        for row in rows:
            alone = row.key in self._request.alone
            if batch and alone:
                yield batch
                batch, samples = [], 0
            item = self._first(row)
            size = len(item.pcm) if isinstance(item, Clip) else 0
            if batch and samples + size > limits.batch_seconds * SAMPLE_RATE:
                yield batch
                batch, samples = [], 0
            batch.append(item)
            samples += size
            if alone or len(batch) == limits.batch_records:
                yield batch
                batch, samples = [], 0
        yield batch

    def _first(self, row: Row) -> Outcome:
        items: list[Outcome] = [self._rejected_unseen(row)]
        if self._stages:
            items = self._timed(*self._stages[0], items, "ahead")
        self._journal.enter([], "ahead")
        self._audio_samples += sum(len(item.pcm) for item in items if isinstance(item, Clip))
        return items[0]

    def _through(self, items: list[Outcome]) -> list[Outcome]:
        for name, stage in self._stages[1:]:
            items = self._timed(name, stage, items, "main")
        self._journal.enter([])  # what follows, the sink and the commit, is no record's doing
        return items

    def _timed(self, name: str, stage: Stage[Any, Any], items: list[Outcome], hand: str) -> list[Outcome]:
        before = time.thread_time()
        done = run_stage(stage, name, items, lambda keys: self._journal.enter(list(keys), hand))
        self._seconds[name] += time.thread_time() - before
        return done

    def _rejected_unseen(self, row: Row) -> Row:
        strikes = self._request.crashed.get(row.key)
        if strikes is None or isinstance(row, Reject):
            return row
        detail = f"killed, hung or starved its worker {strikes} times"
        return Reject.of(row, "executor", Reason.CRASHED, detail)
