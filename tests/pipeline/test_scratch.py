"""Scratch of the dead goes when their death is noticed; that of the living stays."""

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.executor import SplitFailed
from tests.pipeline.test_executor import executor
from tests.poison import LinesConfig, PoisonConfig, job_for


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("root", ["{}/out", "memory://scratch"])
def test_what_a_dead_child_wrote_goes_with_it(tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    job, _ = job_for(tmp_path / "out", PoisonConfig(), record_seconds=30.0)
    dying = replace(job, root=root.format(tmp_path), sink=LinesConfig(dies_on=0))
    with executor(dying) as one:
        with pytest.raises(SplitFailed, match="died 3 times outside any record"):
            one.run(0)
        assert not list(tmp_path.rglob("lines-*"))


def test_the_death_of_a_child_takes_no_scratch_of_other_workers(tmp_path: Path) -> None:
    job, _ = job_for(tmp_path, PoisonConfig(), record_seconds=30.0)
    dying = replace(job, sink=LinesConfig(dies_on=0))
    slow = replace(job, sink=LinesConfig(slow_seconds=0.4))
    with executor(slow) as one, executor(dying) as other, ThreadPoolExecutor(1) as pool:
        one.run(5)
        written = pool.submit(lambda: [one.run(split) for split in range(1, 5)])
        while not written.done():
            with pytest.raises(SplitFailed, match="outside any record"):
                other.run(0)
        assert [record["records"] for record in written.result()] == [4] * 4
    assert not list((tmp_path / "work" / "tmp").iterdir())
