import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import frames_covering
from schemas.records import FitFeatures
from schemas.rejects import Reason
from stages.codebooks import MIN_WINDOWS, fit_pitch_codebook, fit_style, fit_units_codebook
from stages.fit_features import FitFeaturesStage
from stages.mfcc import unit_features
from stages.pitch_codebook import CodebookPitchFeatures, pitch_features
from stages.style_prosody import ProsodyFeatures, SpeakerNorms, style_features
from stages.units_mfcc import MfccFeatures
from tests.feature_builders import clip, noise, track


def features(key, speaker="", windows=3, voiced=20, level=0.0, seed=0):
    rng = np.random.default_rng([seed, *key.encode()])
    return FitFeatures(
        key=key,
        speaker=speaker,
        text="a word",
        units=rng.normal(size=(25 * windows, 39)).astype(np.float32),
        pitch=rng.normal(0, 0.3, voiced).astype(np.float32),
        style=(level + rng.normal(size=(windows, 8)) * np.arange(1, 9)).astype(np.float32),
    )


def sample():
    return [features(f"k{i}", speaker=f"s{i % 3}", windows=5, level=10.0 * (i % 3)) for i in range(12)]


def test_shapes_and_order():
    units, pitch = fit_units_codebook(sample(), 20, 0), fit_pitch_codebook(sample(), 16, 0)
    style, norms = fit_style(sample(), 6, 0)
    assert (units.shape, pitch.shape, style.shape) == ((20, 39), (15, 1), (6, 8))
    assert {units.dtype, pitch.dtype, style.dtype} == {np.dtype(np.float32)}
    assert (np.diff(pitch[:, 0]) > 0).all()
    assert sorted(norms["speakers"]) == ["s0", "s1", "s2"]
    json.dumps(norms, allow_nan=False)


def test_the_same_sample_and_seed_give_the_same_bytes():
    for fit in (fit_units_codebook, fit_pitch_codebook):
        assert fit(sample(), 12, 3).tobytes() == fit(sample(), 12, 3).tobytes()
        assert fit(sample(), 12, 3).tobytes() != fit(sample(), 12, 4).tobytes()
    (first, norms), (second, same) = fit_style(sample(), 6, 3), fit_style(sample(), 6, 3)
    assert first.tobytes() == second.tobytes()
    assert norms == same


def test_speakers_end_up_on_one_level():
    batch = sample()
    _, value = fit_style(batch, 6, 0)
    norms = SpeakerNorms.from_json(value)
    for speaker in ("s0", "s1", "s2"):
        rows = np.concatenate([norms.apply(item.style, speaker) for item in batch if item.speaker == speaker])
        np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-5)
    everything = np.concatenate([norms.apply(item.style, item.speaker) for item in batch])
    np.testing.assert_allclose(everything.std(axis=0), 1, atol=1e-4)


@given(windows=st.integers(1, 2 * MIN_WINDOWS))
def test_only_speakers_heard_enough_have_a_mean_of_their_own(windows):
    batch = [features("a", "ann", windows), features("b", "", 30), features("c", "cat", 30)]
    _, value = fit_style(batch, 4, 0)
    assert ("ann" in value["speakers"]) == (windows >= MIN_WINDOWS)
    assert "" not in value["speakers"]
    rows = np.concatenate([item.style for item in batch]).astype(np.float64)
    np.testing.assert_allclose(value["global"]["mean"], rows.mean(axis=0))


@given(windows=st.integers(1, 8), clusters=st.integers(2, 40), voiced=st.integers(0, 6))
def test_a_tiny_sample_gives_smaller_codebooks(windows, clusters, voiced):
    batch = [features("a", windows=windows, voiced=voiced)]
    style, norms = fit_style(batch, clusters, 0)
    assert len(style) == min(clusters, windows)
    assert np.isfinite(style).all()
    assert min(norms["global"]["std"]) > 0
    assert 1 <= len(fit_pitch_codebook(batch, clusters, 0)) <= max(1, min(voiced, clusters - 1))


def test_a_sample_without_voice_has_the_median_as_its_one_centroid():
    assert fit_pitch_codebook([features("a", voiced=0)], 64, 0).tolist() == [[0.0]]


def test_one_constant_window_has_a_deviation_of_one():
    item = features("a", windows=1)
    _, norms = fit_style([item], 4, 0)
    assert norms["global"]["std"] == [1.0] * 8


@pytest.mark.parametrize("fit", [fit_units_codebook, fit_pitch_codebook, fit_style])
def test_no_clip_at_all_is_named(fit):
    with pytest.raises(ValueError, match="no clip is left"):
        fit([], 4, 0)


def test_a_pitch_codebook_of_one_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        fit_pitch_codebook(sample(), 1, 0)


SOURCES = {"units": MfccFeatures(), "pitch": CodebookPitchFeatures(), "style": ProsodyFeatures()}


class FlatEstimator:
    def track(self, pcm):
        return track(np.full(frames_covering(len(pcm), 160), 120))


@pytest.mark.parametrize("length", [1, 1000, 40_000])
def test_features_to_fit_are_those_of_the_build(length):
    pcm = noise(length)
    (got,) = FitFeaturesStage(FlatEstimator(), SOURCES).process([clip(pcm, key="k", speaker="ann", text="hello")])
    f0 = FlatEstimator().track(pcm)
    assert (got.key, got.speaker, got.text) == ("k", "ann", "hello")
    np.testing.assert_array_equal(got.units, unit_features(pcm))
    np.testing.assert_array_equal(got.pitch[:, 0], pitch_features(f0, length).values)
    np.testing.assert_array_equal(got.style, style_features(pcm, f0))
    assert {got.units.dtype, got.pitch.dtype, got.style.dtype} == {np.dtype(np.float32)}


def test_unvoiced_frames_contribute_no_pitch():
    class Silent:
        def track(self, pcm):
            return track(np.zeros(frames_covering(len(pcm), 160)))

    (got,) = FitFeaturesStage(Silent(), SOURCES).process([clip(noise(40_000))])
    assert got.pitch.shape == (0, 1)


def test_a_part_that_needs_no_training_contributes_no_rows():
    sources = {**SOURCES, "pitch": None, "style": None}
    (got,) = FitFeaturesStage(None, sources).process([clip(noise(4_000))])
    assert (len(got.units), len(got.pitch), len(got.style)) == (len(unit_features(noise(4_000))), 0, 0)


def test_features_that_are_not_finite_reject_the_clip():
    class Broken:
        def features(self, clip, track):
            return np.full((3, 2), np.nan, np.float32)

    (got,) = FitFeaturesStage(None, {"units": Broken(), "pitch": None, "style": None}).process([clip(noise(4_000))])
    assert got.reason == Reason.NOT_FINITE
