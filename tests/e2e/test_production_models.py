"""The whole path with models from checkpoints: HuBERT units, CTC alignment, pitch VQ-VAE, wav2vec 2.0 style."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hour import measure
from pipeline.dataset import Dataset
from pipeline.verify import verify

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "examples" / "corpus" / "manifest.jsonl"
CHECKPOINTS = ROOT / "tests" / "checkpoints"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

GIVEN = {
    "align.backend": "ctc",
    "align.checkpoint": CHECKPOINTS / "ctc_tiny",
    "units.backend": "hubert",
    "units.checkpoint": CHECKPOINTS / "hubert_group",
    "units.layer": 2,
    "f0.hop": 80,
    "pitch.backend": "vqvae",
    "style.backend": "wav2vec2",
    "style.checkpoint": CHECKPOINTS / "style_wav2vec2",
}
FITTED = {"units.quantiser.clusters": 50, "pitch.steps": 20}
"""`fit` trains the k-means codebook and the VQ-VAE."""


def run(manifest: Path, out: Path, settings: dict[str, object], *options: str) -> Dataset:
    command = [sys.executable, "-m", "jobs.cli", "run", "embedded", "--manifest", str(manifest), "--out", str(out)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Dataset.open(str(out))


def digests(out: Path) -> dict[str, str]:
    files = [*(out / "shards").iterdir(), *(out / "artifacts").rglob("*"), out / "dataset.json", out / "report.html"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files) if f.is_file()}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("production") / "a"
    run(CORPUS, out, GIVEN | FITTED, "--workers", "2")
    return out


def test_every_record_holds_every_stream(built):
    dataset = Dataset.open(str(built))
    verify(str(built))
    made_by = {name: contract.extractor for name, contract in dataset.contracts.items()}
    assert made_by == {"hubert": "hubert", "pitch": "f0-vqvae", "style": "wav2vec2-style"}
    assert dataset.info["aligner"]["name"] == "ctc"
    assert dataset.info["inputs"] == dataset.info["records"] + dataset.info["rejects"] == 87
    assert dataset.info["records"] >= 80
    for split in range(dataset.num_splits):
        for record in dataset.records(split):
            assert set(record.streams) == {"hubert", "pitch", "style"}
            assert len(record.words) == len(record.text.split())


def test_batches_workers_and_engines_change_no_byte(built, tmp_path):
    """Batches of one, of many and bounded by audio; another engine."""
    options = ("--workers", "1", "--batch-records", "64", "--batch-seconds", "40")
    run(CORPUS, tmp_path / "b", GIVEN | FITTED, *options)
    assert digests(tmp_path / "b") == digests(built)
    run(CORPUS, tmp_path / "c", GIVEN | FITTED, "--engine", "ray", "--batch-records", "1")
    assert digests(tmp_path / "c") == digests(built)


def test_what_one_run_fitted_can_be_given_to_another(built, tmp_path):
    """A dataset's codebooks, pitch model and tokenizer, named in a recipe, give the same records without a fit."""
    dataset = Dataset.open(str(built))
    given = GIVEN | {
        "units.quantiser.path": dataset.artifact("units"),
        "units.quantiser.clusters": dataset.contracts["hubert"].codebook_size,
        "pitch.checkpoint": dataset.artifact("pitch"),
        "text.path": dataset.artifact("tokenizer"),
    }
    other = run(CORPUS, tmp_path / "d", given)
    assert other.contracts == dataset.contracts
    ours, theirs = digests(built), digests(tmp_path / "d")
    shards = [name for name in ours if name.startswith("shard-") and not name.endswith(".commit.json")]
    assert shards
    assert {name: theirs[name] for name in shards} == {name: ours[name] for name in shards}
    assert not (tmp_path / "d" / "fit").exists()


def test_a_long_recording_is_aligned_as_its_pieces_are(tmp_path):
    """Ten minutes as one utterance: words are where they are when cut at silences, and so are units that hear only
    their neighbours: those of the convolutions of a model that does not normalise the clip (layer 0)."""
    model = shutil.copytree(CHECKPOINTS / "hubert_layer", tmp_path / "model")
    prepared = json.loads((model / "preprocessor_config.json").read_text())
    (model / "preprocessor_config.json").write_text(json.dumps({**prepared, "do_normalize": False}))
    found, peak_mib, _ = measure(tmp_path, 10.0, model, 0)
    assert found.words > 1_000
    assert found.moved <= 0.01 * found.words
    assert found.other <= 0.01 * found.frames
    assert found.other_far == 0
    assert peak_mib < 2_000


def test_rejects_name_the_file(built):
    rows = [json.loads(line) for path in sorted((built / "shards").glob("rejects-*")) for line in path.open()]
    assert all(row["detail"].startswith("audio/") or "/" in row["detail"] for row in rows)
