"""Crash-proof execution of splits: a worker owns a child process that loads the models once and runs splits."""

from pipeline.executor.parent import SplitExecutor, SplitFailed

__all__ = ["SplitExecutor", "SplitFailed"]
