import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from schemas.clock import frames_covering
from stages import mfcc
from stages.mfcc import (
    FFT,
    HOP,
    NUM_FEATURES,
    POWER_FLOOR,
    UNIT_GRID,
    WINDOW,
    cepstra,
    cosine_basis,
    deltas,
    mel_filters,
    spectra_in_blocks,
    unit_features,
)
from tests.feature_builders import noise, pcm_clips


@given(pcm=pcm_clips)
def test_any_clip_gives_finite_features_for_every_frame(pcm):
    features = unit_features(pcm)
    assert features.dtype == np.float32
    assert features.shape == (frames_covering(len(pcm), 640), NUM_FEATURES)
    assert np.isfinite(features).all()


def test_one_frame_agrees_with_the_definition_worked_out_term_by_term():
    pcm = noise(4000)
    signal = [sample / 32768 for sample in pcm.tolist()]
    frame = 10
    start = frame * HOP + HOP // 2 - WINDOW // 2
    emphasised = [signal[t] - 0.97 * signal[t - 1] for t in range(start, start + WINDOW)]
    window = [0.54 - 0.46 * math.cos(2 * math.pi * t / (WINDOW - 1)) for t in range(WINDOW)]
    bands = np.zeros(40)
    edges = [700 * (math.exp(m / 1127) - 1) for m in np.linspace(mel(20), mel(7600), 42)]
    for k in range(FFT // 2 + 1):
        turns = [complex(0, -2 * math.pi * k * t / FFT) for t in range(WINDOW)]
        value = sum(x * w * np.exp(turn) for x, w, turn in zip(emphasised, window, turns, strict=True))
        for band in range(40):
            bands[band] += abs(value) ** 2 * triangle(k * 16_000 / FFT, *edges[band : band + 3])
    want = dct(np.log(bands + POWER_FLOOR), norm="ortho")[:13]
    np.testing.assert_allclose(cepstra(pcm)[frame], want, rtol=1e-7, atol=1e-9)


def mel(hz):
    return 1127 * math.log(1 + hz / 700)


def triangle(hz, low, peak, high):
    rising = (mel(hz) - mel(low)) / (mel(peak) - mel(low))
    falling = (mel(high) - mel(hz)) / (mel(high) - mel(peak))
    return max(0.0, min(rising, falling))


def test_the_cosine_basis_is_that_of_scipy():
    points = np.random.default_rng(0).normal(size=(5, 40))
    np.testing.assert_allclose(points @ cosine_basis().T, dct(points, norm="ortho")[:, :13], atol=1e-12)


def test_power_obeys_parseval():
    pcm = noise(1600)
    frame = 4
    windowed = pcm[frame * HOP + HOP // 2 - 200 :][:WINDOW] * np.hamming(WINDOW) / 32768
    power = next(spectra_in_blocks(pcm))[frame]
    both_sides = power[0] + power[-1] + 2 * power[1:-1].sum()
    assert both_sides / FFT == pytest.approx((windowed**2).sum())


@given(length=st.integers(1, 40 * HOP), block=st.integers(1, 50), emphasis=st.sampled_from([0.0, 0.97]))
def test_spectra_in_blocks_are_those_of_one_pass(length, block, emphasis):
    pcm = noise(length)
    whole = np.concatenate(list(spectra_in_blocks(pcm, emphasis)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mfcc, "BLOCK", block)
        parts = np.concatenate(list(spectra_in_blocks(pcm, emphasis)))
    np.testing.assert_array_equal(parts, whole)


def test_every_filter_hears_something():
    filters = mel_filters()
    assert filters.shape == (40, FFT // 2 + 1)
    assert (filters.max(axis=1) > 0.3).all()
    assert filters.max() <= 1


def test_the_delta_of_a_line_is_its_slope():
    line = np.outer(np.arange(20.0), [3.0, -0.5])
    np.testing.assert_allclose(deltas(line)[2:-2], np.broadcast_to([3.0, -0.5], (16, 2)))


def test_a_unit_frame_looks_at_its_own_samples():
    pcm = noise(16_000, spread=10)
    loud = pcm.copy()
    frame = 12
    loud[UNIT_GRID.position(frame) - 80 : UNIT_GRID.position(frame) + 80] = noise(160, spread=9000)
    change = np.abs(unit_features(loud)[:, :13] - unit_features(pcm)[:, :13]).sum(axis=1)
    assert change.argmax() == frame


def test_loudness_does_not_matter():
    pcm = noise(24_000, spread=6000)
    np.testing.assert_allclose(unit_features((pcm // 8).astype(np.int16)), unit_features(pcm), atol=0.05)


@pytest.mark.parametrize("bad", [np.zeros(0, np.int16), np.zeros(100, np.float32), np.zeros((100, 2), np.int16)])
def test_a_wrong_array_is_named(bad):
    with pytest.raises(ValueError, match="int16 of shape"):
        unit_features(bad)
