"""What every engine's worker does with a split: run it in the executor's child, note a failure beside the split."""

from pipeline.commit import CommitConflict
from pipeline.executor import SplitExecutor, SplitFailed
from pipeline.job import Job
from pipeline.storage import join, publish_json


class SplitWorker:
    """Lives as long as an engine's worker. Not thread-safe."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._executor = SplitExecutor(job)

    def run(self, split: int) -> int:
        """Run a split; a failure is written to `work/failed/`, where the driver finds it, and is not raised.

        Engines retry what raises, each in its own way; retries are the driver's business.
        """
        try:
            self._executor.run(split)
        except (SplitFailed, CommitConflict) as error:
            publish_json({"error": str(error), "split": split}, failure_path(self._job.root, split))
        return split

    def close(self) -> None:
        self._executor.close()


def failure_path(root: str, split: int) -> str:
    return join(root, "work", "failed", f"{split:06d}.json")
