"""The embedded style units: eight prosodic functionals per second, relative to the speaker, clustered.

They say how loud, high, lively and bright a second is for its speaker. They were never shown to carry emotion; Spirit
LM's style tokens come from an encoder trained for expressive style (arXiv 2402.05755, 3.2).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples, centred_grid, frames_covering
from schemas.contract import UnitContract
from schemas.records import Artifact, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reject
from stages.artifacts import load_npy, verified_bytes
from stages.kmeans import assign
from stages.mfcc import FFT, HOP, WINDOW, spectra_in_blocks

SLOT = "style"
GRID = centred_grid(Samples(SAMPLE_RATE))
FUNCTIONALS = (
    "log-F0 level, octaves",
    "log-F0 spread, octaves",
    "voiced share",
    "energy level, dB",
    "energy spread, dB",
    "spectral tilt, dB",
    "spectral centroid, kHz",
    "energy flux, dB per frame",
)

POWER_FLOOR = 1e-8
"""Mean power taken for silence: -80 dB of full scale."""

ACTIVE_DB = 35.0
"""A short-time frame is active when it is no further than this below the clip's loudest."""

NEUTRAL_OCTAVES = 7.0
"""log2 of 128 Hz: the level where nothing in the clip is voiced."""

Float = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpeakerNorms:
    """What style is relative to.

    Attributes:
        mean: float64, shape (8,): over all speakers, for those without a mean of their own.
        std: float64, shape (8,), positive: deviation within speakers.
        speakers: speaker to mean.
    """

    mean: Float
    std: Float
    speakers: Mapping[str, Float]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Parse `{"global": {"mean", "std"}, "speakers": {speaker: mean}}`.

        Raises:
            ValueError: if a list has not eight finite numbers or a deviation is not positive.
        """
        try:
            mean, std = _vector(value["global"]["mean"]), _vector(value["global"]["std"])
            speakers = {str(name): _vector(level) for name, level in value["speakers"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"speaker means are malformed: {type(error).__name__}: {error}") from error
        if (std <= 0).any():
            raise ValueError(f"deviations must be positive, got {std.tolist()}")
        return cls(mean=mean, std=std, speakers=speakers)

    def to_json(self) -> dict[str, Any]:
        return {
            "global": {"mean": self.mean.tolist(), "std": self.std.tolist()},
            "speakers": {name: level.tolist() for name, level in sorted(self.speakers.items())},
        }

    def apply(self, features: npt.NDArray[np.float32], speaker: str) -> npt.NDArray[np.float32]:
        """Return features less the speaker's mean, in deviations: float32, same shape."""
        return np.asarray((features - self.speakers.get(speaker, self.mean)) / self.std, dtype=np.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyStyleConfig:
    """What decides the style units.

    Attributes:
        codebook: .npy, float32, shape (codebook_size, 8), made by `fit_style`.
        speakers: the JSON of `SpeakerNorms`, made with it.
    """

    name: ClassVar[str] = "style"
    version: ClassVar[int] = 1

    codebook: Artifact
    speakers: Artifact

    def setup(self) -> "ProsodyStyle":
        try:
            norms = SpeakerNorms.from_json(json.loads(verified_bytes(self.speakers)))
        except ValueError as error:
            raise ValueError(f"{self.speakers.path}: {error}") from error
        return ProsodyStyle(_centroids(self.codebook), norms)

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads the codebook."""
        rate = GRID.rate
        return UnitContract(
            stream=SLOT,
            extractor="prosody-kmeans",
            version=self.version,
            model_sha256="",
            layer=None,
            codebook_sha256=self.codebook.sha256,
            codebook_size=len(_centroids(self.codebook)),
            frame_rate=f"{rate.numerator}/{rate.denominator}",
            hop=GRID.hop,
            offset=GRID.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProsodyFeatures:
    """The features that the codebook is trained on: raw functionals, one row per window."""

    def setup(self) -> "ProsodyFeatures":
        return self

    def features(self, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        if track is None:
            raise ValueError("style features need F0")
        return style_features(clip.pcm, track)


class ProsodyStyle:
    """Adds the stream `style` with one id per second, the last window possibly partial."""

    def __init__(self, centroids: npt.NDArray[np.float32], norms: SpeakerNorms) -> None:
        self._centroids = centroids
        self._norms = norms

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def _encode(self, record: Encoded) -> Encoded:
        clip = record.clip
        if record.f0 is None:
            raise ValueError(f"record {clip.utterance.key!r} has no F0: the plan must run f0 before style")
        features = self._norms.apply(style_features(clip.pcm, record.f0), clip.utterance.speaker)
        return replace(record, streams=(*record.streams, UnitStream(SLOT, assign(features, self._centroids))))


def style_features(pcm: npt.NDArray[np.int16], track: F0Track) -> npt.NDArray[np.float32]:
    """Return raw functionals of the windows [i * 16000, (i + 1) * 16000): float32, shape (num_windows, 8).

    They are taken over active frames, or over all of a window without any, so pauses do not drown the speech beside
    them. A window without voice has the clip's median F0 level and no spread; a last window of a single frame
    has no spread and no flux. Always finite.

    Args:
        pcm: int16, shape (num_samples,), not empty.
        track: its F0, with a hop that divides 160 samples.

    Raises:
        ValueError: if the clip is empty or the track does not cover it.
    """
    count = frames_covering(len(pcm), HOP)
    if HOP % track.hop or len(track.hz) != frames_covering(len(pcm), track.hop):
        raise ValueError(f"{len(track.hz)} F0 frames of hop {track.hop} do not fit a clip of {len(pcm)} samples")
    energy, tilt, centroid = _spectral(pcm)
    hz = track.hz[:: HOP // track.hop].astype(np.float64)
    active = energy > energy.max() - ACTIVE_DB
    voiced = (hz > 0) & active
    octaves = np.log2(np.where(voiced, hz, 1.0))
    level = float(np.median(octaves[voiced])) if voiced.any() else NEUTRAL_OCTAVES
    rows = []
    for start in range(0, count, GRID.hop // HOP):
        window = slice(start, start + GRID.hop // HOP)
        used = active[window] if active[window].any() else np.ones_like(active[window])
        pitch = octaves[window][voiced[window]]
        loud = energy[window][used]
        flux = np.abs(np.diff(energy[window]))
        rows.append(
            (
                pitch.mean() if len(pitch) else level,
                pitch.std() if len(pitch) else 0.0,
                len(pitch) / used.sum(),
                loud.mean(),
                loud.std(),
                tilt[window][used].mean(),
                centroid[window][used].mean(),
                flux.mean() if len(flux) else 0.0,
            )
        )
    return np.array(rows, dtype=np.float32)


def _spectral(pcm: npt.NDArray[np.int16]) -> tuple[Float, Float, Float]:
    """Return energy in dB of full scale, tilt in dB and centroid in kHz of each short-time frame."""
    khz = np.arange(FFT // 2 + 1) * SAMPLE_RATE / FFT / 1000
    parts = []
    for power in spectra_in_blocks(pcm):
        # By Parseval, the mean of a band's share over all bins is its share of the mean power in the window.
        spectra = power * (2 / (FFT * (np.hamming(WINDOW) ** 2).sum())) + POWER_FLOOR / (FFT // 2 + 1)
        total = spectra.sum(axis=1)
        low, high = spectra[:, khz < 1].sum(axis=1), spectra[:, (khz >= 1) & (khz < 5)].sum(axis=1)
        parts.append((10 * np.log10(total), 10 * np.log10(low / high), spectra @ khz / total))
    energy, tilt, centroid = (np.concatenate(part) for part in zip(*parts, strict=True))
    return energy, tilt, centroid


def _vector(value: Any) -> Float:
    array = np.array(value, dtype=np.float64)
    if array.shape != (len(FUNCTIONALS),) or not np.isfinite(array).all():
        raise ValueError(f"expected {len(FUNCTIONALS)} finite numbers, got {value}")
    return array


def _centroids(codebook: Artifact) -> npt.NDArray[np.float32]:
    centroids = load_npy(codebook, 2, np.float32)
    if centroids.shape[1] != len(FUNCTIONALS) or len(centroids) == 0:
        raise ValueError(f"{codebook.path} must have shape (codebook_size, {len(FUNCTIONALS)}), got {centroids.shape}")
    return centroids
