"""The zoo: hundreds of bad inputs, each of which costs its record and nothing else."""

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.zoo import manifest_cases, other_cases
from tests.zoo.book import GOOD, Case, Zoo
from tests.zoo.build import build, build_clean, good_keys, members_by_key, row_outcomes
from tests.zoo.make_zoo import make_zoo
from tests.zoo.table import single_outcomes


def surprises(told: list[tuple[Case, str]]) -> list[tuple[str, str, str, tuple[str, ...]]]:
    return [(case.group, case.name, got, case.expect) for case, got in told if got not in case.expect]


def test_manifests_recipes_and_shards_end_in_one_line_or_in_their_rows(tmp_path: Path) -> None:
    zoo = Zoo(out=tmp_path / "in")
    zoo.out.mkdir()
    (zoo.out / "good.flac").write_bytes(GOOD.read_bytes())
    manifest_cases.add_manifests(zoo)
    other_cases.add_recipes(zoo)
    other_cases.add_shards(zoo)
    told = single_outcomes(zoo, tmp_path)
    assert not surprises(told)
    assert len(told) > 100


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_zoo_costs_its_own_records_only(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "in")
    assert len({case.group for case in zoo.rows}) >= 20
    assert max(Counter(case.name for case in zoo.rows).values()) <= 2  # twice: an id that was used before
    build(zoo, tmp_path / "out")
    told = row_outcomes(zoo, tmp_path / "out")
    assert not surprises(told)
    assert not {got for _, got in told} & {"lost", "executor/crashed"}
    assert not list(zoo.out.rglob("pwned"))
    assert not (Path.cwd() / "pwned").exists()
    build_clean(zoo, tmp_path / "out", tmp_path / "clean")
    with_zoo, alone = members_by_key(tmp_path / "out"), members_by_key(tmp_path / "clean")
    assert set(alone) == set(good_keys(zoo))
    assert {key: with_zoo[key] for key in alone} == alone


def test_the_zoo_is_made_alike_each_time(tmp_path: Path) -> None:
    made = [Zoo(out=tmp_path / name) for name in ("a", "b")]
    for zoo in made:
        zoo.out.mkdir()
        (zoo.out / "good.flac").write_bytes(GOOD.read_bytes())
        manifest_cases.add_manifests(zoo)
        other_cases.add_shards(zoo)
    files = [
        {str(path.relative_to(zoo.out)): path.read_bytes() for path in zoo.out.rglob("*") if small(path)}
        for zoo in made
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 60


def small(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and os.path.getsize(path) < 1 << 22
