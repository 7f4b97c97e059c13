"""Commands that read a finished dataset: draws, mixtures, bakes, training, scores."""

from collections.abc import Sequence
from typing import Any

import click

from jobs.console import make_console
from jobs.options import (
    command,
    engine_options,
    reading_recipe_of,
    rooted,
    run_settings,
)


@click.command()
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


@click.command()
@click.argument("mixture")
@click.option("--tokens", required=True, metavar="N", help="Length of the run: 250000, 1e9, 5M, 100B.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sampled draws.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a key of the sequence section.")
@command
def mixture(mixture: str, tokens: str, seed: int, as_json: bool, overrides: Sequence[str]) -> None:
    """Show how many epochs of each source a mixture reads over a run.

    MIXTURE is a YAML list of sources; docs/training.md shows one.

    \b
    Examples:
      interloom mixture mixture.yaml --tokens 100B
      interloom mixture mixture.yaml --tokens 1e9 --set sequence.stream=base --json
    """
    from jobs.mixture import mixture_step

    mixture_step(make_console(), mixture, tokens, overrides, seed=seed, as_json=as_json)


@click.command()
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
      interloom train out --out model --resume --steps 400
      interloom train out --out model --set train.model=/models/llama --mixture mixture.yaml
      torchrun --nproc-per-node 8 $(which interloom) train out --out model --set train.parallel=fsdp2
    """
    from jobs.steps import train_step

    recipe = reading_recipe_of(dataset, overrides)
    train_step(make_console(), rooted(dataset), out, recipe, steps, device, seed, resume, shuffle_units, mixture)


@click.command()
@click.argument("checkpoint")
@click.option("--sequences", default=None, metavar="FILE", help="JSON lines of text, speech, sequences, ids or pairs.")
@click.option("--text", default=None, metavar="FILE", help="Plain text, a sequence per line.")
@click.option("--dataset", default=None, metavar="DATASET", help="A dataset's utterances, each drawn as a document.")
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


@click.command()
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
