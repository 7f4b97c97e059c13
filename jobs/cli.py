"""The `interloom` command."""

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from jobs.console import make_console
from pipeline.drive import EngineSettings, FolderInUse, RunFailed
from pipeline.engines import ENGINES
from pipeline.recipes import load_recipe, recipe_names, recipe_yaml
from schemas.recipe import Recipe

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def errors() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return the exceptions that end in exit code 1 and in exit code 2; each message is one clear line.

    The second group takes in what a user's paths, values and missing extras raise (most of our errors are ValueErrors).
    """
    from pipeline.bake import BakeExists
    from pipeline.build import PlanError
    from pipeline.commit import CommitConflict
    from pipeline.finish import LedgerError
    from pipeline.fit import FitError
    from pipeline.verify import VerifyFailed

    failed = (RunFailed, LedgerError, CommitConflict, FolderInUse, FitError, VerifyFailed)
    return failed, (BakeExists, PlanError, ValueError, OSError, ImportError)


def storage_errors() -> tuple[type[Exception], ...]:
    """Return what S3's client raises of its own, such as missing credentials, if it was loaded."""
    loaded = sys.modules.get("botocore.exceptions")
    return (loaded.BotoCoreError,) if loaded is not None else ()


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line and an exit code; INTERLOOM_DEBUG=1 shows the traceback of what is not documented."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        failed, usage = errors()
        try:
            return function(*args, **kwargs)
        except failed as error:
            click.echo(f"interloom: {error}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except usage as error:
            if os.environ.get("INTERLOOM_DEBUG"):
                raise
            click.echo(f"interloom: {' '.join(str(error).split())}", err=True)
            raise SystemExit(EXIT_USAGE) from None
        except storage_errors() as error:
            click.echo(f"interloom: the object store: {' '.join(str(error).split())}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            click.echo("interloom: interrupted; run the same command again to go on where it stopped", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None

    return wrapped


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combine click decorators."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def limit(name: str, default: float, text: str) -> Callable[[Any], Any]:
    """Return an option for a limit of the run."""
    return click.option(name, type=click.FloatRange(0.1, 1e9), default=default, show_default=True, help=text)


recipe_argument = options(
    click.argument("recipe"),
    click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a recipe key; may be repeated."),
)
manifest_option = click.option(
    "--manifest", required=True, help="JSON Lines, CSV / TSV with a header, or a LibriSpeech-style folder."
)
out_option = click.option("--out", required=True, help="Dataset folder; the same folder again resumes.")
engine_options = options(
    click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True),
    click.option("--workers", type=click.IntRange(1), default=None, help="Splits at once.  [default: CPU cores]"),
    click.option(
        "--stall-seconds",
        type=click.FloatRange(1.0),
        default=1800.0,
        show_default=True,
        help="Restart an engine that stands still.",
    ),
    click.option(
        "--record-seconds",
        type=click.FloatRange(0.1),
        default=120.0,
        show_default=True,
        help="Time limit for one record.",
    ),
    click.option(
        "--memory-gb",
        type=click.FloatRange(0.5, 4096),
        default=6.0,
        show_default=True,
        help="Memory limit of one worker.",
    ),
    click.argument("engine_args", nargs=-1, type=click.UNPROCESSED),
)


def run_settings(
    out: str,
    engine: Any,
    workers: int | None,
    stall_seconds: float,
    record_seconds: float,
    memory_gb: float,
    engine_args: Sequence[str],
) -> Any:
    from pipeline.build import RunSettings
    from pipeline.job import Limits

    if engine == "ray":
        from pipeline.engines.on_ray import parse_options

        parse_options(engine_args)  # a mistake shows at once, not in the engine's log
    chosen = EngineSettings(
        engine=engine,
        workers=workers or os.cpu_count() or 1,
        options=tuple(engine_args),
        stall_seconds=stall_seconds,
    )
    limits = Limits(record_seconds=record_seconds, max_rss_bytes=int(memory_gb * 2**30))
    return RunSettings(out=rooted(out), engine=chosen, limits=limits)


def rooted(path: str) -> str:
    """Return an absolute local path, or the URL of an object store.

    Raises:
        ValueError: for a chained URL, or a path that is a file.
    """
    path = path.removeprefix("file://")
    if "::" in path:
        raise ValueError(f"{path}: a folder's name must not hold '::'")
    if "://" in path:
        return path.rstrip("/")
    if Path(path).is_file():
        raise ValueError(f"{path} is a file, a folder is needed")
    return str(Path(path).absolute())


def reading_recipe_of(dataset: str, overrides: Sequence[str]) -> Recipe:
    """Return a finished dataset's recipe, with overrides of its reading-time sections."""
    from pipeline.dataset import Dataset
    from pipeline.recipes import reading_recipe

    return reading_recipe(Dataset.open(rooted(dataset)).recipe, overrides)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="interloom")
def main() -> None:
    """Build aligned speech-text datasets for speech-text language models.

    \b
    First steps:
      interloom demo                                  the whole path on the bundled corpus
      interloom run embedded --manifest M --out DIR   your own corpus
    """


@main.command()
@recipe_argument
@manifest_option
@out_option
@engine_options
@command
def run(recipe: str, overrides: Sequence[str], manifest: str, out: str, **engine: Any) -> None:
    """Plan, fit, build and audit in one go; run it again to resume.

    \b
    Examples:
      interloom run embedded --manifest examples/corpus/manifest.jsonl --out out
      interloom run embedded --manifest M --out out --set units.clusters=200 --workers 8
      interloom run embedded --manifest M --out out --engine beam -- --runner=FlinkRunner --flink_master=HOST:8081
      interloom run embedded --manifest M --out out --engine ray -- --address=auto
    """
    from jobs.steps import whole_run

    raise SystemExit(whole_run(make_console(), load_recipe(recipe, overrides), manifest, run_settings(out, **engine)))


@main.command()
@recipe_argument
@manifest_option
@out_option
@command
def plan(recipe: str, overrides: Sequence[str], manifest: str, out: str) -> None:
    """Cut a manifest into splits: one split makes one shard.

    \b
    Example:
      interloom plan embedded --manifest manifest.jsonl --out out
    """
    from jobs.steps import plan_step

    plan_step(make_console(), load_recipe(recipe, overrides), manifest, rooted(out))


@main.command()
@out_option
@engine_options
@command
def fit(out: str, **engine: Any) -> None:
    """Train codebooks and the tokenizer of a planned folder on a sample of it.

    \b
    Example:
      interloom fit --out out --engine ray
    """
    from jobs.steps import fit_step
    from pipeline.build import planned_recipe

    fit_step(make_console(), planned_recipe(rooted(out)), run_settings(out, **engine))


@main.command()
@out_option
@engine_options
@command
def build(out: str, **engine: Any) -> None:
    """Build the shards of a planned and fitted folder.

    \b
    Example:
      interloom build --out out --engine beam --workers 4
    """
    from jobs.steps import build_step
    from pipeline.build import planned_recipe

    raise SystemExit(build_step(make_console(), planned_recipe(rooted(out)), run_settings(out, **engine)))


@main.command()
@click.argument("dataset")
@click.option("--report", default=None, help="Where the HTML goes.  [default: DATASET/report.html]")
@click.option(
    "--examples",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Worst and random utterances to show, each.",
)
@command
def audit(dataset: str, report: str | None, examples: int) -> None:
    """Print what is in a dataset and write a self-contained report.html.

    \b
    Example:
      interloom audit out
    """
    from jobs.steps import audit_step

    audit_step(make_console(), rooted(dataset), report, examples)


@main.command()
@click.argument("dataset")
@click.option("--out", required=True, help="Folder for checkpoints and the log.")
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimiser steps.  [default: the recipe's]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--shuffle-units", is_flag=True, help="Destroy the order of units: a control experiment.")
@click.option(
    "--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence or train section."
)
@command
def train(
    dataset: str,
    out: str,
    steps: int | None,
    device: str,
    seed: int,
    resume: bool,
    shuffle_units: bool,
    overrides: Sequence[str],
) -> None:
    """Train a small Llama-shaped model on a dataset.

    \b
    Example:
      interloom train out --out model --steps 200
    """
    from jobs.steps import train_step

    recipe = reading_recipe_of(dataset, overrides)
    train_step(make_console(), rooted(dataset), out, recipe, steps, device, seed, resume, shuffle_units)


@main.command()
@click.argument("dataset")
@click.option("--out", required=True, help="Folder for the baked shards.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence section.")
@command
def bake(dataset: str, out: str, epochs: int, seed: int, overrides: Sequence[str]) -> None:
    """Freeze the reader's token sequences into plain WebDataset shards.

    \b
    Example:
      interloom bake out --out baked --epochs 3
    """
    from pipeline.bake import bake as bake_dataset

    recipe = reading_recipe_of(dataset, overrides)
    blocks = bake_dataset(rooted(dataset), rooted(out), recipe.sequence, seed=seed, epochs=epochs)
    make_console().print(f"{out}: {blocks:,} blocks of {recipe.sequence.context} tokens")


@main.command()
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


@main.command()
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


@main.command()
@click.argument("folder")
@command
def status(folder: str) -> None:
    """Show how far a build is, from its commit records alone.

    \b
    Example:
      interloom status out
    """
    from jobs.steps import status_step

    status_step(make_console(), rooted(folder))


@main.command()
@click.argument("name")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes instead.")
@command
def recipe(name: str, overrides: Sequence[str], schema: bool) -> None:
    """Check a recipe and print it with every default filled in.

    \b
    Examples:
      interloom recipe embedded
      interloom recipe mine.yaml --set qc.min_score_all=-7
      interloom recipe embedded --schema
    """
    import json

    loaded = load_recipe(name, overrides)
    click.echo(json.dumps(Recipe.model_json_schema(), indent=2) if schema else recipe_yaml(loaded), nl=schema)


@main.command()
@click.option("--out", default="demo", show_default=True)
@engine_options
@command
def demo(out: str, **engine: Any) -> None:
    """Run the whole path on the bundled corpus: shards, report, and a training step.

    \b
    Examples:
      interloom demo
      interloom demo --out demo-ray --engine ray
    """
    from jobs.steps import demo_steps

    raise SystemExit(demo_steps(make_console(), run_settings(out, **engine)))


main.epilog = f"Bundled recipes: {', '.join(recipe_names())}."

if __name__ == "__main__":
    sys.exit(main())
