"""What can be known before any work starts: licences, files, shapes. One clear line for the first thing wrong."""

from functools import lru_cache
from typing import Any

from pipeline import backends
from pipeline.chain import needs_f0
from pipeline.models import Artifacts, pin, require_licences
from schemas.recipe import Recipe


def preflight(recipe: Recipe, *, transcribe: bool = False) -> None:
    """Check everything that a recipe names, the transcriber only where asked for, without loading a model for use.

    Weights are read once to see that they are whole and fit together; the embedded recipe costs nothing.

    Raises:
        ValueError: what is wrong, which file it is and how to mend it.
        ImportError: if a package that a backend needs is not installed.
    """
    require_licences(recipe)
    given = pin(recipe, transcribe=transcribe)
    _check(recipe.model_dump_json(), tuple(sorted((name, a.sha256) for name, a in given.items())), transcribe)


@lru_cache(maxsize=8)
def _check(recipe_json: str, hashes: tuple[tuple[str, str], ...], transcribe: bool) -> None:
    """Check once per process for the same recipe and files."""
    del hashes
    recipe = Recipe.model_validate_json(recipe_json)
    given = pin(recipe, transcribe=transcribe)
    backends.require_qc_fits(recipe)
    for _, config in checkable(recipe, given):
        config.check()
    if "tokenizer" in given:
        from stages.tokenizer import check_sentencepiece

        check_sentencepiece(given["tokenizer"])


def checkable(recipe: Recipe, given: Artifacts) -> list[tuple[str, Any]]:
    """Return the parts of a recipe that have something to check, as (section, config)."""
    parts = [
        ("transcribe", backends.transcribe_config(recipe, given)),
        ("normalise", backends.normalise_config(recipe)),
        ("align", backends.align_config(recipe, given)),
        ("units", backends.units_features(recipe, given) or backends.units_config(recipe, given)),
        ("f0", backends.f0_config(recipe) if needs_f0(recipe) else None),
        ("pitch", backends.pitch_features(recipe, given) or backends.pitch_config(recipe, given)),
        ("style", backends.style_features(recipe, given) or backends.style_config(recipe, given)),
    ]
    return [(section, config) for section, config in parts if hasattr(config, "check")]
