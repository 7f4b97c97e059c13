"""Bakes made in this process, without a driver and its processes."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.bake import BakeConfig, bake
from pipeline.commit import commit, scratch_folder, valid_commits
from pipeline.drive import EngineSettings, Progress
from pipeline.job import Job, Limits
from pipeline.plan import Plan


def quiet(*_: object) -> None:
    """No progress is shown."""


def drive_here(job: Job, plan: Plan, settings: EngineSettings, progress: Progress) -> dict[int, dict[str, Any]]:
    """Do what the driver and its engines do, one split after another."""
    assert job.source is not None
    source, sink = job.source.setup(), job.sink.setup()
    for split in range(len(plan.sizes)):
        folder = scratch_folder(job.root, split)
        facts = sink.write(split, source.outcomes(split), folder)
        commit(job.root, split, job.fingerprint, folder, facts)
    return valid_commits(job.root, job.fingerprint, range(len(plan.sizes)))


def bake_here(config: BakeConfig, out: Path, *, tokens_per_shard: int = 2**24) -> dict[str, Any]:
    with patch("pipeline.bake.drive", drive_here), patch("pipeline.bake.TOKENS_PER_SHARD", tokens_per_shard):
        return bake(config, str(out), EngineSettings(), Limits(), quiet)
