import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import Samples, frames_covering
from schemas.records import F0Track
from stages.artifacts import artifact_of
from stages.style_prosody import (
    FUNCTIONALS,
    NEUTRAL_OCTAVES,
    ProsodyStyle,
    ProsodyStyleConfig,
    SpeakerNorms,
    style_features,
)
from tests.feature_builders import encoded, harmonic, noise, npy_artifact, pcm_clips, track

LEVEL, SPREAD, VOICED, ENERGY, ENERGY_SPREAD, TILT, CENTROID, FLUX = range(8)


def flat(pcm, hz):
    return track(np.full(frames_covering(len(pcm), 160), hz))


@given(pcm=pcm_clips, hz=st.sampled_from([0, 60, 400]))
def test_any_clip_gives_finite_functionals_for_every_second(pcm, hz):
    features = style_features(pcm, flat(pcm, hz))
    assert features.dtype == np.float32
    assert features.shape == (frames_covering(len(pcm), 16_000), len(FUNCTIONALS))
    assert np.isfinite(features).all()
    assert ((features[:, VOICED] >= 0) & (features[:, VOICED] <= 1)).all()


def test_a_sine_has_the_energy_and_centroid_of_its_definition():
    pcm = np.round(8192 * np.sin(2 * np.pi * 2000 * np.arange(32_000) / 16_000)).astype(np.int16)
    features = style_features(pcm, flat(pcm, 0))[0]
    assert features[ENERGY] == pytest.approx(10 * np.log10(0.25**2 / 2), abs=0.1)
    assert features[CENTROID] == pytest.approx(2.0, abs=0.02)
    assert features[TILT] < -20
    assert features[FLUX] < 0.1
    assert features[VOICED] == 0
    assert features[LEVEL] == NEUTRAL_OCTAVES


def test_pitch_level_spread_and_voicing_come_from_the_track():
    pcm = harmonic(150, 2.0)
    hz = np.concatenate([np.tile([100, 200], 50), np.zeros(50), np.full(50, 400)])
    first, second = style_features(pcm, track(hz))
    assert first[[LEVEL, SPREAD, VOICED]] == pytest.approx([np.log2(100) + 0.5, 0.5, 1.0])
    assert second[[LEVEL, SPREAD, VOICED]] == pytest.approx([np.log2(400), 0.0, 0.5])


def test_a_window_without_voice_takes_the_clip_s_median_level():
    pcm = harmonic(150, 2.0)
    hz = np.concatenate([np.full(100, 256), np.zeros(100)])
    assert style_features(pcm, track(hz))[1][[LEVEL, SPREAD, VOICED]].tolist() == [8.0, 0.0, 0.0]


def test_a_pause_does_not_lower_the_level_of_the_speech_beside_it():
    speech = harmonic(150, 1.0)
    paused = speech.copy()
    paused[8000:] = 0
    whole = style_features(speech, flat(speech, 150))[0]
    half = style_features(paused, flat(paused, 150))[0]
    assert half[ENERGY] == pytest.approx(whole[ENERGY], abs=0.5)


def test_a_last_window_of_one_frame_is_defined():
    pcm = harmonic(150, 1.005)
    last = style_features(pcm, flat(pcm, 150))[1]
    assert last[[SPREAD, VOICED, ENERGY_SPREAD, FLUX]].tolist() == [0.0, 1.0, 0.0, 0.0]


def test_a_dark_sound_is_darker_than_a_bright_one():
    dark, bright = harmonic(120, 1.0), np.diff(noise(16_001)).astype(np.int16)
    a, b = style_features(dark, flat(dark, 120))[0], style_features(bright, flat(bright, 0))[0]
    assert a[TILT] > b[TILT] + 10
    assert a[CENTROID] < b[CENTROID] - 1


@pytest.fixture
def norms():
    return SpeakerNorms(mean=np.zeros(8), std=np.full(8, 2.0), speakers={"ann": np.arange(8.0)})


def test_a_known_speaker_is_taken_relative_to_its_own_mean(norms):
    rows = np.full((3, 8), 10, np.float32)
    assert norms.apply(rows, "ann")[0].tolist() == [(10 - i) / 2 for i in range(8)]
    assert norms.apply(rows, "bob")[2].tolist() == [5.0] * 8
    assert norms.apply(rows, "").dtype == np.float32


def test_norms_survive_their_json(norms):
    again = SpeakerNorms.from_json(json.loads(json.dumps(norms.to_json())))
    assert again.to_json() == norms.to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"global": {"mean": [0] * 8, "std": [0] * 8}},
        {"global": {"mean": [0] * 7, "std": [1] * 8}},
        {"global": {"mean": [0] * 8}},
        {"speakers": {"ann": [float("nan")] * 8}},
        {"speakers": None},
    ],
)
def test_malformed_norms_are_refused(norms, change):
    with pytest.raises(ValueError, match=r"expected 8|positive|malformed"):
        SpeakerNorms.from_json({**norms.to_json(), **change})


@pytest.fixture
def config(tmp_path, norms):
    (tmp_path / "speakers.json").write_text(json.dumps(norms.to_json()))
    codebook = np.random.default_rng(0).normal(0, 5, (6, 8)).astype(np.float32)
    return ProsodyStyleConfig(
        codebook=npy_artifact(tmp_path / "style.npy", codebook), speakers=artifact_of(str(tmp_path / "speakers.json"))
    )


def test_the_stream_has_one_id_per_second_and_ignores_the_batch(config):
    batch = []
    for n in (1, 15_999, 16_000, 40_001):
        batch.append(encoded(noise(n, n), flat(noise(n), 120), key=f"u{n}", speaker="ann"))
    stage = config.setup()
    together = stage.process(batch)
    assert [o.streams[0].ids.tolist() for o in together] == [
        stage.process([r])[0].streams[0].ids.tolist() for r in batch
    ]
    assert [len(o.streams[0].ids) for o in together] == [1, 1, 1, 3]
    assert {o.streams[0].name for o in together} == {"style"}
    assert {o.streams[0].ids.dtype for o in together} == {np.dtype(np.uint16)}


def test_the_speaker_decides(norms):
    pcm = noise(16_000)
    raw = style_features(pcm, flat(pcm, 120))
    stage = ProsodyStyle(np.concatenate([norms.apply(raw, "bob"), norms.apply(raw, "ann")]), norms)
    outcomes = stage.process([encoded(pcm, flat(pcm, 120), speaker=s) for s in ("ann", "bob", "")])
    assert [outcome.streams[0].ids.tolist() for outcome in outcomes] == [[1], [0], [0]]


def test_a_record_without_f0_is_a_fault_of_the_plan(config):
    with pytest.raises(ValueError, match="must run f0 before style"):
        config.setup().process([encoded(noise(16_000))])


def test_a_track_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        style_features(noise(16_000), track(np.zeros(99)))


def test_the_contract_says_what_made_the_stream(config):
    contract = config.contract()
    assert (contract.stream, contract.extractor, contract.frame_rate) == ("style", "prosody-kmeans", "1/1")
    assert (contract.hop, contract.offset, contract.codebook_size) == (16_000, 8_000, 6)
    assert (contract.codebook_sha256, contract.model_sha256) == (config.codebook.sha256, "")


def test_broken_speaker_means_are_named(tmp_path, config):
    (tmp_path / "broken.json").write_text('{"global": ')
    broken = ProsodyStyleConfig(codebook=config.codebook, speakers=artifact_of(str(tmp_path / "broken.json")))
    with pytest.raises(ValueError, match=r"broken\.json"):
        broken.setup()


@pytest.mark.parametrize("length", [1, 160, 161, 40_000])
def test_a_finer_track_gives_the_features_of_its_every_second_frame(length):
    pcm = noise(length)
    hz = np.random.default_rng(0).uniform(80, 200, frames_covering(length, 80)).astype(np.float32)
    fine = style_features(pcm, F0Track(hz=hz, hop=Samples(80)))
    coarse = style_features(pcm, F0Track(hz=hz[::2], hop=Samples(160)))
    np.testing.assert_array_equal(fine, coarse)
