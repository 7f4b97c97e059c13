"""`artifacts/artifacts.json` vouches for codebooks: damage to it is told, and nothing is trained over them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import build
from pipeline.build import planned
from pipeline.drive import EngineSettings
from pipeline.fit import FitError, fit, load_artifacts
from pipeline.job import Limits
from pipeline.status import Observer
from pipeline.storage import publish_json, read_json
from pipeline.verify import examine
from tests.takedown_builders import RECIPE, build_dataset, tree

NAME = "artifacts/artifacts.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset."""
    root = tmp_path_factory.mktemp("made") / "dataset"
    build_dataset(str(root))
    return root


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(made, tmp_path / "dataset")
    return tmp_path / "dataset"


def told(root: Path) -> set[str]:
    return {finding.path for finding in examine(str(root), only=[]).findings}


def fit_again(root: Path) -> object:
    return fit(str(root), planned(str(root)), RECIPE, EngineSettings(workers=1), Limits(), lambda *_: None)


def change(root: Path, name: str, **more: Any) -> None:
    publish_json({**read_json(f"{root}/{name}"), **more}, f"{root}/{name}")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0), st.integers(0, 7))
@example(b'"fingerprint":"', 0)
@example(b'"interloom-artifacts/', 0)
@example(b'"path":"artifacts/', 0)
@example(b'"', 0)
def test_any_flipped_bit_is_found(dataset: Path, at: int | bytes, bit: int) -> None:
    path = dataset / NAME
    whole = path.read_bytes()
    place = at % len(whole) if isinstance(at, int) else whole.index(at) + len(at)
    path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
    try:
        assert told(dataset) == {NAME}
        assert Observer(str(dataset)).look().planned
    finally:
        path.write_bytes(whole)


ENTRY = {"path": "artifacts/units.npy", "sha256": "0" * 64}
MALFORMED: list[Any] = [
    None,
    [],
    {},
    {"artifacts": {}, "fingerprint": "f", "format": "interloom-artifacts/0"},
    {"artifacts": {}, "fingerprint": 1, "format": "interloom-artifacts/1"},
    *(
        {"artifacts": artifacts, "fingerprint": "f", "format": "interloom-artifacts/1"}
        for artifacts in (
            None, [ENTRY], {"units": None}, {"units": "path"}, {"units": {}}, {"units": {"path": ENTRY["path"]}},
            {"units": {"sha256": ENTRY["sha256"]}}, {"units": {**ENTRY, "path": 1}}, {"units": {**ENTRY, "sha256": 1}},
            {"units": {**ENTRY, "path": "../units.npy"}},
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("value", MALFORMED, ids=json.dumps)
@pytest.mark.parametrize("planned", [True, False])
def test_a_malformed_list_is_found_and_counts_as_none(dataset: Path, value: Any, planned: bool) -> None:
    if not planned:
        shutil.rmtree(dataset / "plan")
        (dataset / "recipe.yaml").unlink()
    assert told(dataset) == set()
    publish_json(value, f"{dataset}/{NAME}")
    assert load_artifacts(str(dataset)) is None
    assert told(dataset) == {NAME}


BROKEN = [
    None, 1, "x", [], [1], {"units": 1}, {"units": []}, {"units": {"path": 1}}, {"x": {}},
    {"units": {**ENTRY, "path": "artifacts/\0"}}, {"units": {**ENTRY, "path": "artifacts/../../x"}},
]  # fmt: skip


@pytest.mark.parametrize("value", BROKEN, ids=json.dumps)
@pytest.mark.parametrize(
    "name", ["artifacts", "shards", "streams", "recipe", "reasons", "splits", "plan", "fingerprint"]
)
def test_a_malformed_description_is_found(dataset: Path, name: str, value: Any) -> None:
    change(dataset, "dataset.json", **{name: value})
    assert "dataset.json" in told(dataset)
    assert told(dataset) <= {"dataset.json", NAME, "plan/plan.json"}
    (dataset / NAME).unlink()
    assert NAME in told(dataset)


def test_another_version_may_fit_otherwise(dataset: Path) -> None:
    change(dataset, NAME, fingerprint="0" * 16)
    assert told(dataset) == {NAME}
    change(dataset, "dataset.json", code_version="0.1.0")
    assert told(dataset) == set()


def test_who_changed_the_recipe_is_not_told_that_the_list_is_damaged(dataset: Path) -> None:
    path = dataset / "recipe.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 1"))
    assert told(dataset) == {"recipe.yaml"}
    path.write_text(path.read_text().replace("seed: 1", "seed: 0").replace("name: takedown", "name: other"))
    assert "recipe.yaml" in told(dataset)


@pytest.mark.parametrize("damage", ["format", "path", "gone"])
def test_nothing_is_trained_over_the_artifacts_of_a_dataset(dataset: Path, damage: str) -> None:
    path = dataset / NAME
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"artifacts/1", b"artifacts/0").replace(b'"path"', b'"qath"'))
    before = tree(str(dataset))
    with pytest.raises(FitError, match=r"artifacts\.json is missing or damaged.*interloom repair") as caught:
        fit_again(dataset)
    assert "\n" not in str(caught.value)
    other = RECIPE.model_copy(update={"seed": 1})
    with pytest.raises(FitError, match=r"artifacts\.json is missing or damaged"):
        build._require_same_recipe(other, planned(str(dataset)), str(dataset))
    assert tree(str(dataset)) == before


def test_a_damaged_artifact_of_a_dataset_is_for_repair(dataset: Path) -> None:
    (dataset / "artifacts" / "units.npy").write_bytes(b"x")
    with pytest.raises(FitError, match=r"units\.npy is missing or damaged.*interloom repair"):
        fit_again(dataset)
    (dataset / "dataset.json").unlink()
    with pytest.raises(FitError, match=r"units\.npy is missing or damaged.*delete .*artifacts\.json.*interloom fit"):
        fit_again(dataset)
