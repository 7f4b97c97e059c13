"""Secrets of the environment stay there: in no file of a run, in no log, in no temporary folder, in no error."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.dataset import Dataset

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
IN_URL = "user:canary-password@"
IN_QUERY = "?version=2&X-Amz-Signature=canary-signature&X-Amz-Security-Token=canary-token"


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


def manifest(folder: Path, server: str) -> Path:
    """Write a manifest of two rows of the bundled corpus, one that names nothing, and two of a server."""
    rows = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()[:2]]
    for row in rows:
        row["audio_filepath"] = str(CORPUS / row["audio_filepath"])
    rows.append({**rows[0], "id": "gone", "audio_filepath": str(folder / "gone.wav")})
    served = Path(rows[0]["audio_filepath"]).name
    for name in (served, "gone.wav"):  # without an id and a recording, which are then made from the URL
        named = {"text", "offset", "duration"} & rows[0].keys()
        url = f"{server.replace('://', '://' + IN_URL)}/{name}{IN_QUERY}"
        rows.append({**{field: rows[0][field] for field in named}, "audio_filepath": url})
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def server() -> Iterator[str]:
    """A server of the folder of bundled audio on loopback."""
    serve = partial(SimpleHTTPRequestHandler, directory=str(CORPUS / "audio"))
    with ThreadingHTTPServer(("127.0.0.1", 0), serve) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


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
def test_a_run_leaves_no_secret_anywhere(tmp_path: Path, scratch: Path, server: str, engine: str) -> None:
    """Credentials in a URL of the manifest stay in the plan, which is read to fetch the audio."""
    out, seen, over = tmp_path / "out", set[str](), threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            seen.update(holding(scratch, out))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        done = interloom(
            "run", "embedded", "--manifest", str(manifest(tmp_path, server)), "--out", str(out), "--engine", engine,
            "--workers", "2", "--set", "units.clusters=16", "--set", "max_reject_rate=1",
            cwd=ROOT, TMPDIR=str(scratch),
        )  # fmt: skip
    finally:
        over.set()
        watch.join()
    assert done.returncode == 0, done.stderr
    assert CANARY.decode() not in done.stdout + done.stderr
    plans = tuple(str(out / name) for name in ("plan", "fit"))
    assert {path for path in seen | holding(scratch, out) if not path.startswith(plans)} == set()
    dataset = Dataset.open(str(out))
    records = [record.meta for split in range(dataset.num_splits) for record in dataset.records(split)]
    assert any(meta["audio"].startswith("http://127.0.0.1") for meta in records)
    tables = [pq.read_table(path).to_pylist() for path in out.rglob("*.parquet") if not str(path).startswith(plans)]
    assert CANARY.decode() not in str([records, tables])  # tables are compressed
    rejects = "".join(path.read_text() for path in (out / "shards").glob("rejects-*.jsonl"))
    assert "127.0.0.1" in rejects


def test_a_plan_keeps_the_url_and_shows_it_nowhere(tmp_path: Path) -> None:
    """Quick: what names a row is made from the URL without credentials."""
    url = f"s3://{IN_URL}bucket/a.wav{IN_QUERY}"
    rows = [{"audio_filepath": url, "text": "a", "duration": 2, "offset": 2 * n} for n in range(2)]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[1]]))
    done = interloom("plan", "embedded", "--manifest", str(path), "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert CANARY.decode() not in done.stdout + done.stderr
    (row, other, double) = pq.read_table(tmp_path / "out" / "plan" / "splits.parquet").to_pylist()
    assert row["audio"] == other["audio"] == url
    shown = "s3://bucket/a.wav?version=2&X-Amz-Signature=...&X-Amz-Security-Token=..."
    assert (row["id"], other["id"], row["recording"], other["recording"]) == (shown, f"{shown}@32000", shown, shown)
    assert double["reason"] == "duplicate_id"
    named = [{name: value for name, value in row.items() if name != "audio"} for row in (row, other, double)]
    assert CANARY.decode() not in str(named)


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "nowhere"),
        ("plan", "embedded", "--manifest", "nowhere.jsonl", "--out", "out"),
        pytest.param(
            ("plan", "embedded", "--manifest", "s3://nowhere-at-all/x.jsonl", "--out", "out"), marks=pytest.mark.slow
        ),
        ("recipe", "embedded", "--set", "units.nothing=1"),
    ],
)
def test_no_error_says_a_secret(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = interloom(*arguments, cwd=tmp_path, AWS_ENDPOINT_URL="http://127.0.0.1:9", INTERLOOM_DEBUG="")
    assert done.returncode != 0
    assert CANARY.decode() not in done.stdout + done.stderr
