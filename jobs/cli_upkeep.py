"""Commands that look after a dataset: check, mend, take down, look inside."""

from typing import Any

import click

from jobs.console import make_console
from jobs.options import (
    audio_root_of,
    command,
    engine_options,
    rooted,
    run_settings,
)


@click.command()
@click.argument("dataset")
@command
def validate(dataset: str) -> None:
    """Hash every file of a dataset against its commit records and parse every record.

    \b
    Example:
      interloom validate out
    """
    from pipeline.verify import verify

    found = verify(rooted(dataset))
    make_console().print(f"{dataset}: {found.files:,} files and {found.records:,} records are sound")


@click.command()
@click.argument("dataset")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Splits looked at at once.")
@command
def verify(dataset: str, as_json: bool, workers: int) -> None:
    """Hash and parse everything and name each bad file with what is wrong with it; exit code 1 if there is any.

    \b
    Examples:
      interloom verify out
      interloom verify out --workers 8 --json
    """
    from jobs.maintain import verify_step

    raise SystemExit(verify_step(make_console(), rooted(dataset), as_json, workers))


@click.command()
@click.option("--manifest", default=None, help="Where the plan is damaged: the manifest that it was made from.")
@click.option("--audio-root", default=None, help="Where relative audio paths start, if not where the plan says.")
@click.option("--recipe", default=None, help="Where recipe.yaml is damaged too: the recipe.")
@click.argument("dataset")
@engine_options
@command
def repair(dataset: str, manifest: str | None, audio_root: str | None, recipe: str | None, **engine: Any) -> None:
    """Build again what `verify` finds damaged, to the same bytes; the sources must still be there.

    \b
    Examples:
      interloom repair out
      interloom repair out --manifest manifest.jsonl
      interloom repair out --audio-root /mnt/moved
    """
    from jobs.maintain import repair_step

    settings = run_settings(dataset, **engine)
    raise SystemExit(repair_step(make_console(), settings, manifest, audio_root_of(audio_root), recipe))


@click.command()
@click.argument("dataset")
@click.option("--ids", default=None, metavar="FILE", help="Manifest ids, one per line.")
@click.option("--recordings", default=None, metavar="FILE", help="Names of whole recordings, one per line.")
@click.option("--reason", default="", help="Kept in removed.jsonl; name a ticket, not a person.")
@click.option("--missing-ok", is_flag=True, help="Exit with 0 though some names are in no row.")
@command
def remove(dataset: str, ids: str | None, recordings: str | None, reason: str, missing_ok: bool) -> None:
    """Take utterances out of a finished dataset and keep them out of rebuilds; only their shards are rewritten.

    \b
    Examples:
      interloom remove out --ids ids.txt --reason "ticket 4711"
      interloom remove out --recordings recordings.txt
    """
    from jobs.maintain import remove_step

    if ids is None and recordings is None:
        raise click.UsageError("give --ids or --recordings")
    raise SystemExit(remove_step(make_console(), rooted(dataset), ids, recordings, reason, missing_ok))


@click.command()
@click.argument("dataset")
@click.argument("key", required=False)
@click.option("--epoch", default=0, show_default=True)
@command
def inspect(dataset: str, key: str | None, epoch: int) -> None:
    """Show one record: words, times, units and the sequence drawn from it. KEY may be a key or an id.

    \b
    Examples:
      interloom inspect out
      interloom inspect out story01-003
    """
    from jobs.steps import inspect_step

    inspect_step(make_console(), rooted(dataset), key, epoch)


@click.command()
@click.argument("folder")
@click.option(
    "--watch",
    is_flag=False,
    flag_value=5.0,
    default=None,
    type=click.FloatRange(0.1),
    metavar="[SECONDS]",
    help="Look again every so often (5 s) until the dataset is finished.",
)
@click.option(
    "--prometheus", default=None, metavar="FILE", help="Write metrics for node_exporter's textfile collector."
)
@click.option("--summary", is_flag=True, help="Print a block of text for a ticket.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
@click.option("--all", "everything", is_flag=True, help="Read every commit record, whatever it costs.")
@command
def status(
    folder: str, watch: float | None, prometheus: str | None, summary: bool, as_json: bool, everything: bool
) -> None:
    """Show how far a build is: what is done from its commit records, costs and failures from work/.

    \b
    Examples:
      interloom status out
      interloom status out --watch
      interloom status out --watch 60 --prometheus /var/lib/node_exporter/interloom.prom
      interloom status out --summary
    """
    from jobs.status import Wanted, status_step

    if watch is not None and (summary or as_json):
        raise click.UsageError("--watch does not go with --summary or --json")
    wanted = Wanted(watch=watch, prometheus=prometheus, summary=summary, as_json=as_json, everything=everything)
    status_step(make_console(), rooted(folder), wanted)
