"""Fuzz target: recipes. RecipeError, in one short line, is the only error."""

import random
import tempfile
from functools import cache
from pathlib import Path

from pipeline.recipes import RecipeError, load_recipe
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds_text import RECIPE
from tests.fuzz.targets import require_line

KINDS = ("yaml",)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


def example(rng: random.Random) -> tuple[str, bytes]:
    return "yaml", mutated(rng, (RECIPE,))


def check(kind: str, data: bytes) -> None:
    path = Path(_folder().name) / f"r.{kind}"
    path.write_bytes(data)
    try:
        load_recipe(str(path))
    except RecipeError as error:
        require_line(str(error), 20_000)
