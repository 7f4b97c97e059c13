"""JSON files that parse and have another form: whoever reads one refuses it in a line, or nothing breaks on it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from jobs.cli import main
from pipeline.bake import BakeConfig
from pipeline.dataset import BadDataset, Dataset
from pipeline.plan import read_plan
from pipeline.reader.baked_source import BakedSource, baked_vocabulary
from pipeline.storage import join
from tests.bake_builders import bake_here
from tests.takedown_builders import RECIPE, build_dataset, utterance_id

GONE: Any = object()
OTHERS: list[Any] = [GONE, "x", -1, None, [], {}, 1.5, True, 10**30, ["x"], {"x": 1}]
COMMIT = "shards/shard-000001.commit.json"
UNKNOWABLE = {"plan/plan.json": {"base", "max_seconds"}, "dataset.json": {"code_version", "recipe"}, COMMIT: set[str]()}
"""Keys whose values nothing else in the folder tells: where audio lies, how it was cut, who built it; and the recipe,
some of which may be changed after a build, and whose missing keys have defaults."""


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where something stands in a JSON value: every key, and the first item of every list."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*above, key)
        yield from places(item, (*above, key))


def forged(value: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield copies of a JSON value, each with one thing gone or replaced by something else, and where."""
    for place in places(value):
        for other in OTHERS:
            copy = json.loads(json.dumps(value))
            holder = copy
            for key in place[:-1]:
                holder = holder[key]
            if other is GONE:
                del holder[place[-1]]
            else:
                holder[place[-1]] = other
            if json.dumps(copy) != json.dumps(value):
                yield place, copy


def told(root: str) -> str | None:
    """Return what its reader says of a file that it refuses, None if it follows it."""
    try:
        Dataset.open(root).commit(1)
    except BadDataset as error:
        return str(error)
    return "no plan" if read_plan(join(root, "plan")) is None else None


def told_of_bake(root: str) -> str | None:
    try:
        source = BakedSource(root, baked_vocabulary(root))
    except ValueError as error:
        return str(error)
    assert source.name == root
    return None


def one_line(*arguments: str) -> int:
    """Run the command; return its exit status, which is none of a traceback."""
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "dataset.json" else ()) for name in UNKNOWABLE]
)
def test_another_form_is_refused_or_found_and_never_a_traceback(tmp_path: Path, name: str) -> None:
    root = str(tmp_path / "dataset")
    build_dataset(root)
    path = Path(root, name)
    sound = json.loads(path.read_bytes())
    followed = 0
    for number, (place, value) in enumerate(forged(sound)):
        path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
        if (refusal := told(root)) is not None:
            assert "\n" not in refusal
            if number % 37:
                continue
        elif place[0] == "recipe" and number % 23:
            continue
        followed += 1
        found = one_line("verify", root)
        assert found == 1 or place[0] in UNKNOWABLE[name], (place, value)
        one_line("status", root, "--json", "--all")
        if followed % 4 == 1:
            assert one_line("audit", root, "--examples", "1", "--report", str(tmp_path / "audit.html")) in (0, 2)
    assert followed > 5


@pytest.mark.parametrize("name", UNKNOWABLE)
def test_nothing_is_removed_from_a_dataset_that_cannot_be_followed(tmp_path: Path, name: str) -> None:
    root, ids = str(tmp_path / "dataset"), tmp_path / "ids"
    build_dataset(root)
    ids.write_text(utterance_id(1, 0) + "\n")
    path = Path(root, name)
    sound, shard = json.loads(path.read_bytes()), Path(root, "shards/shard-000001.tar").read_bytes()
    for number, (_, value) in enumerate(forged(sound)):
        path.write_text(json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n")
        if told(root) is not None and not number % 5:
            assert one_line("remove", root, "--ids", str(ids)) in (1, 2)
            assert Path(root, "shards/shard-000001.tar").read_bytes() == shard
            assert not Path(root, "removed.jsonl").exists()


def test_a_bake_of_another_form_is_refused(tmp_path: Path) -> None:
    root = str(tmp_path / "dataset")
    build_dataset(root)
    config = BakeConfig(dataset=root, sequence=RECIPE.sequence, seed=0, epochs=1, streams=1)
    bake_here(config, tmp_path / "baked")
    path = tmp_path / "baked" / "baked.json"
    sound = json.loads(path.read_bytes())
    refusals = []
    for place, value in forged(sound):
        if len(place) < 3 or "hubert" in place:
            path.write_text(json.dumps(value))
            refusals.append(told_of_bake(str(path.parent)))
    assert not any("\n" in refusal for refusal in refusals if refusal)
    assert sum(refusal is not None for refusal in refusals) > len(refusals) / 2
