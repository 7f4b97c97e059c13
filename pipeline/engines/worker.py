"""What every engine's worker does with a split: run it in the executor's child, note a failure beside the split."""

import sys

from pipeline.commit import CommitConflict
from pipeline.executor import SplitExecutor, SplitFailed
from pipeline.job import Job
from pipeline.log import Log
from pipeline.storage import join, publish_json
from pipeline.umask import keep_world_from_writing

EXPECTED = (SplitFailed, CommitConflict, OSError)
MOST_FAILURES = 3
"""Splits that fail one after the other: then it may be the worker, its machine or its device, that fails."""
COUNTED = ("inputs", "records", "rejects", "reasons")


class SplitWorker:
    """Lives as long as an engine's worker. Not thread-safe."""

    def __init__(self, job: Job) -> None:
        keep_world_from_writing()
        self._job = job
        self._executor = SplitExecutor(job)
        self._failures = 0

    def run(self, split: int, coming: int | None = None) -> bool:
        """Run a split; a failure is written to `work/failed/`, where the driver finds it, and is not raised.

        Engines retry what raises, each in its own way; retries are the driver's business.

        Args:
            split: its number.
            coming: the split that will probably be asked for next.

        Returns:
            Whether to give it more: one whose splits fail at once would take all of them from those that can do them.
        """
        log = Log(role="worker", root=self._job.root)
        log.tell("split_started", split=split)
        try:
            record = self._executor.run(split, coming)
        except Exception as error:  # one that is raised may cost the engine this worker, for all splits to come
            told = str(error) if isinstance(error, EXPECTED) else f"{type(error).__name__}: {error}"
            self._failures += 1
            note_failure(self._job.root, split, told)
            log.tell("split_failed", level="error", split=split, error=told)
        else:
            self._failures = 0
            counts = {name: record[name] for name in COUNTED if name in record}
            log.tell("split_committed", split=split, **counts)
        return self._failures < MOST_FAILURES

    def close(self) -> None:
        self._executor.close()


def note_failure(root: str, split: int, error: str) -> None:
    try:
        publish_json({"error": error, "split": split}, failure_path(root, split))
    except OSError as problem:  # the disk is full, say: then the log, which may be elsewhere, is all there is
        print(f"{error}; it could not be noted: {problem}", file=sys.stderr, flush=True)


def failure_path(root: str, split: int) -> str:
    return join(root, "work", "failed", f"{split:06d}.json")
