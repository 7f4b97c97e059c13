"""Every kind of bad input ends as the reject it must, and nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import backends, chain
from pipeline.guard import run_stage
from pipeline.manifest import read_manifest
from pipeline.recipes import load_recipe
from schemas.records import Utterance
from schemas.rejects import Reject
from stages.normalise import NormaliseConfig

ROOT = Path(__file__).resolve().parents[2]
BROKEN = ROOT / "examples" / "broken"


def expected() -> list[dict[str, object]]:
    return [json.loads(line) for line in (BROKEN / "expected.jsonl").read_text().splitlines()]


def test_every_broken_row_gets_its_reason() -> None:
    recipe = load_recipe("embedded")
    steps = (
        chain.decode_config(recipe),
        NormaliseConfig(language="en"),
        backends.align_config(recipe, {}),
        backends.qc_config(recipe),
    )
    items = list(read_manifest(str(BROKEN / "manifest.jsonl")))
    rows = list(items)
    for config in steps:
        items = run_stage(config.setup(), config.name, items, lambda _: None)
    assert len(items) == len(expected())
    wrong = []
    for row, outcome, want in zip(rows, items, expected(), strict=True):
        got = outcome.reason.value if isinstance(outcome, Reject) else "record"
        if got not in want["expect"]:  # type: ignore[operator]
            wrong.append((want["line"], want["id"], got, want["expect"], getattr(outcome, "detail", "")))
        if isinstance(outcome, Reject):
            name = Path(row.audio).name if isinstance(row, Utterance) else "manifest.jsonl"
            assert name in outcome.detail
    assert not wrong


@pytest.mark.slow
def test_a_run_over_broken_input_loses_nothing_and_crashes_nowhere(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.cli", "run", "embedded", "--manifest", str(BROKEN / "manifest.jsonl")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    options = ["--out", str(out), "--set", "max_reject_rate=1"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    info = json.loads((out / "dataset.json").read_text())
    assert info["inputs"] == len(expected()) == info["records"] + info["rejects"]
    assert info["records"] == sum(row["expect"] == ["record"] for row in expected())
    too_many = subprocess.run(
        [*command, "--out", str(out)], capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert too_many.returncode == 1
    assert "max_reject_rate" in too_many.stdout
