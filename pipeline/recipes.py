"""Load a recipe by name or path, apply `--set` overrides, and report mistakes in one line."""

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from schemas.recipe import Recipe

PACKAGE = "jobs.recipes"
MAX_BYTES = 1_000_000
READING_SECTIONS = ("sequence", "train")


class RecipeError(ValueError):
    """The recipe cannot be used; the message names the file, the key and the fix."""


def recipe_names() -> list[str]:
    return sorted(item.name[:-5] for item in resources.files(PACKAGE).iterdir() if item.name.endswith(".yaml"))


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a validated recipe.

    Args:
        name_or_path: the name of a bundled recipe, or a path to a YAML file.
        overrides: `a.b=c` strings; the value is read as YAML.

    Raises:
        RecipeError: in one line.
    """
    values = _read(name_or_path)
    values.setdefault("name", Path(name_or_path).stem)
    return recipe_from(values, name_or_path, overrides)


def recipe_from(values: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Return a validated recipe from plain values; `where` is named in errors."""
    for override in overrides:
        _apply(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from None


def reading_recipe(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """Return a dataset's recipe with overrides of what is decided at reading time.

    Raises:
        RecipeError: if an override is of a section that was decided when the dataset was built.
    """
    for override in overrides:
        if override.split(".")[0] not in READING_SECTIONS:
            raise RecipeError(f"--set {override}: only {' and '.join(READING_SECTIONS)} can be set for a built dataset")
    values = recipe.model_dump(mode="json")
    named = [override.partition("=")[2] for override in overrides if override.startswith("sequence.policy.name=")]
    if named and named[-1] != recipe.sequence.policy.name:
        # The options of another policy would not fit the new one.
        values["sequence"]["policy"] = {}
    return recipe_from(values, "--set", overrides)


def _read(name_or_path: str) -> dict[str, Any]:
    if name_or_path in recipe_names():
        text = resources.files(PACKAGE).joinpath(f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        path = Path(name_or_path)
        if not path.is_file():
            near = difflib.get_close_matches(name_or_path, recipe_names(), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"bundled recipes: {', '.join(recipe_names())}"
            raise RecipeError(f"{name_or_path}: no such recipe or file; {hint}")
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_BYTES} bytes, this is no recipe")
        text = path.read_text(encoding="utf-8", errors="replace")
    return parse_recipe(text, name_or_path)


def parse_recipe(text: str, name_or_path: str) -> dict[str, Any]:
    """Return the plain values of a recipe's YAML."""
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise RecipeError(f"{name_or_path}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise RecipeError(f"{name_or_path}: nested too deeply for a recipe") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{name_or_path}: a recipe is a mapping of sections, this is a {type(values).__name__}")
    return values


def _apply(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise RecipeError(f"--set {override}: write it as section.key=value")
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise RecipeError(f"--set {override}: the value is not valid YAML") from None
    *sections, last = path.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override}: {section!r} is not a section")
        values = inner
    values[last] = value


def _explain(error: ValidationError) -> str:
    # An unknown key explains a missing one, so it is told first.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    valid, parts = _walk(first["loc"])
    where = ".".join(parts)
    if first["type"] == "missing":
        return f"{where}: this key is needed"
    if first["type"] == "union_tag_invalid":
        return f"{where}: unknown kind {first['ctx']['tag']!r}; valid: {first['ctx']['expected_tags']}"
    if first["type"] == "value_error":
        return f"{where}: {first['ctx']['error']}" if where else str(first["ctx"]["error"])
    if first["type"] != "extra_forbidden":
        return f"{where}: {first['msg'][:1].lower()}{first['msg'][1:]}, got {first['input']!r}"
    near = difflib.get_close_matches(str(first["loc"][-1]), valid, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"valid keys: {', '.join(valid)}"
    return f"unknown key {where!r}; {hint}"


def _walk(location: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """Return the valid keys of the section that a location's last part stands in, and the parts without union tags."""
    choices: list[Any] = [Recipe]
    parts: list[str] = []
    valid: list[str] = []
    for part in location:
        tagged = [choice for choice in choices if _tags(choice) & {part}] if len(choices) > 1 else []
        if tagged:
            choices = tagged
            continue
        model = choices[0] if choices and isinstance(choices[0], type) and issubclass(choices[0], BaseModel) else None
        valid = sorted(model.model_fields) if model is not None else []
        field = model.model_fields.get(str(part)) if model is not None else None
        choices = [kind for kind in _kinds(field.annotation) if kind is not type(None)] if field is not None else []
        parts.append(str(part))
    return valid, parts


def _kinds(annotation: Any) -> list[Any]:
    """Return the members of a union, or the annotation itself."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _tags(model: Any) -> set[Any]:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return set()
    return {model.model_fields[name].default for name in ("backend", "kind", "name") if name in model.model_fields}


def recipe_yaml(recipe: Recipe) -> str:
    """Return the fully resolved recipe as YAML."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
