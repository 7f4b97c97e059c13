"""Temporary folders that know their owner, at the moments when they have none yet."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline import folders
from pipeline.folders import OwnedFolder, remove_abandoned


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize("call", ["os.rename", "fcntl.flock"])
def test_a_folder_goes_whose_owner_was_killed_before_it_had_its_name(tmp_path: Path, call: str) -> None:
    code = (
        "import fcntl, os; from pipeline.folders import OwnedFolder\n"
        f"{call} = lambda *_: os.kill(os.getpid(), 9)\n"
        "OwnedFolder()"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    OwnedFolder().close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["open", "rename"])
def test_a_folder_taken_for_abandoned_before_its_lock_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    real: Callable[..., Any] = getattr(os, place)
    removals: list[int] = []

    def first_removed(path: Any, *rest: Any, **named: Any) -> Any:
        if not removals and ".ilw-" in str(path):
            removals.append(1)
            Path(path).rmdir()  # what another process does that finds it without a lock
        return real(path, *rest, **named)

    monkeypatch.setattr(folders.os, place, first_removed)
    one = OwnedFolder()
    assert removals
    assert one.path.is_dir()
    remove_abandoned()
    assert one.path.is_dir()
    one.close()
    assert list(tmp_path.iterdir()) == []


def _many(folder: str) -> int:
    tempfile.tempdir = folder
    there = 0
    for _ in range(500):
        one = OwnedFolder()
        there += one.path.is_dir()
        one.close()
    return there


def test_processes_that_make_and_remove_them_at_once_keep_their_own(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(_many, [str(tmp_path)] * 3) == [500] * 3
    assert list(tmp_path.iterdir()) == []
