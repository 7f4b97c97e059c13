"""The fuzz targets, for seconds each: nothing comes out but what is documented. `python -m tests.fuzz.run` goes on."""

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets


@pytest.mark.parametrize("name", targets.NAMES)
@given(rng=st.randoms(use_true_random=False))
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_undocumented_comes_out(name: str, rng: random.Random) -> None:
    target = targets.load(name)
    kind, data = target.example(rng)
    target.check(kind, data)


FINDINGS = sorted((Path(__file__).parent / "findings").iterdir())


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.name)
def test_what_was_found_once_stays_mended(path: Path) -> None:
    name, kind, _ = path.name.split("-", 2)
    targets.load(name).check(kind, path.read_bytes())


@pytest.mark.parametrize("name", targets.NAMES)
def test_every_kind_is_drawn(name: str) -> None:
    target, rng = targets.load(name), random.Random(0)
    assert set(target.KINDS) <= {target.example(rng)[0] for _ in range(40 * len(target.KINDS))}
