import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.f0_yaapt as f0_yaapt
from schemas.clock import SAMPLE_RATE, frames_covering
from stages.f0_yaapt import YaaptConfig, load_estimator
from tests.feature_builders import encoded, harmonic, noise, speech

pytest.importorskip("amfm_decompy")


@pytest.fixture(scope="module")
def estimator():
    return load_estimator(YaaptConfig())


def swing(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return rng.uniform(100, 250) * 2 ** (rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * rng.uniform(0.5, 1.5) * time))


@pytest.mark.parametrize("hop", [80, 160])
@pytest.mark.parametrize("seed", range(2))
def test_moving_f0_is_followed(hop, seed):
    truth = swing(1.5, seed)
    hz = load_estimator(YaaptConfig(hop=hop)).track(harmonic(truth)).hz
    heard = hz > 0
    assert heard.mean() > 0.95
    # One lag of the package's correlation is 1.3 % at 200 Hz, which is 22 cents.
    assert np.median(np.abs(1200 * np.log2(hz[heard] / truth[::hop][heard]))) < 40


@pytest.mark.parametrize("hop", [80, 160])
def test_frame_i_stands_for_sample_i_times_hop(hop):
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    found = []
    for slope in (1.0, -1.0):  # what reads too high or too low goes away in their mean
        hz = load_estimator(YaaptConfig(hop=hop)).track(harmonic(200 * 2 ** (slope * (time - 1)))).hz
        frames = np.arange(len(hz) // 5, len(hz) * 4 // 5)
        found.append(np.median(np.log2(hz[frames] / 200) / slope + 1 - frames * hop / SAMPLE_RATE))
    assert abs(np.mean(found)) < 0.01  # the package's band-pass delays by 5 ms


def kinds(length, kind, seed):
    rng = np.random.default_rng(seed)
    time = np.arange(length)
    if kind == "sparse":
        pcm = np.zeros(length, np.int16)
        pcm[rng.integers(length)] = rng.integers(1, 30_000)
        return pcm
    if kind == "constant":
        return np.full(length, rng.integers(-32_768, 32_767), np.int16)
    if kind == "square":
        return np.where(time % int(rng.integers(2, 400)) < rng.integers(1, 200), 32_767, -32_768).astype(np.int16)
    if kind == "sine":
        return (8000 * np.sin(2 * np.pi * time * rng.uniform(20, 4000) / SAMPLE_RATE)).astype(np.int16)
    if kind == "half silent":
        return np.where(time < length // 2, 0, noise(length, seed, 3000)).astype(np.int16)
    return noise(length, seed, {"hiss": 1, "noise": 1000, "clipped": 100_000}[kind])


@given(
    length=st.one_of(st.integers(1, 400), st.integers(400, 9000)),
    kind=st.sampled_from(["sparse", "constant", "square", "sine", "half silent", "hiss", "noise", "clipped"]),
    seed=st.integers(0, 999),
    lowest=st.sampled_from([50.0, 60.0, 120.0]),
    highest=st.sampled_from([180.0, 400.0, 1000.0]),
    hop=st.sampled_from([80, 160]),
)
@settings(max_examples=25, deadline=None)
def test_every_sound_of_every_length_gives_its_frames(length, kind, seed, lowest, highest, hop):
    track = YaaptConfig(min_hz=lowest, max_hz=highest, hop=hop).load().track(kinds(length, kind, seed))
    assert track.hz.dtype == np.float32
    assert track.hz.shape == (frames_covering(length, hop),)
    assert track.hop == hop
    heard = track.hz[track.hz != 0]
    assert ((heard >= lowest) & (heard <= highest)).all()


@pytest.mark.parametrize("length", [1, 79, 80, 81, 159, 160, 161, 1599, 1600, 1601])
def test_short_lengths(estimator, length):
    assert estimator.track(noise(length)).hz.shape == (frames_covering(length, 80),)


@pytest.mark.parametrize("length", [1, 800, 40_000])
def test_silence_is_unvoiced(estimator, length):
    assert not estimator.track(np.zeros(length, np.int16)).hz.any()


def test_loudness_does_not_matter(estimator):
    pcm = harmonic(swing(0.5), peak=2000)
    np.testing.assert_array_equal(estimator.track(pcm).hz, estimator.track(pcm * np.int16(8)).hz)


def test_long_clips_pass_in_blocks_that_join(estimator, monkeypatch):
    pcm = harmonic(swing(3.01))
    want = estimator.track(pcm).hz
    monkeypatch.setattr(f0_yaapt, "BLOCK", SAMPLE_RATE)
    got = estimator.track(pcm).hz
    assert got.shape == want.shape == (602,)
    assert np.median(np.abs(got / want - 1)) < 1e-3
    assert (np.abs(got / want - 1) < 0.02).mean() > 0.97


def test_the_track_is_that_of_the_package_as_the_release_calls_it(estimator):
    from amfm_decompy.basic_tools import SignalObj
    from amfm_decompy.pYAAPT import yaapt

    pcm = np.concatenate([harmonic(swing(0.6)), noise(4000, spread=100), harmonic(swing(0.6, 1))])
    pcm = pcm[: len(pcm) // 80 * 80]
    wave = pcm / np.abs(pcm.astype(float)).max() * 0.95
    theirs = yaapt(
        SignalObj(np.pad(wave, 160), SAMPLE_RATE),
        frame_length=20.0, frame_space=5.0, nccf_thresh1=0.25, tda_frame_length=25.0,
    )  # fmt: skip
    got = estimator.track(pcm).hz
    assert 0.5 < (got > 0).mean() < 0.97
    np.testing.assert_allclose(got, theirs.samp_values, rtol=1e-6)


def test_order_and_batching_never_change_the_track():
    batch = [encoded(noise(1600 * n, n) + harmonic(100 + 9 * n, n / 10), key=f"u{n}") for n in (1, 2, 4)]
    stage = YaaptConfig().setup()
    want = {r.clip.utterance.key: r.f0.hz.tobytes() for r in stage.process(batch)}
    random.Random(0).shuffle(batch)
    assert {r.clip.utterance.key: stage.process([r])[0].f0.hz.tobytes() for r in batch} == want


def test_nothing_is_printed():
    program = """if True:
        import numpy as np
        from stages.f0_yaapt import YaaptConfig
        for hz in (50.0, 120.0):
            estimator = YaaptConfig(min_hz=hz, max_hz=1000.0).load()
            estimator.track(np.random.default_rng(0).integers(-9000, 9000, 4000).astype(np.int16))
            estimator.track(np.eye(1, 3000, 7, dtype=np.int16)[0])
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


@pytest.mark.parametrize(
    "fields", [{"min_hz": 49.0}, {"min_hz": 130.0}, {"max_hz": 170.0}, {"max_hz": 1001.0}, {"hop": 100}]
)
def test_wrong_settings_are_named(fields):
    with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
        YaaptConfig(**fields)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "amfm_decompy.pYAAPT", None)
    with pytest.raises(ValueError, match="pip install AMFM-decompy"):
        YaaptConfig().check()


@pytest.mark.parametrize("pcm", [np.zeros(0, np.int16), np.zeros(9, np.float32), np.zeros((2, 9), np.int16)])
def test_other_arrays_are_refused(estimator, pcm):
    with pytest.raises(ValueError, match="int16"):
        estimator.track(pcm)


def test_real_speech_agrees_with_fcpe(estimator):
    pytest.importorskip("torchfcpe")
    from stages.f0_fcpe import FcpeConfig

    other = FcpeConfig(hop=80).load()
    clips = speech()[:3]
    mine, theirs = (np.concatenate([each.track(pcm).hz for pcm in clips]) for each in (estimator, other))
    both = (mine > 0) & (theirs > 0)
    assert ((mine > 0) == (theirs > 0)).mean() > 0.8
    assert (np.abs(1200 * np.log2(mine[both] / theirs[both])) < 100).mean() > 0.75
