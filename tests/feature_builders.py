"""Builders of sounds, clips and records for the tests of units, F0, pitch and style."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from schemas.canonical import rng_for
from schemas.clock import SAMPLE_RATE, Samples
from schemas.records import Aligned, Artifact, Checked, Clip, Encoded, F0Track, Utterance
from schemas.unit_record import npy_bytes
from stages.artifacts import artifact_of
from tests.real_speech import SPEECH


def harmonic(f0, seconds=None, peak=8000):
    """A sound with 30 falling harmonics of an F0 given as a number or per sample: its F0 is known exactly."""
    f0 = np.broadcast_to(f0, int(seconds * SAMPLE_RATE)) if seconds is not None else np.asarray(f0)
    phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
    wave = sum(np.where(k * f0 < 7500, np.cos(k * phase) / k, 0.0) for k in range(1, 31))
    return (peak * wave / np.abs(wave).max()).astype(np.int16)


def noise(num_samples, seed=0, spread=1000):
    return rng_for(seed, "noise").normal(0, spread, num_samples).clip(-32768, 32767).astype(np.int16)


def clip(pcm, key="u0", speaker="", text="a word"):
    utterance = Utterance(key=key, id=key, audio=key, location=key, text=text, recording=key, index=0, speaker=speaker)
    return Clip(utterance=utterance, pcm=pcm, source_rate=SAMPLE_RATE, source_channels=1)


def checked(pcm, key="u0", speaker=""):
    aligned = Aligned(clip=clip(pcm, key, speaker), words=(), score_all=-5.0, score_words=-5.0, fallback=False)
    return Checked(aligned=aligned, doubtful=())


def encoded(pcm, f0=None, key="u0", speaker=""):
    return Encoded(checked=checked(pcm, key, speaker), streams=(), f0=f0)


def track(hz):
    return F0Track(hz=np.asarray(hz, dtype=np.float32), hop=Samples(160))


def npy_artifact(path: Path, array) -> Artifact:
    path.write_bytes(npy_bytes(array))
    return artifact_of(str(path))


pcm_clips = st.builds(
    lambda length, seed, spread: noise(length, seed, spread),
    st.integers(1, 40_000),
    st.integers(0, 99),
    st.sampled_from([0, 1, 300, 8000, 100_000]),
)
"""Clips of 1 sample to 2.5 s: silence, rounding noise, noise, and noise cut off at full scale."""


@cache
def speech() -> tuple[np.ndarray, ...]:
    """Real 16 kHz clips of 1 to 8 s; skips the test where INTERLOOM_SPEECH names none."""
    soundfile = pytest.importorskip("soundfile")
    paths = sorted(SPEECH.glob("*.wav"))
    found = [soundfile.read(path, dtype="int16") for path in paths if 32_000 < path.stat().st_size < 256_000]
    clips = tuple(pcm for pcm, rate in found if rate == SAMPLE_RATE and pcm.ndim == 1)
    if not clips:
        pytest.skip("INTERLOOM_SPEECH names no folder of real speech")
    return clips
