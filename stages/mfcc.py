"""MFCC with deltas, the targets of HuBERT's first iteration (Hsu et al. 2021, arXiv 2106.07447), in float64 numpy.

Everything here is a pure function of the clip, so a clip's features cannot depend on its batch-mates.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples, centred_grid, frames_covering

HOP = 160
"""Samples from one short-time frame to the next: 10 ms."""

WINDOW = 400
"""Samples in a short-time frame: 25 ms. Frame i is centred on the middle of samples [i * HOP, (i + 1) * HOP)."""

FFT = 512
UNIT_GRID = centred_grid(Samples(640))
"""25 frames per second; unit frame i averages the four short-time frames of samples [i * 640, (i + 1) * 640)."""

NUM_CEPSTRA = 13
NUM_FEATURES = 3 * NUM_CEPSTRA
NUM_FILTERS = 40
LOWEST_HZ, HIGHEST_HZ = 20.0, 7600.0
PREEMPHASIS = 0.97

POWER_FLOOR = 1e-7
"""Added to each mel band, near the power of 16-bit rounding noise, so that digital silence has a finite logarithm."""

BLOCK = 6_000
"""Short-time frames that are held at once: one minute, 25 MB."""

SPREAD_FLOOR = 0.1
"""Smallest standard deviation by which a cepstral coefficient is divided; speech has 1 to 10."""

Float = npt.NDArray[np.float64]


def signal_of(pcm: npt.NDArray[np.int16]) -> Float:
    """Return a clip as float64 in [-1, 1).

    Raises:
        ValueError: if the clip is not int16 of shape (num_samples,) with at least one sample.
    """
    if pcm.dtype != np.int16 or pcm.ndim != 1 or len(pcm) == 0:
        raise ValueError(f"a clip must be int16 of shape (num_samples,), not empty; got {pcm.dtype}{list(pcm.shape)}")
    return pcm.astype(np.float64) / 32768


def spectra_in_blocks(pcm: npt.NDArray[np.int16], preemphasis: float = 0.0) -> Iterator[Float]:
    """Yield Hamming-windowed power spectra, shape (num_frames, FFT // 2 + 1), BLOCK frames of a clip at a time.

    So an hour takes no more memory than a minute. There are frames_covering(num_samples, HOP) frames in all; samples
    beyond the clip count as zero. The samples are first emphasised: each loses `preemphasis` times the one before it.

    Raises:
        ValueError: if the clip is empty or not int16.
    """
    signal_of(pcm[:1])
    count, left = frames_covering(len(pcm), HOP), (WINDOW - HOP) // 2
    for first in range(0, count, BLOCK):
        start = first * HOP - left
        end = (min(first + BLOCK, count) - 1) * HOP + WINDOW - left
        low, high = max(0, start), min(end, len(pcm))
        before = pcm[max(0, low - 1) : max(0, low - 1) + 1]
        signal = signal_of(np.concatenate([before, pcm[low:high]]))
        yield _spectra(np.pad(signal[1:] - preemphasis * signal[:-1], (low - start, end - high)))


def _spectra(padded: Float) -> Float:
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    return np.asarray(np.abs(np.fft.rfft(frames * np.hamming(WINDOW), FFT)) ** 2)


def mel_filters() -> Float:
    """Return triangular filters on the mel scale, shape (NUM_FILTERS, FFT // 2 + 1)."""
    bins = _mel(np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT)
    edges = np.linspace(_mel(np.float64(LOWEST_HZ)), _mel(np.float64(HIGHEST_HZ)), NUM_FILTERS + 2)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def cosine_basis() -> Float:
    """Return the first NUM_CEPSTRA rows of the orthonormal DCT-II over NUM_FILTERS points."""
    angle = np.pi / NUM_FILTERS * np.outer(np.arange(NUM_CEPSTRA), np.arange(NUM_FILTERS) + 0.5)
    basis = np.sqrt(2 / NUM_FILTERS) * np.cos(angle)
    basis[0] /= np.sqrt(2)
    return np.asarray(basis)


def cepstra(pcm: npt.NDArray[np.int16]) -> Float:
    """Return mel-frequency cepstra, shape (frames_covering(num_samples, HOP), NUM_CEPSTRA)."""
    blocks = spectra_in_blocks(pcm, PREEMPHASIS)
    return np.concatenate([np.log(spectra @ _FILTERS.T + POWER_FLOOR) @ _COSINES.T for spectra in blocks])


def deltas(features: Float) -> Float:
    """Return the regression slope over five frames, the ends repeated; same shape."""
    padded = np.pad(features, ((2, 2), (0, 0)), "edge")
    return np.asarray((2 * (padded[4:] - padded[:-4]) + padded[3:-1] - padded[1:-3]) / 10)


def unit_features(pcm: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Return the features that are clustered into units: float32, shape (frames_covering(num_samples, 640), 39).

    Cepstra are normalised to mean 0 and deviation 1 over the clip, so that clusters carry over to other voices and
    microphones: fitted on other recordings, 100 units have a PNMI of .48 with the phone labels of 77 s of real speech
    (.16 when shuffled), and without the normalisation .32 (.08). Another 18 s are too few to tell: .53 (.47) against
    .48 (.41). `benchmarks/stages_units.py` prints all four; the choice was made on these clips. A last frame with fewer
    than four short-time frames repeats the last of them. Always finite, also on digital silence and on one sample.

    Raises:
        ValueError: if the clip is empty or not int16.
    """
    cepstral = cepstra(pcm)
    normal = (cepstral - cepstral.mean(axis=0)) / np.maximum(cepstral.std(axis=0), SPREAD_FLOOR)
    slope = deltas(normal)
    full = np.concatenate([normal, slope, deltas(slope)], axis=1)
    count = frames_covering(len(pcm), UNIT_GRID.hop)
    per_frame = UNIT_GRID.hop // HOP
    padded = np.pad(full, ((0, count * per_frame - len(full)), (0, 0)), "edge")
    return np.asarray(padded.reshape(count, per_frame, NUM_FEATURES).mean(axis=1), dtype=np.float32)


def _mel(hz: Float | np.float64) -> Float:
    return np.asarray(1127 * np.log1p(hz / 700))


_FILTERS = mel_filters()
_COSINES = cosine_basis()
