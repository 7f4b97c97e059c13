"""The embedded pitch quantiser: relative log-F0 at 12.5 Hz, nearest of a few fitted values.

Spirit LM's own quantiser is a VQ-VAE over F0 at the same rate (arXiv 2402.05755, 3.2); the contract says which it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples, centred_grid, frames_covering
from schemas.contract import UnitContract
from schemas.records import Artifact, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reject
from stages.artifacts import load_npy
from stages.kmeans import assign

SLOT = "pitch"
GRID = centred_grid(Samples(1280))
UNVOICED = 0
"""The id of unvoiced frames; id i > 0 stands for centroid i - 1."""


class PitchFeatures(NamedTuple):
    """Pitch at 12.5 Hz.

    Attributes:
        values: float32, shape (num_frames,): octaves above the clip's median voiced F0; 0 where unvoiced.
        voiced: bool, shape (num_frames,).
    """

    values: npt.NDArray[np.float32]
    voiced: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class PitchCodebookConfig:
    """What decides the pitch units.

    Attributes:
        codebook: .npy, float32, shape (codebook_size - 1, 1), ascending, made by `fit_pitch_codebook`.
    """

    name: ClassVar[str] = "pitch"
    version: ClassVar[int] = 1

    codebook: Artifact

    def setup(self) -> "PitchCodebook":
        return PitchCodebook(_centroids(self.codebook))

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads the codebook."""
        rate = GRID.rate
        return UnitContract(
            stream=SLOT,
            extractor="f0-codebook",
            version=self.version,
            model_sha256="",
            layer=None,
            codebook_sha256=self.codebook.sha256,
            codebook_size=len(_centroids(self.codebook)) + 1,
            frame_rate=f"{rate.numerator}/{rate.denominator}",
            hop=GRID.hop,
            offset=GRID.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookPitchFeatures:
    """The features that the codebook is trained on: relative log-F0, one row per voiced frame."""

    def setup(self) -> "CodebookPitchFeatures":
        return self

    def features(self, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        if track is None:
            raise ValueError("pitch features need F0")
        pitch = pitch_features(track, clip.num_samples)
        return pitch.values[pitch.voiced][:, None]


class PitchCodebook:
    """Adds the stream `pitch` with one id per 1280 samples, the last frame possibly partial."""

    def __init__(self, centroids: npt.NDArray[np.float32]) -> None:
        self._centroids = centroids

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def _encode(self, record: Encoded) -> Encoded:
        if record.f0 is None:
            raise ValueError(f"record {record.clip.utterance.key!r} has no F0: the plan must run f0 before pitch")
        values, voiced = pitch_features(record.f0, record.clip.num_samples)
        nearest = assign(values[:, None], self._centroids) + np.uint16(1)
        ids = np.where(voiced, nearest, np.uint16(UNVOICED))
        return replace(record, streams=(*record.streams, UnitStream(SLOT, ids)))


def pitch_features(track: F0Track, num_samples: int) -> PitchFeatures:
    """Return log-F0 at 12.5 Hz relative to the clip's own median, so that ids say little about the speaker's register.

    A frame is voiced where at least half of the F0 frames in its 1280 samples are, and its value is the mean over the
    voiced ones. Never NaN, also where nothing is voiced.

    Args:
        track: F0 with a hop that divides 1280, covering the clip.
        num_samples: length of the clip at 16 kHz.

    Raises:
        ValueError: if the track's hop or length does not fit.
    """
    if GRID.hop % track.hop or len(track.hz) != frames_covering(num_samples, track.hop):
        raise ValueError(f"{len(track.hz)} F0 frames of hop {track.hop} do not fit a clip of {num_samples} samples")
    count, per_frame = frames_covering(num_samples, GRID.hop), GRID.hop // track.hop
    spare = count * per_frame - len(track.hz)
    hz = np.pad(track.hz.astype(np.float64), (0, spare)).reshape(count, per_frame)
    present = np.full(count, per_frame)
    present[-1:] -= spare
    heard = hz > 0
    octaves = np.log2(hz, out=np.zeros_like(hz), where=heard)
    if heard.any():
        octaves = np.where(heard, octaves - np.median(octaves[heard]), 0.0)
    number = heard.sum(axis=1)
    voiced = (number > 0) & (2 * number >= present)
    values = np.where(voiced, octaves.sum(axis=1) / np.maximum(number, 1), 0.0)
    return PitchFeatures(values.astype(np.float32), voiced)


def _centroids(codebook: Artifact) -> npt.NDArray[np.float32]:
    centroids = load_npy(codebook, 2, np.float32)
    if centroids.shape[1] != 1 or len(centroids) == 0 or (np.diff(centroids[:, 0]) < 0).any():
        raise ValueError(f"{codebook.path} must hold ascending values of shape (codebook_size - 1, 1)")
    return centroids
