"""Build: from a manifest to a finished dataset folder. Every step resumes; running it again is free."""

from dataclasses import dataclass
from typing import Any

from pipeline import chain
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.finish import finish
from pipeline.fit import artifacts_json, fit
from pipeline.job import Job, Limits
from pipeline.manifest import manifest_base, read_manifest
from pipeline.plan import Plan, read_plan, write_plan
from pipeline.recipes import recipe_yaml
from pipeline.storage import join, publish_bytes
from schemas.recipe import Recipe
from schemas.records import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """Where and how a run is carried out; nothing here changes a byte of the dataset."""

    out: str
    engine: EngineSettings
    limits: Limits = Limits()


class PlanError(RuntimeError):
    """The folder holds another plan, or none."""


def make_plan(manifest: str, recipe: Recipe, out: str) -> Plan:
    """Plan a manifest into a folder; an existing plan must be the same.

    Raises:
        ManifestError: if the manifest cannot be used.
        PlanError: if the folder was planned from another manifest or with other settings.
    """
    existing = read_plan(join(out, "plan"))
    rows = list(read_manifest(manifest))
    if existing is None:
        plan = write_plan(join(out, "plan"), manifest_base(manifest), rows, recipe.plan.hours_per_shard)
    else:
        scratch = write_plan(join(out, "work", "plan"), manifest_base(manifest), rows, recipe.plan.hours_per_shard)
        if scratch.fingerprint != existing.fingerprint:
            raise PlanError(f"{out} was planned from other rows than {manifest} holds now; use another --out")
        plan = existing
    publish_bytes(recipe_yaml(recipe).encode(), join(out, "recipe.yaml"))
    return plan


def planned(out: str) -> Plan:
    """Return the plan of a folder."""
    plan = read_plan(join(out, "plan"))
    if plan is None:
        raise PlanError(f"{out} holds no plan; run `interloom plan RECIPE --manifest M --out {out}` first")
    return plan


def run_fit(recipe: Recipe, settings: RunSettings, progress: Progress) -> dict[str, Artifact]:
    return fit(settings.out, planned(settings.out), recipe, settings.engine, settings.limits, progress)


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
    recipe: Recipe, artifacts: dict[str, Artifact], settings: RunSettings, progress: Progress
) -> dict[str, Any]:
    """Build every split, reconcile and write `dataset.json`; return its content."""
    plan = planned(settings.out)
    job = build_job(recipe, plan, artifacts, settings)
    records = drive(job, plan, settings.engine, progress)
    return finish(
        settings.out,
        plan=plan,
        recipe=recipe,
        records=records,
        fingerprint=job.fingerprint,
        contracts=chain.contracts(artifacts),
        artifacts=artifacts_json(artifacts, settings.out),
        aligner=chain.align_config(recipe).metadata(),
    )
