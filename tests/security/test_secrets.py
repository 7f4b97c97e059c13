"""Secrets of the environment stay there: in no file of a run, in no log, in no temporary folder, in no error."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "examples" / "corpus"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "canary-id-1c9d",
    "AWS_SECRET_ACCESS_KEY": "canary-aws-4f1b",
    "AWS_SESSION_TOKEN": "canary-session-8e02",
    "HF_TOKEN": "canary-hf-77aa",
    "RAY_AUTH_TOKEN": "canary-ray-92c0",
    "GOOGLE_API_KEY": "canary-google-51d3",
}
CANARY = b"canary-"


def holding(*folders: Path) -> set[str]:
    """Return the files that hold a canary, as far as they can be read: some vanish while we look."""
    found = set()
    for folder in folders:
        for root, _, names in os.walk(folder):
            for path in (Path(root) / name for name in names):
                try:
                    if path.is_file() and not path.is_symlink() and CANARY in path.read_bytes():
                        found.add(str(path))
                except OSError:
                    continue
    return found


def interloom(*arguments: str, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments],
        cwd=cwd, env={**os.environ, **SECRETS, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def manifest(folder: Path) -> Path:
    """Write a manifest of two rows of the bundled corpus and one that names nothing."""
    rows = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()[:2]]
    for row in rows:
        row["audio_filepath"] = str(CORPUS / row["audio_filepath"])
    rows.append({**rows[0], "id": "gone", "audio_filepath": str(folder / "gone.wav")})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A temporary folder for the run; its name is short, because Ray keeps sockets in it."""
    with tempfile.TemporaryDirectory(prefix="s-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def test_the_search_finds_a_secret(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "log").write_text(f"token={SECRETS['HF_TOKEN']}")
    assert holding(tmp_path) == {str(tmp_path / "deep" / "log")}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["local", "beam", "ray"])
def test_a_run_leaves_no_secret_anywhere(tmp_path: Path, scratch: Path, engine: str) -> None:
    out, seen, over = tmp_path / "out", set[str](), threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            seen.update(holding(scratch, out))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        done = interloom(
            "run", "embedded", "--manifest", str(manifest(tmp_path)), "--out", str(out), "--engine", engine,
            "--workers", "2", "--set", "units.clusters=16", "--set", "max_reject_rate=1",
            cwd=ROOT, TMPDIR=str(scratch),
        )  # fmt: skip
    finally:
        over.set()
        watch.join()
    assert done.returncode == 0, done.stderr
    assert CANARY.decode() not in done.stdout + done.stderr
    assert seen | holding(scratch, out) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "nowhere"),
        ("plan", "embedded", "--manifest", "nowhere.jsonl", "--out", "out"),
        ("plan", "embedded", "--manifest", "s3://nowhere-at-all/x.jsonl", "--out", "out"),
        ("recipe", "embedded", "--set", "units.nothing=1"),
    ],
)
def test_no_error_says_a_secret(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = interloom(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL="http://127.0.0.1:9", INTERLOOM_DEBUG="")
    assert done.returncode != 0
    assert CANARY.decode() not in done.stdout + done.stderr
