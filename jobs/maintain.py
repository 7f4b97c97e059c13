"""The steps behind `remove`, `verify` and `repair`: what a person is told, and the exit code."""

import json
from pathlib import Path

import click
from rich.console import Console

from jobs.console import progress_bar
from jobs.options import EXIT_FAILED
from jobs.terminal import one_safe_line
from pipeline.build import RunSettings
from pipeline.recipes import load_recipe
from pipeline.removal_checks import RemoveFailed
from pipeline.remove import Takedown, remove
from pipeline.repair import Sources, repair
from pipeline.repair_checks import RepairFailed
from pipeline.set_aside import ASIDE
from pipeline.verify import as_json, bad_files, examine

SHOWN = 20


def remove_step(
    console: Console, dataset: str, ids: str | None, recordings: str | None, reason: str, missing_ok: bool
) -> int:
    """Remove what the files name; 1 where a name is in no row."""
    try:
        with progress_bar(console, "remove") as progress:
            done = remove(dataset, progress, ids=_names(ids), recordings=_names(recordings), reason=reason)
    except RemoveFailed as error:
        return _failed(error)
    _tell(console, dataset, done)
    for name in done.missing[:SHOWN]:
        console.print(f"not in the plan: {name!r}", markup=False)
    if len(done.missing) > SHOWN:
        console.print(f"and {len(done.missing) - SHOWN:,} more that are not in the plan")
    return EXIT_FAILED if done.missing and not missing_ok else 0


def _tell(console: Console, dataset: str, done: Takedown) -> None:
    console.print(
        f"{dataset}: {done.rows:,} rows removed, {done.already:,} names had been removed before, "
        f"{len(done.splits):,} splits written anew, {len(done.missing):,} names are in no row",
        markup=False,
    )
    if not done.splits:
        return
    if done.fitted:
        console.print(f"not fitted again, though the removed audio may be in them: {', '.join(done.fitted)}")
    console.print(
        f'bakes of this dataset ("dataset": "{done.fingerprint}" in their baked.json) still hold what was removed: '
        "bake them again"
    )
    console.print("report.html was deleted: `interloom audit` makes it again. The manifest, the sources, plan/,")
    console.print("transcripts/ and work/ are not touched: see docs/takedown.md")


def _names(path: str | None) -> list[str]:
    """Return the lines of a file, without empty ones; a name may hold spaces."""
    if path is None:
        return []
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; write one id per line") from None
    return [name for line in lines if (name := line.removesuffix("\r"))]


def verify_step(console: Console, dataset: str, as_data: bool, workers: int) -> int:
    """Print each bad file with what is wrong; 1 where there is any."""
    if as_data:
        found = examine(dataset, workers=workers)
        click.echo(json.dumps(as_json(dataset, found), indent=2, sort_keys=True))
        return EXIT_FAILED if found.findings else 0
    with progress_bar(console, "verify") as progress:
        found = examine(dataset, workers=workers, progress=progress)
    for finding in found.findings:
        console.print(ascii(str(finding))[1:-1], markup=False, soft_wrap=True)
    plan = "" if found.planned else "; this copy has no plan to compare with"
    if not found.findings:
        console.print(f"{dataset}: {found.files:,} files and {found.records:,} records are sound{plan}", markup=False)
        return 0
    console.print(
        f"{dataset}: {len(bad_files(found.findings)):,} of {found.files:,} files are bad{plan}; "
        f"`interloom repair {dataset}` redoes what can be made again",
        markup=False,
        soft_wrap=True,
    )
    return EXIT_FAILED


def repair_step(
    console: Console, settings: RunSettings, manifest: str | None, audio_root: str | None, recipe: str | None
) -> int:
    """Redo what verify finds; 1 where that is impossible."""
    sources = Sources(manifest=manifest, audio_root=audio_root, recipe=load_recipe(recipe, ()) if recipe else None)
    try:
        with progress_bar(console, "repair") as progress:
            done = repair(settings, progress, sources, workers=settings.engine.workers)
    except RepairFailed as error:
        return _failed(error)
    if done.base:
        console.print(f"{settings.out}: {done.base}", markup=False, soft_wrap=True)
    if not done.before:
        console.print(f"{settings.out}: nothing to repair", markup=False)
        return 0
    console.print(
        f"{settings.out}: {len(bad_files(done.before)):,} bad files repaired, {len(done.splits):,} splits built again",
        markup=False,
    )
    if done.aside:
        console.print(f"what was there lies in {settings.out}/{ASIDE} and may be deleted", markup=False)
    return 0


def _failed(error: Exception) -> int:
    click.echo(f"interloom: {one_safe_line(str(error))}", err=True)
    return EXIT_FAILED
