"""Contracts, canonical JSON, randomness, and the version that datasets state."""

import hashlib
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finish import CODE_VERSION
from schemas.canonical import canonical_json, fingerprint, rng_for
from schemas.contract import ContractMismatch, UnitContract

CONTRACT = UnitContract(
    stream="hubert",
    extractor="mfcc-kmeans",
    version=1,
    model_sha256="",
    layer=None,
    codebook_sha256="ab",
    codebook_size=100,
    frame_rate="25/1",
    hop=640,
    offset=320,
)


def test_a_contract_survives_json_and_names_both_sides_of_a_difference() -> None:
    assert UnitContract.from_json(CONTRACT.to_json()) == CONTRACT
    CONTRACT.require_same(CONTRACT, here="a", there="b")
    with pytest.raises(ContractMismatch, match="hop: 640 in one, 320 in two"):
        CONTRACT.require_same(replace(CONTRACT, hop=320), here="one", there="two")
    with pytest.raises(ContractMismatch, match="newer"):
        UnitContract.from_json({**CONTRACT.to_json(), "later": 1})


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_canonical_json_ignores_the_order_of_keys(value: dict[str, object]) -> None:
    assert canonical_json(value) == canonical_json(dict(reversed(value.items())))
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))


def test_randomness_is_a_function_of_seed_and_parts() -> None:
    first = rng_for(1, 2, "key").integers(0, 2**63, 8)
    assert np.array_equal(first, rng_for(1, 2, "key").integers(0, 2**63, 8))
    for other in (rng_for(2, 2, "key"), rng_for(1, 3, "key"), rng_for(1, 2, "kez"), rng_for(1, "2", "key")):
        assert not np.array_equal(first, other.integers(0, 2**63, 8))


def test_datasets_state_the_version_of_the_distribution() -> None:
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == CODE_VERSION


@given(seed=st.integers(0, 2**40), key=st.text(max_size=20))
def test_a_generator_is_philox_with_the_hash_as_its_key(seed: int, key: str) -> None:
    """The same in numpy's own words; draws made long ago must come again."""
    text = json.dumps([seed, key], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    plain = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype="<u8")))
    found = rng_for(seed, key)
    assert found.integers(0, 1000, 9).tolist() == plain.integers(0, 1000, 9).tolist()
    assert found.random(3).tolist() == plain.random(3).tolist()
    assert found.permutation(9).tolist() == plain.permutation(9).tolist()
