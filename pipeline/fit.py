"""Fit: pin the models that the recipe names, and train the codebooks and the tokenizer that it does not.

Training is on a deterministic sample of the corpus. The features of the sample are extracted as a job of its own, on
any engine and resumable by split; the training itself runs in the driver. `artifacts/artifacts.json` is the commit
record: with it present, a rerun does nothing but hash the models again.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

import fsspec

from pipeline import backends, chain
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.features import FeatureFiles
from pipeline.inside import is_inside
from pipeline.job import Job, Limits
from pipeline.models import Artifacts, pin, referenced
from pipeline.plan import Plan, Row, all_rows, load_rows, seconds_of, write_plan
from pipeline.storage import join, publish_bytes, publish_json, read_json, remove_folder
from pipeline.train_codebooks import train
from schemas.canonical import canonical_json, sha256_hex
from schemas.recipe import Recipe
from schemas.records import Artifact, Utterance
from stages.artifacts import verified_bytes
from stages.checkpoints import BadCheckpoint, verified_path

FORMAT = "interloom-artifacts/1"
LISTING = "artifacts/artifacts.json"
CANDIDATE_SPLITS = 1024
"""A plan of more splits is sampled from so many: the rows of a million hours do not fit in memory."""
FIT_HOURS_PER_SPLIT = 0.125
"""The features of a split are held in memory: 25 Hz x 1024 x 4 bytes x 450 s are 46 MB."""


class FitError(RuntimeError):
    """The codebooks cannot be trained; the message says why and what to do."""


def fit(
    root: str, plan: Plan, recipe: Recipe, settings: EngineSettings, limits: Limits, progress: Progress
) -> dict[str, Artifact]:
    """Return the artifacts of a dataset folder, training them where they are missing.

    Raises:
        BadCheckpoint: if a model that the recipe names is missing or is not what it says.
        FitError: if the folder holds artifacts of other settings, or of a dataset but not their listing, or nothing
            usable was sampled.
    """
    given = pin(recipe)
    wanted = fit_fingerprint(plan, recipe, given)
    if (found := load_artifacts(root)) is not None:
        if found[0] != wanted:
            raise FitError(f"{root}/artifacts were made with other settings, models or rows; use another --out")
        _require_sound(root, found[1])
        remove_folder(join(root, "fit"))  # ids, texts and features, where the run before ended in between
        return found[1] | models_of(recipe, given)
    require_untold(root)
    kept = _keep(root, recipe, given)
    trained = _train(root, plan, recipe, given, settings, limits, progress)
    entries = {name: {"path": _inside(root, artifact), "sha256": artifact.sha256} for name, artifact in kept.items()}
    entries |= trained
    write_listing(root, entries, wanted)
    remove_folder(join(root, "fit"))  # after the listing, so that an end in between costs no features
    loaded = load_artifacts(root)
    if loaded is None:
        raise FitError(f"{root}/{LISTING} cannot be read back")
    return loaded[1] | models_of(recipe, given)


def _require_sound(root: str, artifacts: Artifacts) -> None:
    for artifact in artifacts.values():
        try:
            verified_path(artifact)
        except BadCheckpoint:
            mend = f"run `interloom repair {root}`"
            if not isinstance(read_json(join(root, "dataset.json")), dict):
                mend = f"delete {root}/{LISTING} and run `interloom fit`, which trains the same bytes again"
            raise FitError(f"{artifact.path} is missing or damaged: restore it, or {mend}") from None


def require_untold(root: str) -> None:
    """Check that no artifact is there that `dataset.json` names: training anew would replace what the shards hold.

    Raises:
        FitError: if one is.
    """
    filesystem, key = fsspec.core.url_to_fs(root, use_listings_cache=False)
    entries = kept_entries(read_json(join(root, "dataset.json"))).values()
    if any(filesystem.find(f"{key}/{entry['path']}") for entry in entries):  # a folder may be left, and empty
        raise FitError(
            f"{root}/{LISTING} is missing or damaged, and {root}/dataset.json was made with what lies beside it: run "
            f"`interloom repair {root}`, or restore it from a copy"
        )


def _keep(root: str, recipe: Recipe, given: Artifacts) -> dict[str, Artifact]:
    """Copy the codebooks and the tokenizer that the recipe names into the dataset."""
    kept: dict[str, Artifact] = {}
    for ref in referenced(recipe):
        if ref.kept:
            path = join(root, "artifacts", ref.name + PurePath(ref.path).suffix)
            publish_bytes(verified_bytes(given[ref.name]), path)
            kept[ref.name] = Artifact(path=path, sha256=given[ref.name].sha256)
    return kept


def models_of(recipe: Recipe, given: Artifacts) -> dict[str, Artifact]:
    """Return the models, which stay where they are."""
    kept = {ref.name for ref in referenced(recipe) if ref.kept}
    return {name: artifact for name, artifact in given.items() if name not in kept}


def _train(
    root: str,
    plan: Plan,
    recipe: Recipe,
    given: Artifacts,
    settings: EngineSettings,
    limits: Limits,
    progress: Progress,
) -> dict[str, dict[str, str]]:
    steps, sink = chain.fit_steps(recipe, given), chain.fit_sink()
    if not steps:
        return {}
    fit_root = join(root, "fit")
    hours = "auto" if recipe.fit.max_hours <= 16 * FIT_HOURS_PER_SPLIT else FIT_HOURS_PER_SPLIT
    limits_of_rows = (recipe.decode.max_seconds, plan.unknown_seconds)
    sample = write_plan(fit_root, plan.base, sample_rows(plan, recipe), hours, *limits_of_rows)
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
    if not sum(record["records"] for record in records.values()):
        reasons = sum((Counter(record["reasons"]) for record in records.values()), Counter[str]())
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise FitError(f"no utterance of the sample can be used, so nothing can be fitted: {told}")
    entries = {}
    for name, files in train(FeatureFiles(fit_root, len(records)), recipe, given).items():
        entries[name] = _publish(root, files)
    return entries


def _publish(root: str, files: dict[str, bytes]) -> dict[str, str]:
    """Write one artifact's files; several make a folder."""
    for name, data in files.items():
        publish_bytes(data, join(root, "artifacts", name))
    if len(files) == 1:
        ((name, data),) = files.items()
        return {"path": f"artifacts/{name}", "sha256": sha256_hex(data)}
    folder = PurePath(next(iter(files))).parent
    listing = [[PurePath(name).name, sha256_hex(data)] for name, data in sorted(files.items())]
    return {"path": f"artifacts/{folder}", "sha256": sha256_hex(canonical_json(listing).encode())}


def fit_fingerprint(plan: Plan, recipe: Recipe, given: Artifacts) -> str:
    """Hash everything that decides the artifacts, and nothing else: an aligner may change without another fit."""
    steps = chain.fit_steps(recipe, given)
    kept = {ref.name: given[ref.name].sha256 for ref in referenced(recipe) if ref.kept}
    decisive: dict[str, Any] = {"kept": kept}
    if steps:
        parts = {"seed", "fit", *trained_sections(recipe, given)}
        decisive |= backends.settings_tree(recipe.model_dump(include=parts, mode="json"))
    return chain.job_fingerprint(plan.fingerprint, steps, chain.fit_sink(), decisive)


def trained_sections(recipe: Recipe, given: Artifacts) -> set[str]:
    """Return the sections whose artifacts `fit` trains."""
    sources = {
        "units": backends.units_features(recipe, given),
        "pitch": backends.pitch_features(recipe, given),
        "style": backends.style_features(recipe, given),
        "text": None if "tokenizer" in given else recipe.text,
    }
    return {name for name, source in sources.items() if source is not None}


def write_listing(root: str, entries: Mapping[str, Any], fingerprint: str) -> None:
    """Write `artifacts/artifacts.json`, which vouches for what was fitted."""
    publish_json({"artifacts": entries, "fingerprint": fingerprint, "format": FORMAT}, join(root, LISTING))


def load_artifacts(root: str) -> tuple[str, dict[str, Artifact]] | None:
    """Return the fit fingerprint and the artifacts of a folder, or None where their listing is missing or damaged."""
    value = read_json(join(root, LISTING))
    if not isinstance(value, dict) or value.get("format") != FORMAT or not isinstance(value.get("fingerprint"), str):
        return None
    entries = value.get("artifacts")
    if not isinstance(entries, dict) or not all(
        is_entry(item) and is_inside(item["path"]) for item in entries.values()
    ):
        return None
    artifacts = {name: Artifact(path=join(root, item["path"]), sha256=item["sha256"]) for name, item in entries.items()}
    return value["fingerprint"], artifacts


def kept_entries(info: Any) -> dict[str, dict[str, str]]:
    """Return what `dataset.json` says of artifacts inside the dataset, as far as it can be read."""
    entries = info.get("artifacts") if isinstance(info, dict) else None
    if not isinstance(entries, dict):
        return {}
    kept = {name: entry for name, entry in entries.items() if is_entry(entry) and is_inside(entry["path"])}
    return {name: entry for name, entry in kept.items() if entry["path"].startswith("artifacts/")}


def is_entry(value: Any) -> bool:
    """Tell whether a value names an artifact: a path and a sha256."""
    return isinstance(value, dict) and isinstance(value.get("path"), str) and isinstance(value.get("sha256"), str)


def _candidates(plan: Plan, recipe: Recipe) -> Iterator[Row]:
    """Return the rows that the sample is drawn from: all, or those of splits chosen by the hash of their numbers."""
    splits = range(len(plan.inputs))
    if len(splits) <= CANDIDATE_SPLITS:
        return all_rows(plan)
    order = sorted(splits, key=lambda split: sha256_hex(f"{recipe.seed}:split {split}".encode()))
    chosen = sorted(order[:CANDIDATE_SPLITS])
    return (row for split in chosen for row in load_rows(plan.rows_path, split, plan.base))


def sample_rows(plan: Plan, recipe: Recipe) -> list[Utterance]:
    """Choose rows by the hash of their key until `max_hours` is reached; return them in manifest order."""
    rows = [row for row in _candidates(plan, recipe) if isinstance(row, Utterance)]
    seconds = seconds_of(rows, recipe.decode.max_seconds, plan.unknown_seconds)
    order = sorted(range(len(rows)), key=lambda i: sha256_hex(f"{recipe.seed}:{rows[i].key}".encode()))
    chosen: list[int] = []
    total = 0.0
    for i in order:
        if chosen and total + seconds[i] > recipe.fit.max_hours * 3600:
            continue
        total += seconds[i]
        chosen.append(i)
    return [rows[i] for i in sorted(chosen)]


def artifacts_json(artifacts: Artifacts, root: str) -> dict[str, Any]:
    """Return the artifacts for `dataset.json`: paths inside the dataset, and of models outside it only the name."""
    return {name: {"path": _inside(root, a), "sha256": a.sha256} for name, a in sorted(artifacts.items())}


def _inside(root: str, artifact: Artifact) -> str:
    prefix = root.rstrip("/") + "/"
    return artifact.path[len(prefix) :] if artifact.path.startswith(prefix) else os.path.basename(artifact.path)
