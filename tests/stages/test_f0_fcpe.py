import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.f0_fcpe as f0_fcpe
from schemas.clock import SAMPLE_RATE, frames_covering
from stages.f0_fcpe import FcpeConfig, FcpeEstimator, FcpeF0, load_estimator
from tests.feature_builders import encoded, harmonic, noise, speech

pytest.importorskip("torchfcpe")


@pytest.fixture(scope="module")
def estimator():
    return load_estimator(FcpeConfig())


def cents(hz, truth):
    return 1200 * np.log2(hz / truth)


@pytest.mark.parametrize("seed", range(4))
def test_moving_f0_is_followed_within_a_few_cents(estimator, seed):
    rng = np.random.default_rng(seed)
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    truth = rng.uniform(90, 330) * 2 ** (rng.uniform(0.05, 0.25) * np.sin(2 * np.pi * rng.uniform(0.5, 2) * time))
    hz = estimator.track(harmonic(truth)).hz
    assert (hz > 0).mean() > 0.98
    heard = hz > 0
    assert np.median(np.abs(cents(hz[heard], truth[::160][heard]))) < 5


@pytest.mark.parametrize("slope", [1.0, -1.0])
def test_frame_i_stands_for_sample_160_i(estimator, slope):
    time = np.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    hz = estimator.track(harmonic(200 * 2 ** (slope * (time - 1)))).hz
    frames = np.arange(40, 160)
    stands_for = np.log2(hz[frames] / 200) / slope + 1
    assert abs(np.median(stands_for - frames * 0.01)) < 0.002


@pytest.mark.parametrize("length", [1, 100, 159, 160, 161, 432, 433, 592, 800, 1600, 15_999, 16_000])
def test_every_length_gives_its_frames(estimator, length):
    track = estimator.track(noise(length))
    assert track.hz.dtype == np.float32
    assert track.hz.shape == (frames_covering(length, 160),)
    assert track.hop == 160
    assert np.isfinite(track.hz).all()


@pytest.mark.parametrize("length", [1, 800, 40_000])
def test_silence_is_unvoiced(estimator, length):
    assert not estimator.track(np.zeros(length, np.int16)).hz.any()


@pytest.mark.parametrize("length", [800, 1600, 32_000])
def test_noise_is_hardly_ever_voiced(estimator, length):
    assert np.mean([(estimator.track(noise(length, seed)).hz > 0).mean() for seed in range(5)]) < 0.1


def half_voiced(seconds):
    time = np.arange(seconds * SAMPLE_RATE) / SAMPLE_RATE
    voice = harmonic(150 * 2 ** (0.3 * np.sin(2 * np.pi * 0.7 * time)))
    return np.where(time % 1 < 0.7, voice, noise(len(time), spread=200)).astype(np.int16)


@pytest.mark.parametrize(("length", "block"), [(96_000, 100), (96_001, 100), (95_000, 300), (48_159, 299)])
def test_blocks_give_the_values_of_one_pass(monkeypatch, length, block):
    everything = load_estimator(FcpeConfig(threshold=0.0, min_hz=1.0, max_hz=8000.0))
    pcm = noise(length, spread=500)
    pcm[: length // 3] //= 50  # statistics of a block are not those of the clip
    monkeypatch.setattr(f0_fcpe, "BLOCK", length)
    want = everything.track(pcm).hz
    monkeypatch.setattr(f0_fcpe, "BLOCK", block)
    np.testing.assert_allclose(everything.track(pcm).hz, want, atol=4e-4)


@pytest.mark.parametrize("length", [16_000, 16_001, 15_999, 15_900])
def test_mel_frames_of_a_stretch_are_those_of_the_clip(estimator, length):
    pcm = noise(length, spread=3000)
    count = frames_covering(length, 160)
    want = estimator._mels(pcm, 0, count).numpy()
    for start, end in ((0, 20), (2, 9), (50, 51), (30, count), (count - 1, count)):
        np.testing.assert_allclose(estimator._mels(pcm, start, end).numpy(), want[:, :, start:end], atol=2e-5)


def test_no_block_is_larger_than_told(monkeypatch):
    estimator = load_estimator(FcpeConfig())
    seen = []
    whole = estimator._mels
    monkeypatch.setattr(f0_fcpe, "BLOCK", 100)
    monkeypatch.setattr(estimator, "_mels", lambda pcm, start, end: seen.append(end - start) or whole(pcm, start, end))
    estimator.track(noise(60_000))
    assert max(seen) <= 100 + 2 * f0_fcpe.CONTEXT + 4
    assert sum(seen) > 2 * 375


@given(length=st.integers(1, 6000), seed=st.integers(0, 9))
@settings(max_examples=20)
def test_a_hop_of_80_repeats_the_frames_of_the_net(estimator, length, seed):
    pcm = noise(length, seed) + harmonic(140 + 10 * seed, (length + 1) / SAMPLE_RATE)[:length]
    want = estimator.track(pcm).hz
    track = FcpeEstimator(FcpeConfig(hop=80), estimator._mel, estimator._network).track(pcm)
    assert track.hop == 80
    assert track.hz.tolist() == [want[frame // 2] for frame in range(frames_covering(length, 80))]


def test_a_hop_of_80_is_that_of_the_package_itself():
    import torch
    import torchfcpe

    pcm = half_voiced(3)
    wave = torch.from_numpy(pcm.astype(np.float32) / 32768)[None, :, None]
    theirs = torchfcpe.spawn_bundled_infer_model(device="cpu")
    want = theirs.infer(
        wave, SAMPLE_RATE, threshold=0.05, f0_min=50, f0_max=1100, output_interp_target_length=len(pcm) // 80 + 1
    )[0, :, 0].numpy()
    got = load_estimator(FcpeConfig(hop=80)).track(pcm).hz
    assert ((got > 0) == (want > 50)[: len(got)]).mean() > 0.998
    both = (got > 0) & (want > 50)[: len(got)]
    np.testing.assert_allclose(got[both], want[: len(got)][both], rtol=1e-4)


def test_the_track_is_that_of_the_package_itself(estimator):
    import torch
    import torchfcpe

    pcm = half_voiced(6)
    theirs = torchfcpe.spawn_bundled_infer_model(device="cpu")
    wave = torch.from_numpy(pcm.astype(np.float32) / 32768)[None, :, None]
    want = theirs.infer(wave, SAMPLE_RATE, threshold=0.05)[0, :, 0].numpy()[: frames_covering(len(pcm), 160)]
    got = estimator.track(pcm).hz
    assert ((got > 0) == (want > 50)).mean() > 0.998
    both = (got > 0) & (want > 50)
    assert both.mean() > 0.5
    np.testing.assert_allclose(got[both], want[both], rtol=1e-4)


def test_frequencies_outside_the_range_are_unvoiced():
    narrow = load_estimator(FcpeConfig(min_hz=120, max_hz=180))
    for f0, voiced in ((100, 0), (150, 1), (220, 0)):
        assert (narrow.track(harmonic(f0, 1.0)).hz > 0).mean() == pytest.approx(voiced, abs=0.05)


def test_order_and_batching_never_change_the_track(estimator):
    batch = [encoded(noise(3200 * n, n) + harmonic(100 + 9 * n, n / 5), key=f"u{n}") for n in (1, 4, 9)]
    want = {r.clip.utterance.key: r.f0.hz.tobytes() for r in FcpeF0(estimator).process(batch)}
    random.Random(0).shuffle(batch)
    assert {r.clip.utterance.key: FcpeF0(estimator).process([r])[0].f0.hz.tobytes() for r in batch} == want


def test_neither_loading_nor_full_scale_prints_anything():
    program = """if True:
        import numpy as np
        from stages.f0_fcpe import FcpeConfig, load_estimator
        square = np.where(np.arange(16_000) % 160 < 80, 32767, -32768).astype(np.int16)
        load_estimator(FcpeConfig()).track(square)
        """
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_other_weights_are_refused_before_they_are_parsed(monkeypatch):
    monkeypatch.setattr(f0_fcpe, "WEIGHTS_SHA256", "0" * 64)
    monkeypatch.setattr("torch.load", lambda *_args, **_kwargs: pytest.fail("parsed"))
    with pytest.raises(ValueError, match="reinstall torchfcpe"):
        load_estimator(FcpeConfig())


@pytest.mark.parametrize(
    "fields", [{"threshold": 1.5}, {"min_hz": 0.0}, {"min_hz": 500.0, "max_hz": 400.0}, {"hop": 120}]
)
def test_wrong_settings_are_named(fields):
    with pytest.raises(ValueError, match=str(next(iter(fields.values())))):
        FcpeConfig(**fields)


def test_an_empty_clip_is_refused(estimator):
    with pytest.raises(ValueError, match="int16"):
        estimator.track(np.zeros(0, np.int16))


def test_real_speech_is_partly_voiced_in_the_range_of_voices(estimator):
    hz = np.concatenate([estimator.track(pcm).hz for pcm in speech()[:6]])
    assert 0.2 < (hz > 0).mean() < 0.9
    assert 70 < np.median(hz[hz > 0]) < 300


@pytest.mark.slow
def test_ten_minutes_take_the_memory_of_one():
    program = """if True:
        import resource, sys
        import numpy as np
        from stages.f0_fcpe import FcpeConfig
        estimator = FcpeConfig().load()
        estimator.track(np.ones(60 * 16_000, np.int16))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        estimator.track(np.ones(600 * 16_000, np.int16))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 60_000  # KiB, of which the audio is 18,750; the net's hidden layer would be 123,000
