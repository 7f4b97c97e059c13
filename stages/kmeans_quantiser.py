"""Nearest-centroid quantisation with margins, and what all quantisers give."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.kmeans import assign

ENTRIES_AT_ONCE = 1 << 19
"""Rows by centroids in a block: bounds its memory to some arrays of 4 MB."""

SPANS_KEPT = 2048
"""Up to so many centroids, the distances between all of them are kept (at most 32 MB), so that margins are exact."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class Assigned(NamedTuple):
    """Unit ids of feature vectors.

    Attributes:
        ids: uint16, shape (n,).
        margin: float32, shape (n,), not negative: no change of a feature vector that is shorter than this share of its
            length gives another id (to first order, for linear). Infinite where there is no other id.
    """

    ids: npt.NDArray[np.uint16]
    margin: Float32


def require_features(features: Float32, width: int) -> None:
    """Raise ValueError unless features are finite and of shape (n, width)."""
    if features.ndim != 2 or features.shape[1] != width:
        raise ValueError(f"features of shape {list(features.shape)} do not fit a codebook {width} wide")
    if not np.isfinite(features).all():
        raise ValueError("features are not finite")


class KmeansQuantiser:
    """The nearest centroid, ties to the lowest id.

    Scores come from a float64 matrix product (2 * n * clusters * width operations: about 1 ms of one core per second of
    audio for 500 centroids of 768 at 50 Hz). Rows that its rounding leaves in doubt are measured again, each by itself.
    So an id is a function of its row alone, on any machine.

    Args:
        centroids: finite float32, shape (clusters, width).
    """

    def __init__(self, centroids: Float32) -> None:
        self._codebook = centroids
        self._centroids = centroids.astype(np.float64)
        self._norms = (self._centroids**2).sum(axis=1)
        _, first, group = np.unique(centroids, axis=0, return_index=True, return_inverse=True)
        self._lowest = first[group]
        """The lowest id with the same centroid: equal centroids are one and never count against a margin."""
        self._spans = self._distances() if len(centroids) <= SPANS_KEPT else self._bounds()
        self._rows = max(1, ENTRIES_AT_ONCE // len(centroids))

    @property
    def width(self) -> int:
        return int(self._codebook.shape[1])

    @property
    def size(self) -> int:
        return len(self._codebook)

    def assign(self, features: Float32) -> Assigned:
        require_features(features, self.width)
        parts = [self._block(features[i : i + self._rows]) for i in range(0, max(1, len(features)), self._rows)]
        return Assigned(np.concatenate([part.ids for part in parts]), np.concatenate([part.margin for part in parts]))

    def classes(self, features: Float32) -> Assigned:
        return self.assign(features)

    def joined(self, classes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        return classes

    def _block(self, features: Float32) -> Assigned:
        rows = features.astype(np.float64)
        scores = rows @ self._centroids.T
        scores *= -2
        scores += self._norms
        ids = self._lowest[scores.argmin(axis=1)]
        scores -= scores[np.arange(len(rows)), ids][:, None]
        scores[self._lowest == ids[:, None]] = np.inf  # what is left: how much farther, squared, the others are
        squares = (rows**2).sum(axis=1)
        doubtful = np.flatnonzero(scores.min(axis=1) <= self._rounding(squares + self._norms.max()))
        scores /= 2 * self._spans[ids]
        margin = np.maximum(scores.min(axis=1), 0) / np.maximum(np.sqrt(squares), np.finfo(np.float32).tiny)
        if len(doubtful):
            ids[doubtful] = assign(features[doubtful], self._codebook)
        with np.errstate(over="ignore"):
            return Assigned(ids.astype(np.uint16), margin.astype(np.float32))

    def _rounding(self, squares: Float64) -> Float64:
        """Return what a sum of products may be off by, for vectors of these squared lengths."""
        return squares * (4 * self.width * float(np.finfo(np.float64).eps))

    def _distances(self) -> Float64:
        """Return the distances between centroids, shape (clusters, clusters), not below their rounding."""
        both = self._norms[:, None] + self._norms
        squares = both - 2 * (self._centroids @ self._centroids.T)
        spans: Float64 = np.sqrt(np.maximum(squares, np.maximum(self._rounding(both), np.finfo(np.float64).tiny)))
        return spans

    def _bounds(self) -> Float64:
        """Return how far another centroid may at most be from each, shape (clusters, 1)."""
        apart = np.sqrt(((self._centroids - self._centroids.mean(axis=0)) ** 2).sum(axis=1))
        reach: Float64 = np.maximum(apart + apart.max(), np.finfo(np.float32).tiny)[:, None]
        return reach
