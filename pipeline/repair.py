"""Repair a dataset: redo exactly what verify found, with the build's own driver, to the same bytes.

Damaged files are not deleted but set aside in `work/damaged/`, commit records first, so that a crash leaves splits that
do not count; running `repair` again, or a build, goes on from there. Before anything is touched it is made sure that
the same bytes can come out: the sources are there, and this version of the software has the dataset's fingerprint.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipeline.build import RunSettings, build_job, make_plan, run_build, run_fit
from pipeline.commit import commit_path
from pipeline.dataset import BadDataset
from pipeline.drive import Progress
from pipeline.findings import Finding, Problem
from pipeline.fit import load_artifacts, models_of
from pipeline.folder_lock import locked
from pipeline.inside import is_inside
from pipeline.models import pin
from pipeline.plan import Plan, load_rows
from pipeline.remove import unfinished
from pipeline.split_files import exists, read_rejects, sha256_of, shard_names
from pipeline.storage import is_remote, join, make_dirs, read_json, remove_folder
from pipeline.verify import examine
from pipeline.verify_plan import PLAN, RECIPE, ROWS_FILE, read_recipe, sound_plan
from schemas.recipe import Recipe
from schemas.records import Utterance
from schemas.rejects import Reason
from schemas.urls import public_url

ASIDE = "work/damaged"
LISTING = "artifacts/artifacts.json"


class RepairFailed(RuntimeError):
    """What is damaged cannot be made again; the message says what is missing. Nothing that was sound is touched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a plan can be made from again, where it is damaged.

    Attributes:
        manifest: the manifest that the dataset was made from.
        audio_root: where its relative paths start; None: at the manifest's folder.
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
    """

    before: tuple[Finding, ...]
    splits: tuple[int, ...]
    aside: tuple[str, ...]


def repair(settings: RunSettings, progress: Progress, sources: Sources | None = None, *, workers: int = 1) -> Repaired:
    """Verify the dataset in `settings.out` and redo what is damaged.

    Raises:
        BadDataset: if the folder holds neither a dataset nor a plan.
        RepairFailed: if it cannot be repaired.
        RunFailed: if splits could not be built; see `pipeline.drive.drive`.
    """
    root = settings.out
    found = examine(root, workers=workers)
    if not found.findings:
        return Repaired(before=(), splits=(), aside=())
    if unfinished(root) or any(finding.problem is Problem.REMOVED for finding in found.findings):
        raise RepairFailed(f"{root}: a removal is not finished; run `interloom remove` with the same ids first")
    bad = {finding.path for finding in found.findings}
    if "removed.jsonl" in bad:
        raise RepairFailed(f"{root}/removed.jsonl: nothing vouches for what it should hold; restore it from a copy")
    aside = _mend_plan(root, bad, sources or Sources())
    recipe, plan = read_recipe(root), sound_plan(root)
    if recipe is None or plan is None:
        raise RepairFailed(f"{root} holds no plan and no recipe, so nothing can be built again; copy what is damaged")
    aside += _mend_artifacts(root, bad, recipe, settings, progress)
    splits = sorted({finding.split for finding in found.findings if finding.split is not None})
    promised = {split: _promised(root, split, found.findings) for split in splits}
    artifacts = _artifacts(root, recipe)
    _require_same_bytes(root, recipe, plan, artifacts, settings)
    _require_sources(root, plan, splits)
    with locked(root):
        aside += _set_aside(root, _files_of(splits, found.findings))
    run_build(recipe, artifacts, settings, progress)
    _require_promised(root, promised)
    left = examine(root, only=splits).findings
    if left:
        raise RepairFailed(f"{root}: still wrong after the repair: {left[0]}")
    return Repaired(before=found.findings, splits=tuple(splits), aside=tuple(aside))


def _mend_plan(root: str, bad: set[str], sources: Sources) -> list[str]:
    """Plan again where the plan or the recipe is damaged; return what was set aside."""
    broken = sorted(bad & {PLAN, ROWS_FILE, RECIPE})
    if not broken:
        return []
    recipe = sources.recipe or (None if RECIPE in bad else read_recipe(root))
    if sources.manifest is None or recipe is None:
        wanted = "--manifest" if recipe is not None else "--recipe and --manifest"
        raise RepairFailed(f"{root}/{broken[0]} is damaged: give {wanted} that the dataset was made from")
    info = read_json(join(root, "dataset.json"))
    with locked(root):
        aside = _set_aside(root, [PLAN, ROWS_FILE, RECIPE])
    try:
        plan = make_plan(sources.manifest, recipe, root, sources.audio_root)
        if isinstance(info, dict) and "dataset.json" not in bad and info.get("plan") != plan.fingerprint:
            raise RepairFailed(f"{sources.manifest} holds other rows than {root} was made from; nothing was repaired")
    except BaseException:
        _put_back(root, aside)
        raise
    return aside


def _mend_artifacts(root: str, bad: set[str], recipe: Recipe, settings: RunSettings, progress: Progress) -> list[str]:
    """Fit again where artifacts are damaged, and check that the same came out."""
    broken = sorted(path for path in bad if path.startswith("artifacts/"))
    if not broken:
        return []
    holder = "dataset.json" if "dataset.json" not in bad else LISTING
    said = (read_json(join(root, holder)) or {}).get("artifacts") or {}
    with locked(root):
        paths = {entry["path"] for entry in said.values() if is_inside(entry["path"])}
        own = sorted(path for path in paths if path.startswith("artifacts/"))
        aside = _set_aside(root, [LISTING, *own])
    try:
        fitted = run_fit(recipe, settings, progress)
        if wrong := sorted(n for n, e in said.items() if n in fitted and fitted[n].sha256 != e["sha256"]):
            raise RepairFailed(
                f"{root}/artifacts: fitting gives another {', '.join(wrong)} than the dataset was built with (sources "
                f"are gone or changed, or rows were removed since); restore {', '.join(broken)} from a copy"
            )
    except BaseException:
        _put_back(root, aside)
        remove_folder(join(root, "fit"))  # what was extracted from sources that may be incomplete
        raise
    return [name for name in aside if name in broken]


def _artifacts(root: str, recipe: Recipe) -> dict[str, Any]:
    loaded = load_artifacts(root)
    if loaded is None:
        raise RepairFailed(f"{root}/{LISTING} is missing or damaged; run `interloom fit --out {root}`")
    return loaded[1] | models_of(recipe, pin(recipe))


def _require_same_bytes(
    root: str, recipe: Recipe, plan: Plan, artifacts: dict[str, Any], settings: RunSettings
) -> None:
    """Check that a build made today has the fingerprint of the splits that are there."""
    wanted = build_job(recipe, plan, artifacts, settings).fingerprint
    records = (read_json(commit_path(root, split)) for split in range(len(plan.inputs)))
    found = [str(record.get("plan")) for record in records if isinstance(record, dict)]
    if found and wanted not in found:
        raise RepairFailed(
            f"{root} was built with fingerprint {found[0]}, its plan, recipe and artifacts give {wanted} in this "
            "version of interloom; repair it with the version that built it"
        )


def _require_sources(root: str, plan: Plan, splits: Sequence[int]) -> None:
    """Check that the audio of the splits is still there, except where it was not there before either.

    Raises:
        RepairFailed: naming the first file that is gone.
    """
    for split in splits:
        lost = _lost_before(root, split)
        rows = [row for row in load_rows(plan.rows_path, split, plan.base) if isinstance(row, Utterance)]
        gone = sorted({row.location for row in rows if row.key not in lost} - _present(rows))
        if gone:
            raise RepairFailed(
                f"split {split} of {root} cannot be built again: {len(gone)} of its audio files are gone, the first is "
                f"{public_url(gone[0])}; restore them, or copy the split's files from elsewhere"
            )


def _present(rows: Iterable[Utterance]) -> set[str]:
    locations = {row.location for row in rows}
    return {location for location in locations if _exists(location)}


def _exists(location: str) -> bool:
    return exists(location) if is_remote(location) else Path(location).exists()


def _lost_before(root: str, split: int) -> set[str]:
    """Return the keys that were rejected for want of their audio; none where the rejects cannot be trusted."""
    record = read_json(commit_path(root, split))
    path = join(root, "shards", shard_names(split)["rejects"])
    try:
        if not isinstance(record, dict) or record["files"][shard_names(split)["rejects"]]["sha256"] != sha256_of(path):
            return set()
        return {reject["key"] for reject in read_rejects(path) if reject["reason"] == Reason.MISSING_AUDIO.value}
    except (BadDataset, KeyError, TypeError):
        return set()


def _promised(root: str, split: int, findings: Iterable[Finding]) -> dict[str, Any] | None:
    """Return the files that a split's commit record names, if nothing is wrong with the record itself."""
    path = f"shards/shard-{split:06d}.commit.json"
    if any(finding.path == path for finding in findings):
        return None
    record = read_json(join(root, path))
    return dict(record["files"]) if isinstance(record, dict) else None


def _require_promised(root: str, promised: dict[int, dict[str, Any] | None]) -> None:
    """Check that what was built again is what was there before, as far as that is known."""
    other = [
        split
        for split, files in promised.items()
        if files is not None and (read_json(commit_path(root, split)) or {}).get("files") != files
    ]
    if other:
        raise RepairFailed(
            f"{root}: split {other[0]} was built again to other bytes than before: its sources changed; "
            f"the earlier files lie in {ASIDE}"
        )


def _files_of(splits: Iterable[int], findings: Iterable[Finding]) -> list[str]:
    """Return what is set aside: commit records first, then the other files of their splits, then strays."""
    splits = list(splits)
    records = [f"shards/shard-{split:06d}.commit.json" for split in splits]
    files = [f"shards/{name}" for split in splits for name in shard_names(split).values()]
    strays = [f.path for f in findings if f.problem in (Problem.UNPLANNED, Problem.UNNAMED)]
    return [*records, *files, *sorted(strays, key=lambda path: not path.endswith(".commit.json"))]


def _set_aside(root: str, names: Iterable[str]) -> list[str]:
    """Move files to `work/damaged/`; what lies there from an earlier repair is replaced."""
    filesystem, key = fsspec.core.url_to_fs(root)
    moved = []
    for name in names:
        source, target = f"{key}/{name}", f"{key}/{ASIDE}/{name}"
        if not filesystem.exists(source):
            continue
        make_dirs(join(root, ASIDE, name).rsplit("/", 1)[0])
        filesystem.mv(source, target, recursive=filesystem.isdir(source))
        moved.append(name)
    return moved


def _put_back(root: str, names: Iterable[str]) -> None:
    """Undo `_set_aside`."""
    filesystem, key = fsspec.core.url_to_fs(root)
    for name in names:
        source, target = f"{key}/{ASIDE}/{name}", f"{key}/{name}"
        if filesystem.exists(target):
            filesystem.rm(target, recursive=True)
        filesystem.mv(source, target, recursive=filesystem.isdir(source))
