"""The body of `interloom mixture`: what shares of tokens mean in epochs of each source."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import click
from rich import box
from rich.console import Console
from rich.table import Table

from jobs.train_data import load_mixture
from pipeline.dataset import Dataset
from pipeline.reader import open_sources
from pipeline.reader.mixing import Drawn, implied_epochs
from pipeline.recipes import reading_recipe, recipe_from
from schemas.recipe import Recipe
from schemas.sequence import Mixture, UnitsSource

SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def mixture_step(
    console: Console, path: str, tokens: str, overrides: Sequence[str], *, seed: int, as_json: bool
) -> None:
    """Print what a mixture comes to over a run of so many tokens.

    The sequence section is that of the first units dataset's recipe, with overrides.

    Raises:
        ValueError: if the mixture or the number of tokens cannot be read.
        BadDataset: if one of its datasets is not finished.
        BadShard: if a sampled item is damaged.
    """
    total = tokens_from(tokens)
    mixture = load_mixture(Path(path))
    recipe = _recipe(mixture, overrides)
    sources, shares, _ = open_sources(mixture, recipe.sequence, seed=seed)
    found = implied_epochs(sources, shares, total, seed=seed)
    if as_json:
        click.echo(json.dumps({"tokens": total, "sources": [_described(drawn) for drawn in found]}, indent=2))
        return
    table = Table(box=box.SIMPLE, title=f"{total:,.0f} tokens of {path}")
    for name in ("source", "share", "items", "tokens an epoch (sampled)", "tokens of the run", "epochs"):
        table.add_column(name, justify="left" if name == "source" else "right", overflow="fold")
    for drawn in found:
        table.add_row(
            drawn.name,
            f"{drawn.share:.1%}",
            f"{drawn.items:,}",
            f"{drawn.epoch_tokens:,.0f}",
            f"{drawn.tokens:,.0f}",
            f"{drawn.epochs:.3g}",
        )
    console.print(table)


def tokens_from(text: str) -> float:
    """Return a number of tokens written like 250000, 1e9, 5M or 100B.

    Raises:
        ValueError: if it is not one.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]{1,2})?)([kmbt]?)", text.strip().lower())
    if match is None or not float(match[1]):
        raise ValueError(f"--tokens {text}: write a number such as 250000, 1e9, 5M or 100B")
    return float(match[1]) * SCALES[match[2]]


def _recipe(mixture: Mixture, overrides: Sequence[str]) -> Recipe:
    units = [source.path for source in mixture.sources if isinstance(source, UnitsSource)]
    if units:
        return reading_recipe(Dataset.open(units[0]).recipe, overrides)
    return recipe_from({"name": "mixture"}, "--set", overrides)


def _described(drawn: Drawn) -> dict[str, float | str]:
    return {
        "name": drawn.name,
        "share": drawn.share,
        "items": drawn.items,
        "epoch_tokens": drawn.epoch_tokens,
        "tokens": drawn.tokens,
        "epochs": drawn.epochs,
    }
