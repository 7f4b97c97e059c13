"""No file or folder of ours can be written by everybody, whatever umask we were started with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def open_to_all(folder: Path) -> list[str]:
    found = [folder, *folder.rglob("*")]
    return [str(path) for path in found if not path.is_symlink() and path.stat().st_mode & 0o002]


@pytest.mark.parametrize(
    ("before", "after"), [(0, 0o002), (0o022, 0o022), (0o002, 0o002), (0o070, 0o072), (0o077, 0o077)]
)
def test_others_lose_writing_and_nothing_else_changes(before: int, after: int) -> None:
    code = (
        "import os, sys; os.umask(int(sys.argv[1])); from pipeline.umask import keep_world_from_writing as keep; "
        "keep(); keep(); print(os.umask(0))"
    )
    assert int(python(code, str(before))) == after


def test_a_check_that_finds_nothing_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "open").touch()
    (tmp_path / "open").chmod(0o666)
    assert open_to_all(tmp_path) == [str(tmp_path / "open")]


COMMAND = "import os, sys; os.umask(0); from jobs.cli import main; main(sys.argv[1:])"


def test_a_plan_made_under_umask_0_is_closed(tmp_path: Path) -> None:
    manifest = ROOT / "examples" / "corpus" / "manifest.jsonl"
    python(COMMAND, "plan", "embedded", "--manifest", str(manifest), "--out", str(tmp_path / "out"))
    assert len(list((tmp_path / "out").rglob("*"))) >= 3
    assert open_to_all(tmp_path / "out") == []


WORK = """
import os, sys
from pathlib import Path
from pipeline.drive import EngineSettings, drive
from tests.poison import PoisonConfig, job_for
job, plan = job_for(Path(sys.argv[1]), PoisonConfig())
os.umask(0)
drive(job, plan, EngineSettings(engine=sys.argv[2], workers=2, stall_seconds=240), lambda *_: None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "beam", "ray"])
def test_workers_close_what_they_write_whoever_started_them(tmp_path: Path, engine: str) -> None:
    python(WORK, str(tmp_path / "out"), engine)
    written = tmp_path / "out" / "shards"
    assert list(written.iterdir())
    assert [path for path in open_to_all(written) if path != str(written)] == []
