"""The body of `interloom policy`: what a policy comes to on a dataset, as tables or as JSON."""

import difflib
import json
from collections.abc import Sequence
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from pipeline.audit.realised import measure_policy
from pipeline.dataset import Dataset
from pipeline.reader.opening import require_streams
from pipeline.reader.vocabularies import open_vocabulary
from pipeline.recipes import reading_recipe
from schemas.sequence import POLICY_NAMES

BAR = 30
"""Width of a histogram's longest bar, in characters."""


def policy_step(
    console: Console,
    dataset: str,
    policy: str | None,
    overrides: Sequence[str],
    *,
    documents: int,
    seed: int | None,
    as_json: bool,
) -> None:
    """Print what a policy comes to; None: the policy of the dataset's recipe; of the seed likewise.

    Raises:
        ValueError: if there is no such policy, or it has no such option.
        BadDataset: if the dataset is not finished or has no words.
    """
    opened = Dataset.open(dataset)
    recipe = opened.recipe
    if policy is not None and policy != recipe.sequence.policy.name:
        _require_known(policy)
        # Another policy's options would not fit, so the section is replaced before anything is overridden in it.
        overrides = [f"sequence.policy={json.dumps({'name': policy})}", *overrides]
    sequence = reading_recipe(recipe, overrides).sequence
    require_streams([opened], sequence)
    encode = open_vocabulary(opened, sequence.vocabulary).tokenizer.encode
    seed = recipe.seed if seed is None else seed
    found = measure_policy(opened, sequence, encode, documents=documents, seed=seed).to_json()
    settings = sequence.model_dump(mode="json", include={"policy", "stream", "gap", "silence", "join_recordings"})
    if sequence.silence == "cap":
        settings["max_silence"] = sequence.max_silence
    if as_json:
        click.echo(json.dumps({"dataset": dataset, "seed": seed, **settings, **found}, indent=2))
        return
    _print_settings(console, dataset, seed, settings)
    _print_spans(console, found["spans"])
    _print_shares(console, found)
    _print_rates(console, found)


def _require_known(policy: str) -> None:
    if policy not in POLICY_NAMES:
        near = difflib.get_close_matches(policy, POLICY_NAMES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(POLICY_NAMES)}"
        raise ValueError(f"unknown policy {policy!r}; {hint}")


def _print_settings(console: Console, dataset: str, seed: int, settings: dict[str, Any]) -> None:
    policy, *options = settings.pop("policy").items()
    told = [f"{key} {_plain(value)}" for key, value in (*options, *settings.items(), ("seed", seed))]
    console.print(f"{policy[1]} on {dataset}: {', '.join(told)}", markup=False, soft_wrap=True)


def _table(console: Console, title: str, *columns: str) -> Table:
    style = box.HEAVY_HEAD if console.is_terminal else None
    return Table(*columns, title=title, title_justify="left", box=style)


def _print_spans(console: Console, spans: dict[str, Any]) -> None:
    table = _table(console, "Span lengths", "span", "count", "min words", "mean", "max")
    for modality, found in spans.items():
        for place, label in (("inner", ""), ("last", ", last of its document")):
            row = found[place]
            if row["spans"]:
                numbers = (str(row["min"]), f"{row['mean']:.1f}", str(row["max"]))
                table.add_row(modality + label, f"{row['spans']:,}", *numbers)
    console.print(table)
    for modality, found in spans.items():
        longest = max((each["spans"] for each in found["histogram"]), default=0)
        for each in found["histogram"]:
            low, high = each["words"]
            bar = "#" * -(-BAR * each["spans"] // longest)
            label = f"{low}-{high}" if high > low else str(low)
            console.print(f"  {modality:6} {label:>11} {each['spans']:>7,} {bar}", markup=False)


def _print_shares(console: Console, found: dict[str, Any]) -> None:
    columns = ("words of a document", "documents", "speech, of words", "speech, of tokens")
    table = _table(console, "Speech share", *columns)
    for row in found["by_document_length"]:
        least, most = row["words"]
        table.add_row(f"{least}-{most}" if most else f"{least} and more", *_shares(row))
    table.add_row("all", *_shares(found))
    console.print(table)


def _shares(row: dict[str, Any]) -> tuple[str, str, str]:
    shares = (row["speech_share_of_words"], row["speech_share_of_tokens"])
    words, tokens = ("-" if share is None else f"{share:.1%}" for share in shares)
    return f"{row['documents']:,}", words, tokens


def _print_rates(console: Console, found: dict[str, Any]) -> None:
    per_word = {name: "-" if rate is None else f"{rate:.2f}" for name, rate in found["tokens_per_word"].items()}
    switches = found["switches_per_1000_tokens"]
    console.print(
        f"{found['words']:,} words, {found['tokens']:,} tokens, markers included\n"
        f"switches per 1,000 tokens: {0.0 if switches is None else switches:.1f}\n"
        f"tokens per word: {per_word['document']} (of text {per_word['text']}, of speech {per_word['speech']})\n"
        f"removed silence: {found['removed_silence_share']:.1%} of the audio\n"
        f"speech spans without a frame: {found['speech_spans_without_a_frame']:,}"
    )


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
