"""`interloom plan --estimate`: what a build of the plan will cost, as a table or as JSON."""

import json

import click
from rich.console import Console
from rich.table import Table

from jobs.amounts import duration, size
from jobs.console import progress_bar
from jobs.estimate_errors import keep
from pipeline.build import planned
from pipeline.estimate import Estimate, estimate
from pipeline.job import Limits
from schemas.recipe import Recipe


def estimate_step(
    console: Console, recipe: Recipe, out: str, *, workers: int, minutes: float, limits: Limits, as_json: bool
) -> None:
    """Measure a sample of a planned folder, print what the build will cost, and keep it for `status --summary`."""
    quiet = Console(stderr=True, soft_wrap=True) if as_json else console
    with progress_bar(quiet, "sample") as progress:
        found = estimate(planned(out), recipe, workers=workers, limits=limits, seconds=minutes * 60, progress=progress)
    keep(out, found.to_json())
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, sort_keys=True))
        return
    console.print(table_of(found))
    console.print(
        "Measured on this machine as busy as it is now; hours of other machines differ. Requests are those of an "
        "object store, without those that read audio.",
        markup=False,
    )


def table_of(found: Estimate) -> Table:
    """Return the figures as a table of two columns."""
    error = "" if found.relative_error is None else f", +-{found.relative_error:.0%} by the spread of the sample"
    requests = ", ".join(f"{count:,} {kind}" for kind, count in found.requests.items())
    table = Table(title="Estimate", title_justify="left", show_header=False)
    about = "" if found.lengths_known else "about "
    table.add_row("audio", f"{about}{found.audio_hours:,.3f} h in {found.rows:,} rows and {found.splits:,} splits")
    if not found.lengths_known:
        table.add_row("", "carried over from the sample: rows come without `duration`, and no header states it")
    table.add_row("measured on", f"{found.sample_audio_seconds:,.0f} s of it")
    table.add_row("records", f"about {found.records:,}")
    table.add_row("CPU, build", f"{found.cpu_hours:,.3f} h{error}")
    for stage, hours in found.cpu_hours_by_stage.items():
        table.add_row(f"  {stage}", f"{hours:,.4f} h")
    table.add_row("CPU, fit", f"{found.fit_cpu_hours:,.3f} h")
    table.add_row("GPU", f"{found.gpu_hours:,.3f} h" if found.gpu_hours else "none")
    table.add_row(f"wall, {found.workers:,} workers", duration(found.wall_hours * 3600))
    table.add_row("storage", size(found.bytes))
    table.add_row("  without audio", size(found.bytes_without_audio))
    table.add_row("objects", f"{found.objects:,}")
    table.add_row("requests", f"{requests}; polling {found.polling:,} LIST")
    return table
