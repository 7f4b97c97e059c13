"""The promise of the project: every engine, worker count and interruption ends with the same bytes."""

import csv
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.real_speech import SPEECH, needs_speech

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "examples" / "corpus" / "manifest.jsonl"
COMMAND = [sys.executable, "-m", "jobs.cli"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
WRONG = {"sb_spk2_snt5", "ls_2412-153948-0001"}
"""Clips of SpeechBrain and LibriSpeech whose published transcripts are known to be wrong."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def run(manifest: Path, out: Path, *options: str) -> None:
    command = [*COMMAND, "run", "embedded", "--manifest", str(manifest), "--out", str(out), *options]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def digests(out: Path) -> dict[str, str]:
    """Hash shards, stats, rejects, commit records, artifacts and the description."""
    files = [*(out / "shards").iterdir(), *(out / "artifacts").iterdir(), out / "dataset.json", out / "report.html"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference") / "a"
    run(CORPUS, out)
    return out


@pytest.mark.parametrize(
    "options", [("--engine", "beam"), ("--engine", "ray"), ("--workers", "1")], ids=["beam", "ray", "one worker"]
)
def test_engines_and_worker_counts_agree(reference: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    run(CORPUS, tmp_path / "b", *options)
    assert digests(tmp_path / "b") == digests(reference)


def test_three_kills_at_random_moments_change_nothing(reference: Path, tmp_path: Path) -> None:
    moments = random.Random(20261122)
    out = tmp_path / "e"
    command = [*COMMAND, "run", "embedded", "--manifest", str(CORPUS), "--out", str(out)]
    for _ in range(3):
        killed = subprocess.Popen(command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.DEVNULL)
        time.sleep(moments.uniform(8, 30))
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        time.sleep(1.0)  # its processes end with it, and with them the lock
    run(CORPUS, out)
    assert digests(out) == digests(reference)


@needs_speech()
def test_real_speech_agrees_on_all_engines_and_wrong_transcripts_are_rejected(tmp_path: Path) -> None:
    manifest = tmp_path / "speech.jsonl"
    with open(SPEECH / "MANIFEST.tsv") as file, open(manifest, "w") as out:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["transcript"] != "-":
                line = {
                    "id": Path(row["path"]).stem,
                    "audio_filepath": str(SPEECH / row["path"]),
                    "text": row["transcript"],
                }
                out.write(json.dumps(line) + "\n")
    found = []
    for engine in ("local", "beam", "ray"):
        run(manifest, tmp_path / engine, "--engine", engine)
        found.append(digests(tmp_path / engine))
    assert found[0] == found[1] == found[2]
    rejects = [
        json.loads(line)
        for path in (tmp_path / "local" / "shards").glob("rejects-*")
        for line in path.open()
        if line.strip()
    ]
    if (SPEECH / "sb_spk2_snt5.wav").exists():  # clips of another folder may be rejected
        assert {"sb_spk2_snt5"} <= {reject["id"] for reject in rejects} <= WRONG


def test_the_code_in_the_readme_runs(reference: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        code = block.replace('"demo', f'"{reference}')
        done = subprocess.run(
            [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
