"""Build: from a manifest to a finished dataset folder. Every step resumes; running it again is free."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from pipeline import backends, chain
from pipeline.commit import commit_path, committed_splits
from pipeline.commit_form import commit_name
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.finish import finish
from pipeline.fit import FitError, artifacts_json, fit, fit_fingerprint, load_artifacts, models_of, require_untold
from pipeline.folder_lock import locked
from pipeline.job import Job, Limits
from pipeline.manifest import locate, manifest_base, read_manifest
from pipeline.models import pin, resolved
from pipeline.plan import Plan, Row, read_plan, write_plan
from pipeline.recipes import parse_recipe, recipe_from, recipe_yaml
from pipeline.removal_checks import unfinished
from pipeline.removal_search import search
from pipeline.removed import read_removed
from pipeline.status_files import read_many
from pipeline.storage import join, list_names, publish_bytes, read_bytes, read_json, remove, remove_folder
from pipeline.transcribe import transcribe
from schemas.model_sections import ImportedSection
from schemas.recipe import Recipe
from schemas.records import Artifact, Utterance
from schemas.rejects import Reason
from schemas.urls import public_url
from stages.alignment_files.entry import BadAlignment
from stages.alignment_files.index import AlignmentIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Where and how a run is carried out; nothing here changes a byte of the dataset."""

    out: str
    engine: EngineSettings
    limits: Limits = Limits()


class PlanError(RuntimeError):
    """The folder holds another plan, or none."""


def make_plan(manifest: str, recipe: Recipe, out: str, audio_root: str | None = None) -> Plan:
    """Plan a manifest into a folder; an existing plan must be the same.

    Relative audio paths start from `audio_root`, by default the manifest's folder.

    Raises:
        ManifestError: if the manifest cannot be used.
        PlanError: if the folder was planned from another manifest or with other settings.
        FitError: if it holds the artifacts of a dataset, but not their listing.
        FolderInUse: if another run works in the folder.
    """
    recipe = resolved(recipe)
    base = audio_root or manifest_base(manifest)
    rows = located(read_manifest(manifest), base)
    first = list(islice(rows, SAMPLE_OF_ROWS))
    require_alignments(recipe, first)
    rows = itertools.chain(first, rows)
    hours = recipe.plan.hours_per_shard
    with locked(out):
        existing = read_plan(join(out, "plan"))
        if existing is None:
            plan = write_plan(join(out, "plan"), base, rows, hours, recipe.decode.max_seconds)
            try:
                _require_same_recipe(recipe, plan, out)
            except (PlanError, FitError):
                remove_folder(join(out, "plan"))
                raise
        else:
            as_before = (existing.max_seconds, existing.unknown_seconds)
            again = join(out, "work", "plan")
            try:
                plan = write_plan(again, base, rows, hours, *as_before)
            finally:
                remove_folder(again)  # ids, texts and paths of all rows
            if (plan.fingerprint, plan.base) != (existing.fingerprint, existing.base):
                raise PlanError(
                    f"{out} was planned from other rows than {public_url(manifest)} holds now; use another --out"
                )
            plan = existing
            _require_same_recipe(recipe, plan, out)
        publish_bytes(recipe_yaml(recipe).encode(), join(out, "recipe.yaml"))
    return plan


def transcribe_first(
    manifest: str, recipe: Recipe, settings: RunSettings, progress: Progress, audio_root: str | None = None
) -> tuple[str, str]:
    """Give every row without text its transcripts; return the new manifest and the root of its audio paths.

    Raises:
        PlanError: if the recipe names no transcriber.
        FolderInUse: if another run works in the folder.
    """
    base = audio_root or manifest_base(manifest)
    rows = located(read_manifest(manifest), base)
    checkpoint = pin(recipe, transcribe=True).get("transcribe_model")
    if recipe.transcribe is None or checkpoint is None:
        raise PlanError("the recipe has no transcribe section: name a checkpoint there, or give every row a text")
    longest = recipe.transcribe.max_seconds
    with locked(settings.out):
        plan = write_plan(join(settings.out, "transcripts", "plan"), base, rows, recipe.plan.hours_per_shard, longest)
        path = transcribe(settings.out, plan, recipe, checkpoint, settings.engine, settings.limits, progress)
    return path, base


SAMPLE_OF_ROWS = 200


def require_alignments(recipe: Recipe, rows: Sequence[Row]) -> None:
    """Check that imported alignments know at least one of the first rows.

    Raises:
        PlanError: if they know none, so that every row would be rejected.
    """
    if not isinstance(recipe.align, ImportedSection):
        return
    index = backends.align_config(recipe, pin(recipe)).index()
    utterances = [row for row in rows if isinstance(row, Utterance)]
    if utterances and not any(_knows(index, row) for row in utterances):
        raise PlanError(
            f"{recipe.align.path} holds no alignment of the manifest's first {len(utterances)} rows, such as "
            f"{utterances[0].id!r}; ids, recordings or file names must agree"
        )


def _knows(index: AlignmentIndex, row: Utterance) -> bool:
    try:
        return index.find(row) is not None
    except BadAlignment:  # several go by that name
        return True


def located(rows: Iterable[Row], base: str) -> Iterator[Row]:
    """Yield rows whose relative audio paths start from `base`."""
    return (replace(row, location=locate(row.audio, base)) if isinstance(row, Utterance) else row for row in rows)


def _require_same_recipe(recipe: Recipe, plan: Plan, out: str) -> None:
    """Check that what was made so far was made with this recipe; reading-time sections may change."""
    loaded = load_artifacts(out)
    if loaded is None:
        require_untold(out)
        return
    fitted, artifacts = loaded
    given = pin(recipe)
    if fitted != fit_fingerprint(plan, recipe, given):
        raise PlanError(f"{out}/artifacts were fitted with other settings; use another --out")
    everything = artifacts | models_of(recipe, given)
    wanted = build_job(recipe, plan, everything, RunSettings(out=out, engine=EngineSettings())).fingerprint
    folder = join(out, "shards")
    names = [commit_name(split) for split in sorted(committed_splits(list_names(folder)))]
    for _, record in read_many(folder, names):
        if isinstance(record, dict) and record.get("plan") != wanted:
            raise PlanError(f"{folder} were built with other settings; use another --out")


def planned_recipe(out: str) -> Recipe:
    """Return the recipe that a folder was planned with."""
    planned(out)
    path = join(out, "recipe.yaml")
    data = read_bytes(path)
    if data is None:
        raise PlanError(f"{path} is missing; run the `plan` command again")
    return recipe_from(parse_recipe(data.decode("utf-8", "replace"), path), path)


def planned(out: str) -> Plan:
    """Return the plan of a folder."""
    plan = read_plan(join(out, "plan"))
    if plan is None:
        raise PlanError(f"{out} holds no plan; run `interloom plan RECIPE --manifest M --out {out}` first")
    return plan


def run_fit(recipe: Recipe, settings: RunSettings, progress: Progress) -> dict[str, Artifact]:
    """Return the artifacts of a planned folder; see `pipeline.fit.fit`.

    Raises:
        FolderInUse: if another run works in the folder.
    """
    plan = planned(settings.out)
    with locked(settings.out):
        return fit(settings.out, plan, recipe, settings.engine, settings.limits, progress)


def build_job(recipe: Recipe, plan: Plan, artifacts: dict[str, Artifact], settings: RunSettings) -> Job:
    """Return the job that builds a planned and fitted folder."""
    steps, sink = chain.build_steps(recipe, artifacts), chain.build_sink(recipe, artifacts)
    return Job(
        root=settings.out,
        rows_path=plan.rows_path,
        base=plan.base,
        fingerprint=chain.job_fingerprint(plan.fingerprint, steps, sink),
        steps=steps,
        sink=sink,
        limits=settings.limits,
    )


def run_build(
    recipe: Recipe,
    artifacts: dict[str, Artifact],
    settings: RunSettings,
    progress: Progress,
    *,
    repairing: bool = False,
) -> dict[str, Any]:
    """Build every split, reconcile and write `dataset.json`; return its content.

    A repair leaves shards that hold rows of `removed.jsonl` to the removal, which needs no sources.

    Raises:
        PlanError: if a removal from the dataset was begun and not ended, or its list was lost.
        BadRemovedList: if that list is damaged.
        FolderInUse: if another run works in the folder.
    """
    plan = planned(settings.out)
    with locked(settings.out):
        if unfinished(settings.out):
            raise PlanError(f"{settings.out}: a removal is not finished; run `interloom remove` with the same ids")
        if not repairing:
            _respect_removals(settings.out, plan)
        job = build_job(recipe, plan, artifacts, settings)
        records = drive(job, plan, settings.engine, progress)
        return finish(
            settings.out,
            plan=plan,
            recipe=resolved(recipe),
            records=records,
            fingerprint=job.fingerprint,
            contracts=chain.contracts(recipe, artifacts),
            artifacts=artifacts_json(artifacts, settings.out),
            aligner=backends.align_config(recipe, artifacts).metadata(),
            transcription=_transcription(settings.out, plan) if recipe.transcribe else None,
        )


def _respect_removals(out: str, plan: Plan) -> None:
    """Withdraw shards that hold rows of `removed.jsonl`; reads all rows of the plan where anything was removed.

    Raises:
        PlanError: if `dataset.json` counts more rows that were removed than the list names.
    """
    info, listed = read_json(join(out, "dataset.json")), read_removed(out)
    reasons = info.get("reasons") if isinstance(info, dict) and info.get("plan") == plan.fingerprint else None
    said = reasons.get(Reason.REMOVED.value, 0) if isinstance(reasons, dict) else 0
    if not said and not listed:
        return
    covered = search(plan, {}, {}, listed).covered
    if isinstance(said, int) and said > sum(covered.values()):
        raise PlanError(f"{out}/removed.jsonl lacks rows that were removed; run `interloom repair {out}` first")
    for split, count in covered.items():
        record = read_json(commit_path(out, split))
        told = record.get("reasons") if isinstance(record, dict) else None
        if isinstance(told, dict) and told.get(Reason.REMOVED.value, 0) != count:
            remove(commit_path(out, split))


def _transcription(out: str, plan: Plan) -> dict[str, Any] | None:
    """Return what the transcriber did; where `transcripts/` was deleted, what `dataset.json` of the same plan says."""
    said = read_json(join(out, "transcripts", "transcribe.json"))
    if said is None:
        info = read_json(join(out, "dataset.json"))
        said = info.get("transcription") if isinstance(info, dict) and info.get("plan") == plan.fingerprint else None
    return said if isinstance(said, dict) else None
