"""Recipes: strict, and every mistake in one line that helps."""

from pathlib import Path

import pytest
import yaml

from pipeline.recipes import RecipeError, load_recipe, recipe_names, recipe_yaml
from schemas.recipe import Recipe


def test_the_bundled_recipes_load_and_print_back() -> None:
    assert recipe_names() == [
        "demo",
        "embedded",
        "mms_multilingual",
        "spiritlm_base",
        "spiritlm_expressive",
        "twist_25hz",
    ]
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert Recipe.model_validate(yaml.safe_load(recipe_yaml(recipe))) == recipe


def test_overrides_are_typed_and_nested() -> None:
    recipe = load_recipe(
        "embedded", ["units.clusters=7", "sequence.policy.text_words=[2, 3]", "plan.hours_per_shard=0.5"]
    )
    assert recipe.units.clusters == 7
    assert recipe.sequence.policy.text_words == (2, 3)
    assert recipe.plan.hours_per_shard == 0.5


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("units.clsters=50", "did you mean 'clusters'"),
        ("unit.clusters=50", "did you mean 'units'"),
        ("units.clusters=zero", "units.clusters"),
        ("units.clusters=-1", "units.clusters"),
        ("units", "section.key=value"),
        ("name.x=1", "not a section"),
        ("units.clusters=[", "not valid YAML"),
        ("sequence.policy.start=noise", "sequence.policy.start"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(override: str, part: str) -> None:
    with pytest.raises(RecipeError, match=part) as error:
        load_recipe("embedded", [override])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["- a\n- b\n", "units: [", "units: {clsters: 50}", "!!python/object/apply:os.system [x]"]
)
def test_bad_files_are_refused_and_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"mine\.yaml"):
        load_recipe(str(path))


def test_no_recipe_can_ask_for_unpickling() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'units\.quantiser\.trust_pickle'"):
        load_recipe("twist_25hz", ["units.quantiser.trust_pickle=true"])


def test_an_unknown_name_suggests_a_known_one() -> None:
    with pytest.raises(RecipeError, match="did you mean 'embedded'"):
        load_recipe("embeded")
