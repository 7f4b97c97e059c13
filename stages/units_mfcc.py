"""The embedded unit extractor: MFCC and k-means at 25 Hz.

It fills the slot `hubert`, but its ids are far from HuBERT's: they carry phones weakly and the voice strongly. The unit
contract says `mfcc-kmeans`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from schemas.contract import UnitContract
from schemas.records import Artifact, Checked, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reject
from stages.artifacts import load_npy
from stages.kmeans import assign
from stages.mfcc import NUM_FEATURES, UNIT_GRID, unit_features

SLOT = "hubert"


@dataclass(frozen=True, slots=True, kw_only=True)
class MfccUnitsConfig:
    """What decides the units.

    Attributes:
        codebook: .npy, float32, shape (codebook_size, 39), made by `fit_units_codebook`.
    """

    name: ClassVar[str] = "units"
    version: ClassVar[int] = 1

    codebook: Artifact

    def setup(self) -> "MfccUnits":
        return MfccUnits(_centroids(self.codebook))

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads the codebook."""
        rate = UNIT_GRID.rate
        return UnitContract(
            stream=SLOT,
            extractor="mfcc-kmeans",
            version=self.version,
            model_sha256="",
            layer=None,
            codebook_sha256=self.codebook.sha256,
            codebook_size=len(_centroids(self.codebook)),
            frame_rate=f"{rate.numerator}/{rate.denominator}",
            hop=UNIT_GRID.hop,
            offset=UNIT_GRID.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MfccFeatures:
    """The features that the codebook is trained on: one row per frame."""

    def setup(self) -> "MfccFeatures":
        return self

    def features(self, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        return unit_features(clip.pcm)


class MfccUnits:
    """Adds the stream `hubert` with one id per 640 samples, the last frame possibly partial."""

    def __init__(self, centroids: npt.NDArray[np.float32]) -> None:
        self._centroids = centroids

    def process(self, batch: Sequence[Checked]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def _encode(self, record: Checked) -> Encoded:
        ids = assign(unit_features(record.clip.pcm), self._centroids)
        return Encoded(checked=record, streams=(UnitStream(SLOT, ids),))


def _centroids(codebook: Artifact) -> npt.NDArray[np.float32]:
    centroids = load_npy(codebook, 2, np.float32)
    if centroids.shape[1] != NUM_FEATURES or len(centroids) == 0:
        raise ValueError(f"{codebook.path} must have shape (codebook_size, {NUM_FEATURES}), got {centroids.shape}")
    return centroids
