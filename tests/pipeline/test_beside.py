"""Temporary files beside final names: gone with their dead writers, spared while a writer lives."""

import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline import beside as module
from pipeline.beside import beside, remove_abandoned_files
from pipeline.folder_lock import locked
from pipeline.folders import OwnedFolder
from pipeline.storage import publish_bytes

FOLDERS = ("", "plan", "artifacts", ".nv-meta", "transcripts", "shards", "work", "work/plan", "work/timings")


def leftovers(root: Path) -> list[Path]:
    return sorted(root.rglob("*.tmp-*"))


def test_what_a_killed_writer_left_anywhere_is_removed_under_the_lock(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pipeline.beside import beside\n"
        "held = [beside(name) for name in sys.argv[1:]]\n"
        "for one in held: one.__enter__().write(b'half')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(exist_ok=True)
    names = [str(tmp_path / folder / "file.json") for folder in FOLDERS]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    assert subprocess.run([sys.executable, "-c", code, *names], env=environment, check=False).returncode == -9
    assert len(leftovers(tmp_path)) == len(FOLDERS)
    (tmp_path / "notes.tmp-1").write_text("a user's own")
    with locked(str(tmp_path)):
        assert leftovers(tmp_path) == [tmp_path / "notes.tmp-1"]


def test_what_a_live_process_writes_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAIT_SECONDS", 0.0)
    (tmp_path / "plan").mkdir()
    with beside(f"{tmp_path}/plan/plan.json") as file, locked(str(tmp_path)):
        file.write(b"whole")
    assert (tmp_path / "plan" / "plan.json").read_bytes() == b"whole"
    assert leftovers(tmp_path) == []


def test_a_writer_whose_file_is_taken_before_it_is_locked_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, taken = fcntl.flock, []

    def late(descriptor: Any, how: int) -> None:
        if not taken:
            taken.extend(leftovers(tmp_path))
            with monkeypatch.context() as patched:
                patched.setattr(module.fcntl, "flock", real)
                remove_abandoned_files(str(tmp_path))
        real(descriptor, how)

    monkeypatch.setattr(module.fcntl, "flock", late)
    publish_bytes(b"whole", f"{tmp_path}/file")
    assert len(taken) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_a_body_that_raises_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), beside(f"{tmp_path}/file"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_links_and_pipes_are_left_alone(tmp_path: Path) -> None:
    """Opening them would follow, or wait for, somebody else."""
    name = "x.tmp-" + "0" * 32
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / name).write_text("not ours")
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "d" / f"pipe{name}")
    (tmp_path / "d" / "out").symlink_to(tmp_path / "far")
    (tmp_path / "d" / name).symlink_to(tmp_path / "far" / name)
    remove_abandoned_files(str(tmp_path / "d"))
    assert (tmp_path / "far" / name).read_text() == "not ours"
    assert (tmp_path / "d" / name).is_symlink()


def test_the_sample_of_an_estimate_that_was_killed_goes_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os; from pipeline.estimate import _folder; one = _folder(); one.__enter__(); os.kill(os.getpid(), 9)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    OwnedFolder().close()
    assert list(tmp_path.iterdir()) == []
