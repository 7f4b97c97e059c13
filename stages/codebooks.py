"""Fit the codebooks. Pure functions of the features, their order and the seed; nothing is read, written or logged."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.records import FitFeatures, JsonObject
from stages.kmeans import fit_kmeans
from stages.style_prosody import FUNCTIONALS, SpeakerNorms

MIN_WINDOWS = 10
"""A speaker with fewer style windows in the sample is taken relative to the mean over all speakers."""

Codebook = npt.NDArray[np.float32]


def fit_units_codebook(features: Sequence[FitFeatures], clusters: int, seed: int) -> Codebook:
    """Return centroids of the unit features: float32, shape (at most clusters, num_features).

    Raises:
        ValueError: if there is nothing to fit.
    """
    _require(features)
    return fit_kmeans(np.concatenate([item.units for item in features]), clusters, seed)


def fit_pitch_codebook(features: Sequence[FitFeatures], clusters: int, seed: int) -> Codebook:
    """Return ascending centroids of relative log-F0: float32, shape (at most clusters - 1, 1).

    The codebook size is one more than the centroids, because id 0 means unvoiced. Where the whole sample is unvoiced,
    the one centroid is the median, 0.

    Raises:
        ValueError: if there is nothing to fit, or `clusters` leaves no centroid.
    """
    _require(features)
    if clusters < 2:
        raise ValueError(f"a pitch codebook needs at least 2 clusters, one of them for unvoiced frames, got {clusters}")
    values = np.concatenate([item.pitch for item in features]).reshape(-1, 1)
    if len(values) == 0:
        return np.zeros((1, 1), np.float32)
    return fit_kmeans(values, clusters - 1, seed)


def fit_style(features: Sequence[FitFeatures], clusters: int, seed: int) -> tuple[Codebook, JsonObject]:
    """Return centroids of speaker-normalised functionals, and the JSON of the `SpeakerNorms` that they are relative to.

    A speaker with at least MIN_WINDOWS windows has a mean of its own; an empty label names nobody. The deviation is
    that of what remains after the means are taken away, so every functional weighs the same in the clustering.
    The codebook is float32, shape (at most clusters, 8).

    Raises:
        ValueError: if there is nothing to fit.
    """
    _require(features)
    norms = _speaker_norms(features)
    rows = np.concatenate([norms.apply(item.style, item.speaker) for item in features])
    return fit_kmeans(rows, clusters, seed), norms.to_json()


def _speaker_norms(features: Sequence[FitFeatures]) -> SpeakerNorms:
    windows: dict[str, list[npt.NDArray[np.float32]]] = defaultdict(list)
    for item in features:
        windows[item.speaker].append(item.style)
    stacked = {speaker: np.concatenate(parts).astype(np.float64) for speaker, parts in windows.items()}
    known = {name: rows.mean(axis=0) for name, rows in stacked.items() if name and len(rows) >= MIN_WINDOWS}
    mean = np.concatenate([stacked[name] for name in sorted(stacked)]).mean(axis=0)
    rest = np.concatenate([stacked[name] - known.get(name, mean) for name in sorted(stacked)])
    std = np.sqrt((rest**2).mean(axis=0))
    return SpeakerNorms(mean=mean, std=np.where(std > 1e-6, std, np.ones(len(FUNCTIONALS))), speakers=known)


def _require(features: Sequence[FitFeatures]) -> None:
    if not features:
        raise ValueError("no clip is left to fit codebooks on: every clip of the sample was rejected; see the rejects")
