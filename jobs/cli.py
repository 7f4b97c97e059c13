"""The `interloom` command."""

import sys
from collections.abc import Sequence
from typing import Any

import click

from jobs.console import make_console
from jobs.options import (
    command,
    engine_options,
    manifest_option,
    out_option,
    reading_recipe_of,
    recipe_argument,
    require_device,
    rooted,
    run_settings,
)
from pipeline.recipes import load_recipe, recipe_names, recipe_yaml
from schemas.recipe import Recipe


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
    raise SystemExit(whole_run(make_console(), loaded, manifest, settings, _root(audio_root)))


@main.command()
@recipe_argument
@manifest_option
@out_option
@command
def plan(recipe: str, overrides: Sequence[str], manifest: str, audio_root: str | None, out: str) -> None:
    """Cut a manifest into splits: one split makes one shard.

    \b
    Example:
      interloom plan embedded --manifest manifest.jsonl --out out
    """
    from jobs.steps import plan_step

    plan_step(make_console(), load_recipe(recipe, overrides), manifest, rooted(out), _root(audio_root))


def _root(audio_root: str | None) -> str | None:
    return None if audio_root is None else rooted(audio_root)


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
    transcribe_step(console, loaded, manifest, run_settings(out, **engine), _root(audio_root))
    told = "".join(f" --set {override}" for override in overrides)
    root = "" if audio_root is None else f" --audio-root {audio_root}"
    print_next(console, f"interloom run {recipe}{told} --manifest {manifest}{root} --out {out}")


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
@click.argument("policy", required=False)
@click.option("--dataset", required=True, help="A finished dataset folder.")
@click.option("--documents", type=click.IntRange(1), default=1000, show_default=True, help="Most documents to draw.")
@click.option("--seed", type=click.IntRange(0), default=None, help="Of the draws.  [default: the recipe's]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence section.")
@command
def policy(
    policy: str | None, dataset: str, documents: int, seed: int | None, as_json: bool, overrides: Sequence[str]
) -> None:
    """Show what a policy of interleaving comes to on a dataset: span lengths, speech share, switches, tokens.

    POLICY is the name of one; left out, it is the policy of the dataset's recipe.

    \b
    Examples:
      interloom policy --dataset out
      interloom policy poisson --dataset out --set sequence.policy.speech_share=0.5
      interloom policy asr --dataset out --set sequence.silence=cap --json
    """
    from jobs.policy import policy_step

    policy_step(make_console(), rooted(dataset), policy, overrides, documents=documents, seed=seed, as_json=as_json)


@main.command()
@click.argument("mixture")
@click.option("--tokens", required=True, metavar="N", help="Length of the run: 250000, 1e9, 5M, 100B.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampled draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence section.")
@command
def mixture(mixture: str, tokens: str, seed: int, as_json: bool, overrides: Sequence[str]) -> None:
    """Show how many epochs of each source a mixture reads over a run.

    MIXTURE is a YAML list of sources; docs/reading.md shows one.

    \b
    Examples:
      interloom mixture mixture.yaml --tokens 100B
      interloom mixture mixture.yaml --tokens 1e9 --set sequence.stream=base --json
    """
    from jobs.mixture import mixture_step

    mixture_step(make_console(), mixture, tokens, overrides, seed=seed, as_json=as_json)


@main.command()
@click.argument("dataset")
@click.option("--out", required=True, help="Folder for checkpoints and the log.")
@click.option("--steps", type=click.IntRange(1), default=None, help="Optimiser steps.  [default: the recipe's]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option(
    "--mixture", default=None, metavar="FILE", help="A YAML list of sources to read instead of DATASET alone."
)
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
    mixture: str | None,
    shuffle_units: bool,
    overrides: Sequence[str],
) -> None:
    """Train a Llama-shaped model on a dataset, new or given; torchrun starts it in several processes.

    \b
    Examples:
      interloom train out --out model --steps 200
      interloom train out --out model --resume --set train.schedule=cosine
      interloom train out --out model --set train.model=/models/llama --mixture mixture.yaml
      torchrun --nproc-per-node 8 $(which interloom) train out --out model --set train.parallel=fsdp2
    """
    from jobs.steps import train_step

    recipe = reading_recipe_of(dataset, overrides)
    train_step(make_console(), rooted(dataset), out, recipe, steps, device, seed, resume, shuffle_units, mixture)


@main.command()
@click.argument("checkpoint")
@click.option("--sequences", default=None, metavar="FILE", help="JSON lines of text, speech, sequences, ids or pairs.")
@click.option("--text", default=None, metavar="FILE", help="Plain text, a sequence per line.")
@click.option("--dataset", default=None, metavar="DATASET", help="The utterances of a dataset, as a draw renders them.")
@click.option("--out", default=None, metavar="FILE", help="Where the scores go.  [default: the terminal]")
@click.option("--per-token", is_flag=True, help="Compare pairs by the mean per token instead of the sum.")
@click.option("--batch-size", type=click.IntRange(1), default=8, show_default=True)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the draws of --dataset.")
@click.option(
    "--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of --dataset's sequence section."
)
@command
def score(
    checkpoint: str,
    sequences: str | None,
    text: str | None,
    dataset: str | None,
    out: str | None,
    per_token: bool,
    batch_size: int,
    device: str,
    seed: int,
    overrides: Sequence[str],
) -> None:
    """Print the log-likelihood of given sequences under a checkpoint that `train` wrote, as JSON lines.

    \b
    Examples:
      interloom score model/checkpoint-000200 --sequences pairs.jsonl --per-token
      interloom score model/checkpoint-000200 --text sentences.txt --out scores.jsonl
      interloom score model/checkpoint-000200 --dataset out --set "sequence.policy={name: speech_only}"
    """
    from jobs.score import score_step

    given = [(kind, value) for kind, value in (("sequences", sequences), ("text", text), ("dataset", dataset)) if value]
    if len(given) != 1:
        raise ValueError("give one of --sequences, --text and --dataset")
    raise SystemExit(score_step(checkpoint, *given[0], out, per_token, batch_size, device, seed, overrides))


@main.command()
@click.argument("dataset")
@click.option("--out", required=True, help="Folder for the baked shards; the same folder again resumes.")
@click.option("--epochs", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--streams",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Streams of the reader: the pieces of work, and at least as many shards.",
)
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence section.")
@engine_options
@command
def bake(dataset: str, out: str, epochs: int, seed: int, streams: int, overrides: Sequence[str], **engine: Any) -> None:
    """Freeze the reader's token sequences into plain WebDataset shards; run it again to resume.

    \b
    Examples:
      interloom bake out --out baked --epochs 3
      interloom bake out --out baked --streams 64 --set sequence.context=4096 --engine ray --workers 16
    """
    from jobs.steps import bake_step

    recipe, settings = reading_recipe_of(dataset, overrides), run_settings(out, **engine)
    bake_step(make_console(), rooted(dataset), recipe, settings, seed=seed, epochs=epochs, streams=streams)


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


@main.command()
@click.option("--manifest", default=None, help="Where the plan is damaged: the manifest that it was made from.")
@click.option("--audio-root", default=None, help="Where its relative audio paths start.")
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
    """
    from jobs.maintain import repair_step

    settings = run_settings(dataset, **engine)
    raise SystemExit(repair_step(make_console(), settings, manifest, _root(audio_root), recipe))


@main.command()
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


main.epilog = f"Bundled recipes: {', '.join(recipe_names())}."

if __name__ == "__main__":
    sys.exit(main())
