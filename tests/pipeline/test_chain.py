"""The chain of stages a recipe gives, and what its contracts and fingerprints depend on."""

import numpy as np
import pytest

from pipeline import chain
from pipeline.models import Artifacts
from pipeline.recipes import load_recipe
from schemas.canonical import sha256_hex
from schemas.records import Artifact
from schemas.unit_record import npy_bytes


@pytest.fixture
def artifacts(tmp_path) -> Artifacts:
    rng = np.random.default_rng(0)
    made = {
        "units": rng.normal(size=(20, 39)),
        "pitch": np.sort(rng.normal(size=(7, 1)), axis=0),
        "style": rng.normal(size=(5, 8)),
    }
    found = {}
    for name, array in made.items():
        data = npy_bytes(array.astype(np.float32))
        (tmp_path / f"{name}.npy").write_bytes(data)
        found[name] = Artifact(path=str(tmp_path / f"{name}.npy"), sha256=sha256_hex(data))
    return found | {"style_speakers": found["style"], "tokenizer": found["style"]}


def test_streams_from_f0_say_which_f0(artifacts):
    """Two datasets whose pitch comes from other F0 must not be mixed, though their codebooks may be the same file."""
    fcpe = chain.contracts(load_recipe("embedded"), artifacts)
    yaapt = chain.contracts(load_recipe("embedded", ["f0.backend=yaapt"]), artifacts)
    strict = chain.contracts(load_recipe("embedded", ["f0.threshold=0.1"]), artifacts)
    assert fcpe["hubert"] == yaapt["hubert"] == strict["hubert"]
    for stream in ("pitch", "style"):
        assert len({fcpe[stream].input, yaapt[stream].input, strict[stream].input}) == 3
    assert fcpe["hubert"].input == ""
    assert '"backend":"yaapt"' in yaapt["pitch"].input


def test_a_recipe_without_pitch_and_style_needs_no_f0(artifacts):
    recipe = load_recipe("embedded", ["sequence.stream=base", "pitch=null", "style=null", "store.f0=false"])
    assert [step.name for step in chain.build_steps(recipe, artifacts)] == [
        "decode",
        "normalise",
        "align",
        "qc",
        "units",
    ]
    assert set(chain.contracts(recipe, artifacts)) == {"hubert"}
    fit = chain.fit_steps(recipe, {})[1]
    assert (fit.f0, fit.pitch, fit.style) == (None, None, None)


def test_nothing_is_fitted_where_everything_is_given(artifacts, tmp_path):
    (tmp_path / "model").write_bytes(b"")
    overrides = [
        "sequence.stream=base",
        "pitch=null",
        "style=null",
        "units.backend=hubert",
        "units.checkpoint=x",
        "units.quantiser.path=y",
        "text.path=z",
    ]
    given = {"units_model": artifacts["units"], "units": artifacts["units"], "tokenizer": artifacts["units"]}
    assert chain.fit_steps(load_recipe("embedded", overrides), given) == ()
    del given["units"]
    assert chain.fit_steps(load_recipe("embedded", overrides), given) != ()


def test_a_fingerprint_depends_on_hashes_and_not_on_places(artifacts):
    recipe = load_recipe("embedded")
    moved = {name: Artifact(path=f"/elsewhere/{name}", sha256=a.sha256) for name, a in artifacts.items()}
    other = {**artifacts, "units": Artifact(path=artifacts["units"].path, sha256="0" * 64)}

    def fingerprint(found):
        return chain.job_fingerprint("plan", chain.build_steps(recipe, found), None)

    assert fingerprint(artifacts) == fingerprint(moved) != fingerprint(other)
