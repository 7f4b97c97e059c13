"""Verify the plan and the recipe of a dataset: do the rows still have the fingerprint that they were planned with?"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.findings import Finding, Problem
from pipeline.models import portable
from pipeline.plan import Plan
from pipeline.plan_files import rows_files
from pipeline.recipes import RecipeError, parse_recipe, recipe_from
from pipeline.removed import Removed, digest
from pipeline.split_files import found_by, is_of_the_path, lies
from pipeline.storage import join, read_bytes, read_json
from schemas.canonical import canonical_json
from schemas.clock import SAMPLE_RATE
from schemas.recipe import Recipe
from schemas.tables import ROWS

PLAN, ROWS_FILE, RECIPE = "plan/plan.json", "plan/splits.parquet", "recipe.yaml"
READING = {"sequence", "train", "max_reject_rate"}
"""Sections that may be changed after a build."""


class BadRows(ValueError):
    """The rows of a plan cannot be read; the message names the file."""


def plan_findings(root: str, plan: Plan | None, info: Mapping[str, Any] | None, removed: Removed) -> list[Finding]:
    """Return what is wrong with the plan; nothing where a dataset came without one."""
    there = [lies(join(root, name)) for name in (PLAN, ROWS_FILE)]
    if not any(there):
        return []
    found = [
        Finding(path=name, problem=Problem.MISSING, detail="the plan is not whole without it")
        for name, is_there in zip((PLAN, ROWS_FILE), there, strict=True)
        if not is_there
    ]
    if there[0] and plan is None:
        found.append(Finding(path=PLAN, problem=Problem.UNREADABLE, detail="not the description of a plan"))
    if plan is None:
        return found
    if not is_canonical(read_bytes(join(root, PLAN)), read_json(join(root, PLAN))):
        found.append(Finding(path=PLAN, problem=Problem.UNREADABLE, detail="it is not written as a plan is written"))
    if info is not None and info.get("plan") != plan.fingerprint:
        told = f"its fingerprint is {plan.fingerprint}, the dataset was built from {info.get('plan')}"
        found.append(Finding(path=PLAN, problem=Problem.HASH, detail=told))
    if there[1]:
        found += _rows_findings(plan, removed)
    return found


def is_canonical(data: bytes | None, value: Any) -> bool:
    """Tell whether a file holds a value as it is published."""
    try:
        return data == (canonical_json(value) + "\n").encode()
    except ValueError:  # NaN, or half a surrogate pair
        return False


def _rows_findings(plan: Plan, removed: Removed) -> list[Finding]:
    """Read every row once, a split at a time."""
    hashed = hashlib.sha256()
    inputs, sizes = [], []
    unseen = {*removed.ids, *removed.recordings}
    try:
        for rows in row_groups(plan):
            inputs.append(len(rows))
            sizes.append(_seconds(rows, plan.max_seconds))
            for row in rows:
                hashed.update(canonical_json(_hashed_form(row)).encode())
                if unseen:
                    unseen -= {digest(row["id"]), digest(row["recording"])}
    except (pa.ArrowException, KeyError, ValueError) as error:
        told = type(error.__cause__ or error).__name__
        return [Finding(path=ROWS_FILE, problem=Problem.UNREADABLE, detail=told)]
    found = []
    if hashed.hexdigest()[:16] != plan.fingerprint:
        told = f"its rows have fingerprint {hashed.hexdigest()[:16]}, plan.json says {plan.fingerprint}"
        found.append(Finding(path=ROWS_FILE, problem=Problem.HASH, detail=told))
    if tuple(inputs) != plan.inputs:
        found.append(Finding(path=PLAN, problem=Problem.TOTALS, detail="inputs are not the numbers of rows"))
    differing = [s for s, size in enumerate(sizes[: len(plan.sizes)]) if size is not None and size != plan.sizes[s]]
    if differing or len(sizes) != len(plan.sizes):
        found.append(Finding(path=PLAN, problem=Problem.TOTALS, detail="sizes are not the lengths of the rows"))
    for name in sorted(unseen):
        told = f"{name} is no id and no recording of the plan"
        found.append(Finding(path="removed.jsonl", problem=Problem.UNREADABLE, detail=told))
    return found


def row_groups(plan: Plan) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each split as they are stored, removed ones too.

    Raises:
        BadRows: if a file is missing or damaged.
    """
    for path in rows_files(plan.rows_path, len(plan.inputs)):
        try:
            with fsspec.open(path, "rb") as file:
                if file.read(4) != b"PAR1":  # pyarrow looks at the end only
                    raise ValueError("no Parquet file")
                table = pq.ParquetFile(file)
                if lost := sorted(set(ROWS.names).difference(table.schema_arrow.names)):
                    raise ValueError(f"no columns {', '.join(lost)}")
                for group in range(table.num_row_groups):
                    yield table.read_row_group(group).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None and not is_of_the_path(error, path):
                raise
            raise BadRows(f"{path} is missing or damaged ({type(error).__name__})") from error


def _hashed_form(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that the fingerprint of a plan is made from."""
    without = {"reason", "detail"} if row["reason"] is None else {"length", "channel"}
    return {name: row[name] for name in ROWS.names if name not in without}


def _seconds(rows: list[dict[str, Any]], max_seconds: float) -> float | None:
    """Return the planned seconds of a split where every row says its length; a row weighs `max_seconds` at most."""
    used = [row["length"] for row in rows if row["reason"] is None]
    return None if None in used else round(sum(min(max_seconds, length / SAMPLE_RATE) for length in used), 3)


def recipe_findings(root: str, info: Mapping[str, Any] | None, *, planned: bool, trusted: bool) -> list[Finding]:
    """Return what is wrong with `recipe.yaml`, held against the recipe in `dataset.json`.

    With `trusted`, the fingerprint in the commit records vouches for `recipe.yaml`.
    """
    if not lies(join(root, RECIPE)):
        return [Finding(path=RECIPE, problem=Problem.MISSING, detail="the plan needs it")] if planned else []
    recipe = read_recipe(root)
    if recipe is None:
        return [Finding(path=RECIPE, problem=Problem.UNREADABLE, detail="not a recipe")]
    if info is None:
        return []
    try:
        said = Recipe.model_validate(info.get("recipe"))
    except ValueError:
        return [Finding(path="dataset.json", problem=Problem.UNREADABLE, detail="its recipe is none")]
    if portable(recipe).model_dump(exclude=READING) != said.model_dump(exclude=READING):
        told = "recipe.yaml and the recipe in dataset.json differ"
        return [Finding(path="dataset.json" if trusted else RECIPE, problem=Problem.TOTALS, detail=told)]
    return []


def read_recipe(root: str) -> Recipe | None:
    """Return the recipe of a folder, None where it is missing or damaged."""
    data = found_by(read_bytes, join(root, RECIPE))
    try:
        return None if data is None else recipe_from(parse_recipe(data.decode(), RECIPE), RECIPE)
    except (RecipeError, ValueError):
        return None
