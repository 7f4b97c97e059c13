"""Pitch units by a VQ-VAE over F0, as Spirit LM makes them (arXiv 2402.05755, 3.2): 12.5 Hz, 64 codes in its release.

Pinned facts of the release (facebookresearch/spiritlm), kept here: the net reads F0 every 5 ms and a voicing flag;
unvoiced stretches are filled by straight lines between the voiced frames and held at both ends; the mean F0 of the
clip's voiced frames, in Hz, is subtracted; F0 with 10 ms between frames is filled first and repeated then; a clip of n
samples has n // 80 + 1 frames, and the net gives an id for each whole 16 of them.

Ours besides: a remainder of the clip gets an id too, with the last frame held; a clip without voice has F0 and mean 0
(the release divides by nothing there and gives NaN); long clips are not cut at 100 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples, centred_grid, frames_covering
from schemas.contract import UnitContract
from schemas.records import Artifact, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reject
from stages.checkpoints import verified_path
from stages.kmeans import MAX_CLUSTERS, assign
from stages.vqvae import DOWNSAMPLING, HOP, Vqvae, encode, load_vqvae

SLOT = "pitch"
GRID = centred_grid(Samples(HOP * DOWNSAMPLING))

Inputs = npt.NDArray[np.float32]
"""Shape (num_frames, 2): F0 in Hz and voicing, 1 or 0, every 80 samples; num_samples // 80 + 1 frames."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VqvaePitchConfig:
    """What decides the pitch units.

    Attributes:
        checkpoint: a folder with `config.yaml` and `model.pt`: Spirit LM's, or one that `fit_vqvae` made.
        clusters: codes that its codebook must have.
    """

    name: ClassVar[str] = "pitch"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    clusters: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise ValueError(f"clusters must lie in 1 .. {MAX_CLUSTERS}, got {self.clusters}")

    def setup(self) -> "VqvaePitch":
        return VqvaePitch(load_vqvae(verified_path(self.checkpoint), self.clusters))

    def check(self) -> None:
        """Raise BadCheckpoint for whatever is wrong with the checkpoint; costs about 20 ms."""
        load_vqvae(verified_path(self.checkpoint), self.clusters)

    def contract(self) -> UnitContract:
        """Return the contract of the stream. The codebook lies in the model's file, so both have one sha256."""
        return UnitContract(
            stream=SLOT,
            extractor="f0-vqvae",
            version=self.version,
            model_sha256=self.checkpoint.sha256,
            layer=None,
            codebook_sha256=self.checkpoint.sha256,
            codebook_size=self.clusters,
            frame_rate=f"{GRID.rate.numerator}/{GRID.rate.denominator}",
            hop=GRID.hop,
            offset=GRID.offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VqvaeFeatures:
    """What `fit_vqvae` learns from: the net's input, by the function that the build uses."""

    def setup(self) -> "VqvaeFeatures":
        return self

    def features(self, clip: Clip, track: F0Track | None) -> Inputs:
        """Return F0 (interpolated, the clip's mean subtracted, Hz) and voicing: float32, shape (num_frames, 2).

        Raises:
            ValueError: if there is no track, or it does not fit the clip.
        """
        if track is None:
            raise ValueError(f"clip {clip.utterance.key!r} has no F0: the plan must give pitch training an F0 config")
        return vqvae_inputs(track, clip.num_samples, interpolated=True, normalised=True)


class VqvaePitch:
    """Adds the stream `pitch` with one id per 1280 samples, the last frame possibly partial.

    Clips pass the net one by one; about 0.3 ms per second of audio. An hour takes some 0.4 GB.
    """

    def __init__(self, model: Vqvae) -> None:
        self._model = model
        self._codebook = np.asarray(model.codebook.numpy(), dtype=np.float32)

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def ids(self, track: F0Track, num_samples: int) -> npt.NDArray[np.uint16]:
        """Return frames_covering(num_samples, 1280) ids.

        All but a possible last one are those of the release for this F0; that one is read from a second pass over the
        clip with its last frame held up to the end of the id's 1280 samples.

        Raises:
            ValueError: if the track does not fit the clip.
        """
        shape = self._model.shape
        inputs = vqvae_inputs(track, num_samples, interpolated=shape.interpolated, normalised=shape.normalised)
        count = frames_covering(num_samples, GRID.hop)
        whole = len(inputs) // DOWNSAMPLING
        ids = self._quantise(inputs) if whole else np.zeros(0, np.uint16)
        if whole == count:
            return ids
        held = np.pad(inputs, ((0, count * DOWNSAMPLING - len(inputs)), (0, 0)), mode="edge")
        return np.concatenate([ids, self._quantise(held)[whole:]])

    def _encode(self, record: Encoded) -> Encoded:
        if record.f0 is None:
            raise ValueError(f"record {record.clip.utterance.key!r} has no F0: the plan must run f0 before pitch")
        ids = self.ids(record.f0, record.clip.num_samples)
        return replace(record, streams=(*record.streams, UnitStream(SLOT, ids)))

    def _quantise(self, inputs: Inputs) -> npt.NDArray[np.uint16]:
        import torch

        with torch.inference_mode():
            channels = torch.from_numpy(np.ascontiguousarray(inputs.T))[None]
            latent = encode(self._model.tensors, self._model.shape, channels)[0].T.contiguous().numpy()
        return assign(latent, self._codebook)


def vqvae_inputs(track: F0Track, num_samples: int, *, interpolated: bool, normalised: bool) -> Inputs:
    """Return what the net reads; finite for every clip, also where nothing is voiced.

    A track of hop 160 is filled at its own rate and repeated then, frame i from frame i // 2, as the nearest-neighbour
    interpolation of torchfcpe does.

    Args:
        track: F0 with a hop of 80 or 160 samples, covering the clip.
        num_samples: length of the clip at 16 kHz.
        interpolated: fill unvoiced stretches; otherwise they are 0.
        normalised: subtract the mean of the voiced frames from every frame that is not 0.

    Raises:
        ValueError: if the track's hop or length does not fit.
    """
    if track.hop not in (HOP, 2 * HOP) or len(track.hz) != frames_covering(num_samples, track.hop):
        raise ValueError(f"{len(track.hz)} F0 frames of hop {track.hop} do not fit a clip of {num_samples} samples")
    hz = track.hz.astype(np.float64)
    heard = np.flatnonzero(hz > 0)
    voiced = hz > 0
    if interpolated and len(heard):
        hz = np.interp(np.arange(len(hz)), heard, hz[heard])
    nearest = np.minimum(np.arange(num_samples // HOP + 1) // (track.hop // HOP), len(hz) - 1)
    hz, voiced = hz[nearest], voiced[nearest]
    if normalised and voiced.any():
        hz = np.where(hz != 0, hz - hz[voiced].mean(), 0.0)
    return np.stack([hz, voiced], axis=1).astype(np.float32)
