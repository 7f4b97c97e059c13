"""Fit: train codebooks and the tokenizer on a deterministic sample of the corpus.

The features of the sample are extracted as a job of its own, on any engine and resumable by split; the training itself
is a few seconds in the driver. `artifacts/artifacts.json` is the commit record: with it present, a rerun does nothing.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import chain
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.features import read_features
from pipeline.job import Job, Limits
from pipeline.plan import Plan, all_rows, seconds_of, write_plan
from pipeline.storage import is_remote, join, publish_bytes, publish_json, read_bytes, read_json
from schemas.canonical import canonical_json, sha256_hex
from schemas.recipe import Recipe
from schemas.records import Artifact, FitFeatures, Utterance
from schemas.unit_record import npy_bytes

FORMAT = "interloom-artifacts/1"


class FitError(RuntimeError):
    """The codebooks cannot be trained; the message says why and what to do."""


def fit(
    root: str, plan: Plan, recipe: Recipe, settings: EngineSettings, limits: Limits, progress: Progress
) -> dict[str, Artifact]:
    """Return the artifacts of a dataset folder, training them where they are missing.

    Raises:
        FitError: if the folder holds artifacts of other settings, or nothing usable was sampled.
    """
    wanted = fit_fingerprint(plan, recipe)
    if (found := load_artifacts(root)) is not None:
        if found[0] != wanted:
            raise FitError(f"{root}/artifacts were fitted with other settings or another manifest; use another --out")
        return found[1]
    fit_root = join(root, "fit")
    sample = write_plan(fit_root, plan.base, sample_rows(plan, recipe), recipe.plan.hours_per_shard)
    steps, sink = chain.fit_steps(recipe), chain.fit_sink()
    job = Job(
        root=fit_root,
        rows_path=sample.rows_path,
        base=plan.base,
        fingerprint=chain.job_fingerprint(sample.fingerprint, steps, sink),
        steps=steps,
        sink=sink,
        limits=limits,
    )
    records = drive(job, sample, settings, progress)
    features = list(_features(fit_root, len(records)))
    if not features:
        reasons = sum((Counter(record["reasons"]) for record in records.values()), Counter[str]())
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise FitError(f"no utterance of the sample can be used, so nothing can be fitted: {told}")
    files = train(features, recipe)
    for name, data in files.items():
        publish_bytes(data, join(root, "artifacts", name))
    hashes = {
        Path(name).stem: {"path": f"artifacts/{name}", "sha256": sha256_hex(data)} for name, data in files.items()
    }
    publish_json(
        {"artifacts": hashes, "fingerprint": wanted, "format": FORMAT}, join(root, "artifacts", "artifacts.json")
    )
    if not is_remote(fit_root):
        shutil.rmtree(fit_root, ignore_errors=True)
    loaded = load_artifacts(root)
    if loaded is None:
        raise FitError(f"{root}/artifacts/artifacts.json cannot be read back")
    return loaded[1]


def fit_fingerprint(plan: Plan, recipe: Recipe) -> str:
    """Hash everything that decides the artifacts."""
    sections = recipe.model_dump(
        include={"seed", "fit", "units", "f0", "pitch", "style", "text", "decode"}, mode="json"
    )
    return chain.job_fingerprint(plan.fingerprint, chain.fit_steps(recipe), chain.fit_sink(), sections)


def load_artifacts(root: str) -> tuple[str, dict[str, Artifact]] | None:
    """Return the fit fingerprint and the artifacts of a folder, or None where it has none."""
    value = read_json(join(root, "artifacts", "artifacts.json"))
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        return None
    artifacts = {
        name: Artifact(path=join(root, item["path"]), sha256=item["sha256"])
        for name, item in value["artifacts"].items()
    }
    return value["fingerprint"], artifacts


def sample_rows(plan: Plan, recipe: Recipe) -> list[Utterance]:
    """Choose rows by the hash of their key until `max_hours` is reached; return them in manifest order."""
    rows = [row for row in all_rows(plan) if isinstance(row, Utterance)]
    seconds = seconds_of(rows)
    order = sorted(range(len(rows)), key=lambda i: sha256_hex(f"{recipe.seed}:{rows[i].key}".encode()))
    chosen: list[int] = []
    total = 0.0
    for i in order:
        if chosen and total + seconds[i] > recipe.fit.max_hours * 3600:
            continue
        total += seconds[i]
        chosen.append(i)
    return [rows[i] for i in sorted(chosen)]


def _features(fit_root: str, splits: int) -> Iterator[FitFeatures]:
    for split in range(splits):
        data = read_bytes(join(fit_root, "shards", f"features-{split:06d}.safetensors"))
        if data is not None:
            yield from read_features(data)


def train(features: list[FitFeatures], recipe: Recipe) -> dict[str, bytes]:
    """Return the artifacts' files by name; a pure function of the features, their order and the recipe."""
    from stages.codebooks import fit_pitch_codebook, fit_style, fit_units_codebook
    from stages.tokenizer import fit_sentencepiece

    units = fit_units_codebook(features, recipe.units.clusters, recipe.seed)
    pitch = fit_pitch_codebook(features, recipe.pitch.clusters, recipe.seed)
    style, speakers = fit_style(features, recipe.style.clusters, recipe.seed)
    return {
        "units.npy": npy_bytes(units),
        "pitch.npy": npy_bytes(pitch),
        "style.npy": npy_bytes(style),
        "style_speakers.json": canonical_json(speakers).encode(),
        "tokenizer.model": fit_sentencepiece([f.text for f in features], recipe.text.vocab_size),
    }


def artifacts_json(artifacts: dict[str, Artifact], root: str) -> dict[str, Any]:
    """Return the artifacts for `dataset.json`, with paths inside the dataset."""
    return {name: {"path": a.path[len(root.rstrip("/")) + 1 :], "sha256": a.sha256} for name, a in artifacts.items()}
