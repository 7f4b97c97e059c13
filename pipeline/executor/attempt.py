"""One attempt at one split: its rows, cut into batches, through the stages."""

import threading
import time
from collections.abc import Iterator
from typing import Any

from pipeline.executor.journal import Journal
from pipeline.executor.messages import RunSplit
from pipeline.guard import run_stage
from pipeline.job import Job, Origin, Outcome
from pipeline.plan import Row, load_rows
from schemas.clock import SAMPLE_RATE
from schemas.records import Clip
from schemas.rejects import Reason, Reject
from stages.base import Stage

Stages = list[tuple[str, Stage[Any, Any]]]


class Attempt:
    """Passed from thread to thread; each method is called from one thread only.

    Attributes:
        serial: all work on it is done by one thread.
        decided: set once the split is asked for or taken back.
        taken_back: nobody wants it: there is no answer.
        answered: the sink is done with it, well or not.
        over: set when nothing works on it any more.
        problem: what ended it early.
        seconds: CPU seconds by stage, in the order of the chain.
        passed: records that came into each stage and that left it, in the same order.
    """

    def __init__(self, job: Job, stages: Stages, source: Origin | None, journal: Journal, request: RunSplit) -> None:
        self._job, self._stages, self._source, self._journal = job, stages, source, journal
        self.request = request
        self.serial = request.careful or source is not None
        self.decided, self.over = threading.Event(), threading.Event()
        self.taken_back = self.answered = False
        self.problem: Exception | None = None
        self.seconds = {"read": 0.0, **{name: 0.0 for name, _ in stages}, "commit": 0.0}
        self.passed = {name: [0, 0] for name in self.seconds}
        self.inputs = self.audio_samples = 0
        self.started = time.time()

    @property
    def stopped(self) -> bool:
        """Whether what is left of it is to be dropped."""
        return self.taken_back or self.answered or self.problem is not None

    def one_by_one(self) -> Iterator[Outcome]:
        """Yield the outcomes, all work done in the calling thread and nothing ahead of its use."""
        if self._source is not None:
            for outcome in self._source.outcomes(self.request.split):
                self._idle("main")
                self.inputs += 1
                yield outcome
            return
        for batch in self.batches():
            yield from self.through(batch)

    def batches(self) -> Iterator[list[Outcome]]:
        """Pass rows through the first stage (decoding) one by one, and cut them into batches by number and by audio.

        A suspect is a batch of its own. A batch depends on the rows alone, never on timing.
        """
        limits = self._job.limits
        batch: list[Outcome] = []
        samples = 0
        for row in self._rows():
            alone = row.key in self.request.alone
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

    def through(self, items: list[Outcome]) -> list[Outcome]:
        """Pass a batch through the stages after the first."""
        for name, stage in self._stages[1:]:
            items = self._timed(name, stage, items, "main")
        self._idle("main")  # what follows, the sink and the commit, is no record's doing
        return items

    def check(self, facts: dict[str, Any]) -> None:
        if facts["inputs"] != self.inputs or facts["records"] + facts["rejects"] != self.inputs:
            raise RuntimeError(f"{self.inputs} inputs, but {facts['records']} records and {facts['rejects']} rejects")
        if self._source is not None:
            self.passed["read"] = [self.inputs, facts["records"]]
        *_, (_, left), committed = self.passed.values()
        if left != facts["records"]:
            raise RuntimeError(f"{left} records left the stages, but {facts['records']} were written")
        committed[:] = [left, left]

    def _rows(self) -> list[Row]:
        self.started = time.time()
        before = time.thread_time()
        rows = load_rows(self._job.rows_path, self.request.split, self._job.base)
        self.inputs = self.passed["read"][0] = len(rows)
        self.seconds["read"] += time.thread_time() - before
        return rows

    def _first(self, row: Row) -> Outcome:
        items: list[Outcome] = [self._rejected_unseen(row)]
        self.passed["read"][1] += _live(items)
        if self._stages:
            items = self._timed(*self._stages[0], items, "ahead")
        self._idle("ahead")
        self.audio_samples += sum(len(item.pcm) for item in items if isinstance(item, Clip))
        return items[0]

    def _idle(self, hand: str) -> None:
        self._journal.enter(self.request.split, [], hand)

    def _timed(self, name: str, stage: Stage[Any, Any], items: list[Outcome], hand: str) -> list[Outcome]:
        before, split = time.thread_time(), self.request.split
        self.passed[name][0] += _live(items)
        done = run_stage(stage, name, items, lambda keys: self._journal.enter(split, list(keys), hand))
        self.seconds[name] += time.thread_time() - before
        self.passed[name][1] += _live(done)
        return done

    def _rejected_unseen(self, row: Row) -> Row:
        strikes = self.request.crashed.get(row.key)
        if strikes is None or isinstance(row, Reject):
            return row
        detail = f"killed, hung or starved its worker {strikes} times"
        return Reject.of(row, "executor", Reason.CRASHED, detail)


def _live(items: list[Outcome]) -> int:
    return sum(not isinstance(item, Reject) for item in items)
