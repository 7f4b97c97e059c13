"""Repair a dataset: redo exactly what verify found, with the build's own driver, to the same bytes.

Damaged files are not deleted but set aside in `work/damaged/`, commit records first, so that a crash leaves splits that
do not count; running `repair` again, or a build, goes on from there, and `repair` still knows what was there before
(`pipeline/set_aside.py`). Before anything is touched it is made sure that the same bytes can come out: the sources are
there, and this version of the software has the dataset's fingerprint.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import fsspec

from pipeline import chain
from pipeline.build import RunSettings, make_plan, run_build, run_fit
from pipeline.commit import commit_path
from pipeline.drive import Progress
from pipeline.findings import Finding, Problem
from pipeline.fit import LISTING, fit_fingerprint, kept_entries, load_artifacts, models_of, write_listing
from pipeline.folder_lock import locked
from pipeline.models import pin
from pipeline.plan import Plan, read_plan
from pipeline.removal_checks import unfinished
from pipeline.removed import LIST, read_removed, write_removed
from pipeline.removed_lost import mended
from pipeline.repair_base import base_for, known_base, moves, set_base, told_base
from pipeline.repair_checks import RepairFailed, lost_splits, require_sources
from pipeline.set_aside import (
    ASIDE,
    PROMISED,
    Promise,
    begin,
    clear_way,
    end,
    keep_artifacts,
    names_of,
    put_artifacts_back,
    read_unfinished,
    set_aside,
)
from pipeline.split_files import found_by, sha256_of
from pipeline.storage import copy, file_size, join, list_names, move, read_json, remove, remove_folder
from pipeline.verify import Verified, examine
from pipeline.verify_plan import PLAN, RECIPE, ROWS_FILE, read_recipe, recipe_findings
from schemas.recipe import Recipe
from schemas.rejects import Reason
from schemas.urls import public_url

DATASET = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a plan can be made from again, where it is damaged.

    Attributes:
        manifest: the manifest that the dataset was made from.
        audio_root: where its relative paths start; None: where the plan says, or else at the manifest's folder.
        recipe: the recipe, where `recipe.yaml` is damaged too.
    """

    manifest: str | None = None
    audio_root: str | None = None
    recipe: Recipe | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Repaired:
    """What was done.

    Attributes:
        before: what was wrong.
        splits: splits that were built again.
        aside: files that were moved to `work/damaged/`.
        base: a line about where relative audio paths start, where sources were given that bear on it.
    """

    before: tuple[Finding, ...]
    splits: tuple[int, ...]
    aside: tuple[str, ...]
    base: str = ""


def repair(settings: RunSettings, progress: Progress, sources: Sources | None = None, *, workers: int = 1) -> Repaired:
    """Verify the dataset in `settings.out` and redo what is damaged.

    Raises:
        BadDataset: if the folder holds neither a dataset nor a plan.
        RepairFailed: if it cannot be repaired.
        RunFailed: if splits could not be built; see `pipeline.drive.drive`.
        FolderInUse: if another process works in the folder.
    """
    given, root = sources or Sources(), settings.out
    found = examine(root, workers=workers)
    base = told_base(root, given.manifest, given.audio_root)
    if not found.findings and not read_unfinished(root).names and not moves(root, given.audio_root):
        return Repaired(before=(), splits=(), aside=(), base=base)
    with locked(root):  # what another run was still making when we looked is whole now
        found = examine(root, workers=workers)
        found = _with_artifacts_back(root, found, workers)
        return replace(_repair(found, settings, progress, given, workers), base=base)


def _repair(
    found: Verified,
    settings: RunSettings,
    progress: Progress,
    sources: Sources,
    workers: int,
    *,
    again: bool = False,
) -> Repaired:
    root = settings.out
    begun = read_unfinished(root).promised
    if not {finding.path for finding in found.findings} & {PLAN, ROWS_FILE, RECIPE}:
        set_base(root, found.findings, sources.audio_root)
    if not found.findings:
        if begun:
            _require_promised(root, begun)
            end(root)
        return Repaired(before=(), splits=(), aside=())
    bad = {finding.path for finding in found.findings}
    aside = _mend_plan(root, found.findings, sources)
    if not again and (LIST in bad or unfinished(root)):  # `remove` goes no further without the list
        aside += _mend_list(root, lost=LIST in bad)
    still_in = [finding for finding in found.findings if finding.problem is Problem.REMOVED]
    findings = [finding for finding in found.findings if finding.problem is not Problem.REMOVED]
    if unfinished(root) or (still_in and not findings):
        raise RepairFailed(f"{root}: a removal is not finished; run `interloom remove` with the same ids first")
    if LIST in bad and again:
        raise RepairFailed(f"{root}/{LIST}: nothing tells what it should hold; restore it from a copy")
    if (LIST in bad or aside) and not again:  # with the plan or the list whole, more can be told
        more = _repair(examine(root, workers=workers), settings, progress, sources, workers, again=True)
        return Repaired(before=found.findings, splits=more.splits, aside=(*aside, *more.aside))
    recipe, plan = read_recipe(root), read_plan(join(root, "plan"))
    if recipe is None or plan is None:
        raise RepairFailed(f"{root} holds no plan and no recipe, so nothing can be built again; copy what is damaged")
    aside += _mend_artifacts(plan, recipe, bad, settings, progress)
    splits = sorted({finding.split for finding in findings if finding.split is not None})
    promised = {**{split: _promised(root, split, findings) for split in splits}, **begun}
    artifacts = _artifacts(root, recipe)
    _require_same_bytes(root, recipe, plan, artifacts)
    require_sources(root, plan, splits)
    begin(root, promised=promised)
    aside += clear_way(root, bad) + set_aside(root, _files_of(splits, findings))
    run_build(recipe, artifacts, settings, progress, repairing=True)
    _require_promised(root, promised)
    left = examine(root, only=sorted(promised)).findings
    if left:
        raise RepairFailed(f"{root}: still wrong after the repair: {left[0]}")
    end(root)
    if rest := sorted({finding.path for finding in still_in if finding.split not in promised}):
        raise RepairFailed(
            f"{root}: what was damaged is repaired, but {rest[0]} still holds rows that removed.jsonl lists; run "
            "`interloom remove` with the same ids"
        )
    return Repaired(before=found.findings, splits=tuple(splits), aside=tuple(aside))


def _with_artifacts_back(root: str, found: Verified, workers: int) -> Verified:
    """Put back artifacts that a repair set aside before it was killed, unless sound ones are there; return findings."""
    if not read_unfinished(root).artifacts:
        return found
    if not any(finding.path == DATASET or finding.path.startswith("artifacts/") for finding in found.findings):
        keep_artifacts(root)
        return found
    put_artifacts_back(root)
    return examine(root, workers=workers)


def _mend_list(root: str, *, lost: bool) -> list[str]:
    """Bring back what `removed.jsonl` lost, as far as the rejects tell; leave one alone that lacks nothing."""
    plan = read_plan(join(root, "plan"))
    if plan is None:
        raise RepairFailed(f"{root}/{LIST} is damaged, and there is no plan; restore it from a copy")
    if not lost and mended(root, plan) == read_removed(root):
        return []
    aside = clear_way(root, [LIST])
    there = file_size(join(root, LIST)) is not None
    if there:  # not moved: without it rows would come back
        copy(join(root, LIST), join(root, ASIDE, LIST))
    if listed := mended(root, plan):
        write_removed(root, listed)
    else:
        remove(join(root, LIST))
    return [*aside, LIST] if there else aside


def _mend_plan(root: str, findings: Iterable[Finding], sources: Sources) -> list[str]:
    """Plan again where the plan or the recipe is damaged; return what was set aside."""
    bad = {finding.path for finding in findings}
    broken = sorted(bad & {PLAN, ROWS_FILE, RECIPE})
    if not broken:
        return []
    recipe = sources.recipe or (None if RECIPE in bad else read_recipe(root))
    if sources.manifest is None or recipe is None:
        wanted = "--manifest" if recipe is not None else "--recipe and --manifest"
        raise RepairFailed(f"{root}/{broken[0]} is damaged: give {wanted} that the dataset was made from")
    made = join(root, "work", "replanned")
    remove_folder(made)
    try:
        known, base = known_base(root), base_for(root, sources.audio_root)
        plan = make_plan(sources.manifest, recipe, made, base)
        _require_same_rows(root, made, plan, bad, sources.manifest)
        if known != plan.base:
            require_sources(root, plan, lost_splits(root, plan, findings))
        return _replace_plan(root, made)
    finally:
        remove_folder(made)


def _require_same_rows(root: str, made: str, plan: Plan, bad: set[str], manifest: str) -> None:
    """Check a new plan and recipe, in the folder `made`, against what still tells how the dataset was made."""
    info = None if DATASET in bad else read_json(join(root, DATASET))
    before = found_by(read_plan, join(root, "plan"))
    known = str(info.get("plan")) if info else before.fingerprint if before and not bad & {PLAN, ROWS_FILE} else None
    if known not in (None, plan.fingerprint):
        raise RepairFailed(f"{public_url(manifest)} holds other rows than {root} was made from; nothing was repaired")
    recipe = read_recipe(made)
    assert recipe is not None  # it was written just now
    if info and recipe_findings(made, info, planned=True, trusted=False):
        raise RepairFailed(f"{root} was made with another recipe than was given; nothing was repaired")
    if not info and _built_with(root, plan):
        _require_same_bytes(root, recipe, plan, _artifacts(root, recipe))


def _replace_plan(root: str, made: str) -> list[str]:
    """Put a plan and a recipe in the place of those of a dataset, file by file; return what was set aside."""
    names = [RECIPE, *(f"plan/{name}" for name in sorted(list_names(join(made, "plan"))))]
    aside = clear_way(root, names)
    changed = [name for name in names if sha256_of(join(root, name)) != sha256_of(join(made, name))]
    there = [name for name in changed if file_size(join(root, name)) is not None]
    for name in changed:
        if name in there:  # not moved: a folder without its plan would pass for a copy that came without one
            copy(join(root, name), join(root, ASIDE, name))
        move(join(made, name), join(root, name))
    others = {f"plan/{name}" for name in list_names(join(root, "plan"))}.difference(names)
    return aside + there + set_aside(root, sorted(others))


def _mend_artifacts(plan: Plan, recipe: Recipe, bad: set[str], settings: RunSettings, progress: Progress) -> list[str]:
    """Fit again where artifacts are damaged, and check that the same came out; a listing alone is written again."""
    root = settings.out
    broken = sorted(path for path in bad if path.startswith("artifacts/"))
    if not broken:
        return []
    said = kept_entries(read_json(join(root, LISTING if DATASET in bad else DATASET)))
    if broken == [LISTING] and DATASET not in bad:
        begin(root, artifacts=broken)
        aside = set_aside(root, broken)
        write_listing(root, said, fit_fingerprint(plan, recipe, pin(recipe)))
        keep_artifacts(root)
        return aside
    own = sorted(entry["path"] for entry in said.values()) or ["artifacts"]
    files = sorted({file for path in (LISTING, *own) for file in _files_below(root, path)})
    begin(root, artifacts=files)
    aside = set_aside(root, files)
    try:
        fitted = run_fit(recipe, settings, progress)
        if wrong := sorted(n for n, e in said.items() if n in fitted and fitted[n].sha256 != e["sha256"]):
            raise RepairFailed(
                f"{root}/artifacts: fitting gives another {', '.join(wrong)} than the dataset was built with (sources "
                f"are gone or changed, or rows were removed since); restore {', '.join(broken)} from a copy"
            )
    except BaseException:
        put_artifacts_back(root)
        remove_folder(join(root, "fit"))  # what was extracted from sources that may be incomplete
        raise
    keep_artifacts(root)
    return [name for name in aside if name in broken]


def _artifacts(root: str, recipe: Recipe) -> dict[str, Any]:
    loaded = load_artifacts(root)
    if loaded is None:
        raise RepairFailed(f"{root}/{LISTING} is missing or damaged; run `interloom fit --out {root}`")
    return loaded[1] | models_of(recipe, pin(recipe))


def _files_below(root: str, name: str) -> list[str]:
    """Return the files of an artifact, which may be a folder."""
    filesystem, key = fsspec.core.url_to_fs(root, use_listings_cache=False)
    return sorted(path.removeprefix(f"{key}/") for path in filesystem.find(f"{key}/{name}"))


def _built_with(root: str, plan: Plan) -> list[str]:
    """Return the fingerprints in the commit records."""
    records = (read_json(commit_path(root, split)) for split in range(len(plan.inputs)))
    return [str(record.get("plan")) for record in records if isinstance(record, dict)]


def _require_same_bytes(root: str, recipe: Recipe, plan: Plan, artifacts: dict[str, Any]) -> None:
    """Check that a build made today has the fingerprint of the splits that are there."""
    steps, sink = chain.build_steps(recipe, artifacts), chain.build_sink(recipe, artifacts)
    wanted, found = chain.job_fingerprint(plan.fingerprint, steps, sink), _built_with(root, plan)
    if found and wanted not in found:
        raise RepairFailed(
            f"{root} was built with fingerprint {found[0]}, its plan, recipe and artifacts give {wanted} in this "
            "version of interloom; repair it with the version that built it, and with the manifest and the recipe "
            "that it was made from where its plan is damaged"
        )


def _promised(root: str, split: int, findings: Iterable[Finding]) -> Promise:
    """Return what a split's commit record says, if nothing is wrong with the record itself."""
    path = names_of(split)[0]
    if any(finding.path == path for finding in findings):
        return None
    record = read_json(join(root, path))
    return {name: record[name] for name in PROMISED} if isinstance(record, dict) else None


def _require_promised(root: str, promised: Mapping[int, Promise]) -> None:
    """Check that what was built again is what was there before, as far as that is known."""
    for split, before in promised.items():
        now = read_json(commit_path(root, split))
        if before and isinstance(now, dict) and _is_other(before, now):
            raise RepairFailed(
                f"{root}: split {split} was built again to other bytes than before: its sources changed; the earlier "
                f"files lie in {ASIDE}; restore them from a copy, or delete that folder to keep the new ones"
            )


def _is_other(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Compare the files of two commit records; those of before say nothing after a removal or another plan."""
    removed, then = (record["reasons"].get(Reason.REMOVED.value, 0) for record in (now, before))
    void = removed > then or before["plan"] != now["plan"]
    return not void and bool(before["files"] != now["files"])


def _files_of(splits: Iterable[int], findings: Iterable[Finding]) -> list[str]:
    """Return what is set aside: commit records first, then the other files of their splits, then strays."""
    names = [names_of(split) for split in splits]
    records, files = [of[0] for of in names], [name for of in names for name in of[1:]]
    strays = [f.path for f in findings if f.problem in (Problem.UNPLANNED, Problem.UNNAMED)]
    return [*records, *files, *sorted(strays, key=lambda path: not path.endswith(".commit.json"))]
