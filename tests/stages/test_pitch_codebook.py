import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import Samples, frames_covering
from schemas.records import F0Track
from stages.pitch_codebook import PitchCodebookConfig, pitch_features
from tests.feature_builders import encoded, noise, npy_artifact, track

CENTROIDS = np.array([[-0.5], [-0.1], [0.0], [0.1], [0.5]], np.float32)


@pytest.fixture
def config(tmp_path):
    return PitchCodebookConfig(codebook=npy_artifact(tmp_path / "pitch.npy", CENTROIDS))


@st.composite
def tracks(draw):
    num_samples = draw(st.integers(1, 60_000))
    count = frames_covering(num_samples, 160)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    voiced = rng.random(count) < draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    return track(np.where(voiced, rng.uniform(50, 1100, count), 0)), num_samples


@given(case=tracks())
def test_features_follow_the_definition_frame_by_frame(case):
    f0, num_samples = case
    values, voiced = pitch_features(f0, num_samples)
    count = frames_covering(num_samples, 1280)
    assert (values.dtype, values.shape, voiced.dtype, voiced.shape) == (np.float32, (count,), np.bool_, (count,))
    median = np.median([np.log2(hz) for hz in f0.hz.astype(float) if hz > 0]) if f0.hz.any() else 0.0
    for frame in range(count):
        inside = f0.hz[8 * frame : 8 * frame + 8].astype(float)
        heard = [np.log2(hz) - median for hz in inside if hz > 0]
        assert voiced[frame] == (len(heard) > 0 and len(heard) >= len(inside) / 2)
        assert values[frame] == pytest.approx(np.mean(heard) if voiced[frame] else 0.0, abs=1e-6)


@given(case=tracks(), factor=st.floats(0.5, 2))
def test_register_does_not_matter(case, factor):
    f0, num_samples = case
    shifted = track(f0.hz * np.float32(factor))
    np.testing.assert_allclose(
        pitch_features(shifted, num_samples).values, pitch_features(f0, num_samples).values, atol=1e-5
    )


def test_ids_name_the_nearest_centroid_and_zero_is_unvoiced(config):
    octaves = np.array([0, 0, 0, 0.52, -0.45, 0.09])
    hz = np.repeat(160 * 2**octaves, 8)
    hz[8:16] = 0  # the second frame is silent
    hz[16:20] = 0  # the third has just half of its frames
    pcm = noise(len(hz) * 160)
    (outcome,) = config.setup().process([encoded(pcm, track(hz))])
    assert outcome.streams[0].name == "pitch"
    assert outcome.streams[0].ids.dtype == np.uint16
    assert outcome.streams[0].ids.tolist() == [3, 0, 3, 5, 1, 4]


@pytest.mark.parametrize("length", [1, 1279, 1280, 1281, 50_000])
def test_nothing_voiced_gives_zeros_only(config, length):
    record = encoded(noise(length), track(np.zeros(frames_covering(length, 160))))
    (outcome,) = config.setup().process([record])
    assert outcome.streams[0].ids.tolist() == [0] * frames_covering(length, 1280)


def test_the_stream_is_added_after_those_there(config):
    record = encoded(noise(16_000), track(np.full(100, 120)))
    stage = config.setup()
    (once,) = stage.process([record])
    (twice,) = stage.process([once])
    assert [stream.name for stream in twice.streams] == ["pitch", "pitch"]


def test_a_record_without_f0_is_a_fault_of_the_plan(config):
    with pytest.raises(ValueError, match="must run f0 before pitch"):
        config.setup().process([encoded(noise(16_000))])


@pytest.mark.parametrize("f0", [track(np.zeros(99)), F0Track(hz=np.zeros(54, np.float32), hop=Samples(300))])
def test_a_track_that_does_not_fit_is_refused(f0):
    with pytest.raises(ValueError, match="do not fit"):
        pitch_features(f0, 16_000)


def test_the_contract_says_what_made_the_stream(config):
    contract = config.contract()
    assert (contract.stream, contract.extractor, contract.frame_rate) == ("pitch", "f0-codebook", "25/2")
    assert (contract.hop, contract.offset, contract.codebook_size) == (1280, 640, 6)
    assert (contract.codebook_sha256, contract.model_sha256) == (config.codebook.sha256, "")


@pytest.mark.parametrize("bad", [CENTROIDS[::-1], np.zeros((0, 1), np.float32), np.zeros((3, 2), np.float32)])
def test_a_malformed_codebook_is_named(tmp_path, bad):
    config = PitchCodebookConfig(codebook=npy_artifact(tmp_path / "odd.npy", np.ascontiguousarray(bad)))
    with pytest.raises(ValueError, match=r"odd\.npy"):
        config.setup()
