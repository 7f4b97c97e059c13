"""The `interloom` command."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from jobs.cli_reading import bake, mixture, policy, score, train
from jobs.cli_upkeep import inspect, remove, repair, status, validate, verify
from jobs.console import make_console
from jobs.options import (
    audio_root_of,
    command,
    engine_options,
    log_option,
    manifest_option,
    memory_option,
    out_option,
    recipe_argument,
    record_seconds_option,
    require_device,
    rooted,
    run_settings,
)
from pipeline.recipes import load_recipe, recipe_names, recipe_yaml
from pipeline.umask import keep_world_from_writing
from schemas.recipe import Recipe
from schemas.urls import public_url


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="interloom")
def main() -> None:
    """Build aligned speech-text datasets for speech-text language models.

    \b
    First steps:
      interloom demo                                  the whole path on the bundled corpus
      interloom run embedded --manifest M --out DIR   your own corpus
    """
    keep_world_from_writing()


@main.command()
@recipe_argument
@manifest_option
@out_option
@engine_options
@command
def run(recipe: str, overrides: Sequence[str], manifest: str, audio_root: str | None, out: str, **engine: Any) -> None:
    """Plan, fit, build and audit in one go; run it again to resume.

    \b
    Examples:
      interloom run embedded --manifest examples/corpus/manifest.jsonl --out out
      interloom run embedded --manifest M --out out --set units.clusters=200 --workers 8
      interloom run embedded --manifest M --out out --engine beam -- --runner=FlinkRunner --flink_master=HOST:8081
      interloom run embedded --manifest M --out out --engine ray -- --address=auto
    """
    from jobs.steps import whole_run

    loaded, settings = load_recipe(recipe, overrides), run_settings(out, **engine)
    raise SystemExit(whole_run(make_console(), loaded, manifest, settings, audio_root_of(audio_root)))


@main.command()
@recipe_argument
@manifest_option
@out_option
@click.option("--estimate", is_flag=True, help="Measure a sample and print what the build will cost.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Estimate for so many.  [default: CPU cores]")
@click.option(
    "--sample-minutes",
    type=click.FloatRange(0.1),
    default=10.0,
    show_default=True,
    help="Audio that the estimate measures.",
)
@click.option("--device", default="auto", show_default=True, help="For models in the sample: auto, cpu, cuda, cuda:N.")
@record_seconds_option
@memory_option
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
@log_option
@command
def plan(
    recipe: str,
    overrides: Sequence[str],
    manifest: str,
    audio_root: str | None,
    out: str,
    estimate: bool,
    workers: int | None,
    sample_minutes: float,
    device: str,
    record_seconds: float,
    memory_gb: float,
    as_json: bool,
) -> None:
    """Cut a manifest into splits: one split makes one shard.

    \b
    Examples:
      interloom plan embedded --manifest manifest.jsonl --out out
      interloom plan embedded --manifest manifest.jsonl --out out --estimate --workers 64
    """
    import os

    from rich.console import Console

    from jobs.estimate import estimate_step
    from jobs.steps import plan_step
    from pipeline.job import Limits

    if not estimate and (as_json or workers is not None):
        raise click.UsageError("--json and --workers go with --estimate")
    loaded, folder = load_recipe(recipe, overrides), rooted(out)
    console = Console(stderr=True, soft_wrap=True) if as_json else make_console()
    plan_step(console, loaded, manifest, folder, audio_root_of(audio_root))
    if estimate:
        require_device(device, "local")
        estimate_step(
            console,
            loaded,
            folder,
            workers=workers or os.cpu_count() or 1,
            minutes=sample_minutes,
            limits=Limits(device=device, record_seconds=record_seconds, max_rss_bytes=int(memory_gb * 2**30)),
            as_json=as_json,
        )


@main.command()
@recipe_argument
@manifest_option
@out_option
@engine_options
@command
def transcribe(
    recipe: str, overrides: Sequence[str], manifest: str, audio_root: str | None, out: str, **engine: Any
) -> None:
    """Transcribe the rows that have no text; `run` does it too where the recipe has a transcribe section.

    Writes OUT/transcripts/manifest.jsonl, in which the segments of a recording are its utterances.

    \b
    Example:
      interloom transcribe mine.yaml --set transcribe.checkpoint=models/whisper-large-v3-ct2 --manifest M --out out
    """
    from jobs.console import print_next
    from jobs.steps import transcribe_step

    console, loaded = make_console(), load_recipe(recipe, overrides)
    transcribe_step(console, loaded, manifest, run_settings(out, **engine), audio_root_of(audio_root))
    told = "".join(f" --set {override}" for override in overrides)
    root = "" if audio_root is None else f" --audio-root {public_url(audio_root)}"
    print_next(console, f"interloom run {recipe}{told} --manifest {public_url(manifest)}{root} --out {public_url(out)}")


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
@recipe_argument
@click.option("--device", default="auto", show_default=True, help="For models: auto, cpu, cuda or cuda:N.")
@command
def doctor(recipe: str, overrides: Sequence[str], device: str) -> None:
    """Say which files and packages a recipe needs, which are missing, damaged or non-commercial, and what runs where.

    \b
    Examples:
      interloom doctor embedded
      interloom doctor spiritlm_base --set units.checkpoint=/models/mhubert-base-25hz
    """
    from jobs.steps import doctor_step

    require_device(device, "local")
    raise SystemExit(doctor_step(make_console(), load_recipe(recipe, overrides), device))


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


for _command in (policy, mixture, train, score, bake, validate, verify, repair, remove, inspect, status):
    main.add_command(_command)

main.epilog = f"Bundled recipes: {', '.join(recipe_names())}."

if __name__ == "__main__":
    sys.exit(main())
