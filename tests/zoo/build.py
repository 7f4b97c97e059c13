"""Build the zoo as one dataset and tell what became of each row."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.build import RunSettings, make_plan, run_build
from pipeline.dataset import Dataset, samples
from pipeline.drive import EngineSettings
from pipeline.fit import load_artifacts
from pipeline.manifest import read_manifest
from pipeline.recipes import load_recipe
from schemas.records import Artifact
from tests.zoo.book import ROOT, Case, Zoo
from tests.zoo.make_zoo import clean_manifest

RECORD_SECONDS = 120.0
"""No case may take longer: its record would be rejected as crashed."""


def build(zoo: Zoo, out: Path, *options: str) -> None:
    """Run the command over the zoo's manifest.

    Raises:
        RuntimeError: if it does not end well.
    """
    command = [sys.executable, "-m", "jobs.cli", "run", "embedded", "--manifest", str(zoo.out / "manifest.jsonl")]
    command += ["--out", str(out), "--set", "max_reject_rate=1", "--record-seconds", str(RECORD_SECONDS), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=zoo.out, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def build_clean(zoo: Zoo, built: Path, out: Path) -> None:
    """Build the good rows alone, each in its line, with the codebooks of a build of the zoo."""
    manifest = zoo.out / "clean.jsonl"
    manifest.write_bytes(clean_manifest(zoo))
    recipe = load_recipe("embedded", ["max_reject_rate=1"])
    make_plan(str(manifest), recipe, str(out))
    shutil.copytree(built / "artifacts", out / "artifacts")
    loaded = load_artifacts(str(out))
    assert loaded is not None
    artifacts: dict[str, Artifact] = loaded[1]
    run_build(recipe, artifacts, RunSettings(out=str(out), engine=EngineSettings(engine="local", workers=1)), _quiet)


def members_by_key(dataset: Path) -> dict[str, dict[str, bytes]]:
    """Return every record's members, read as a stream."""
    opened = Dataset.open(str(dataset))
    return {key: members for split in range(opened.num_splits) for key, members in samples(opened.shard(split))}


def row_outcomes(zoo: Zoo, dataset: Path) -> list[tuple[Case, str]]:
    """Return what became of each row, `lost` where neither a record nor a reject tells."""
    found = dict.fromkeys(members_by_key(dataset), "record")
    for path in sorted((dataset / "shards").glob("rejects-*.jsonl")):
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            reject = json.loads(line)
            assert reject["key"] not in found, reject
            assert reject["detail"].isprintable(), reject
            found[reject["key"]] = f"{reject['stage']}/{reject['reason']}"
    keys = [row.key for row in read_manifest(str(zoo.out / "manifest.jsonl"))]
    assert len(keys) == len(zoo.rows) == len(found)
    return [(case, found.get(key, "lost")) for case, key in zip(zoo.rows, keys, strict=True)]


def good_keys(zoo: Zoo) -> list[str]:
    return [case.name for case in zoo.rows if case.group == "good"]


def _quiet(*_: object) -> None:
    return None
