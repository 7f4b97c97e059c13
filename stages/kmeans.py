"""K-means codebooks: fitting, and an assignment that provably treats each row alone."""

import numpy as np
import numpy.typing as npt

from schemas.canonical import rng_for

MAX_ITERATIONS = 100
MAX_CLUSTERS = 1 << 16
"""Ids are uint16."""

ROWS_AT_ONCE = 1024
"""Bounds memory in `assign` to two float64 arrays of this many rows by the number of clusters."""


def fit_kmeans(features: npt.NDArray[np.float32], clusters: int, seed: int) -> npt.NDArray[np.float32]:
    """Return centroids in lexicographic order: float32, shape (at most clusters, num_features).

    A sample with no more distinct rows than clusters is its own codebook, hence smaller than asked for.
    One thread, whatever the environment says: the sums of a parallel k-means depend on the number of threads.

    Args:
        features: finite, shape (num_rows, num_features), at least one row.
        clusters: 1 to 65536.
        seed: of the k-means++ start.

    Raises:
        ValueError: if the features are empty or not finite, or `clusters` is out of range.
    """
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise ValueError(f"clusters must lie in 1 .. {MAX_CLUSTERS}, got {clusters}")
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"a codebook needs features of shape (num_rows, num_features), got {list(features.shape)}")
    if not np.isfinite(features).all():
        raise ValueError("a codebook cannot be fitted to features that are not finite")
    rows = np.ascontiguousarray(features, dtype=np.float32) + np.float32(0)  # -0.0 and 0.0 are one value
    if _has_at_most(rows, clusters):
        return np.unique(rows, axis=0)
    return np.unique(_lloyd(rows, clusters, seed), axis=0)


def assign(features: npt.NDArray[np.float32], codebook: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Return the index of the nearest centroid of each row, ties to the lowest: uint16, shape (num_rows,).

    Squared distances are summed in float64, one feature after the other, by elementwise operations only. So a row's
    distances are the same whichever rows it is passed with, which a matrix product does not promise.

    Raises:
        ValueError: if the numbers of features differ or the codebook is empty or too large.
    """
    if features.ndim != 2 or codebook.ndim != 2 or features.shape[1] != codebook.shape[1]:
        raise ValueError(f"features {list(features.shape)} do not fit a codebook {list(codebook.shape)}")
    if not 1 <= len(codebook) <= MAX_CLUSTERS:
        raise ValueError(f"a codebook has 1 to {MAX_CLUSTERS} centroids, got {len(codebook)}")
    ids = np.empty(len(features), np.uint16)
    centroids = codebook.astype(np.float64)
    for start in range(0, len(features), ROWS_AT_ONCE):
        rows = features[start : start + ROWS_AT_ONCE].astype(np.float64)
        distances = np.zeros((len(rows), len(centroids)))
        for column in range(rows.shape[1]):
            difference = rows[:, column, None] - centroids[:, column]
            distances += difference * difference
        ids[start : start + len(rows)] = distances.argmin(axis=1)
    return ids


def _has_at_most(rows: npt.NDArray[np.float32], limit: int) -> bool:
    seen: set[bytes] = set()
    for row in rows:
        seen.add(row.tobytes())
        if len(seen) > limit:
            return False
    return True


def _lloyd(rows: npt.NDArray[np.float32], clusters: int, seed: int) -> npt.NDArray[np.float32]:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    start = int(rng_for(seed, "kmeans").integers(1 << 31))
    model = KMeans(clusters, init="k-means++", n_init=1, max_iter=MAX_ITERATIONS, random_state=start, algorithm="lloyd")
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # Nearly equal rows may leave two centroids in one place; the caller drops the second.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows)
    return np.asarray(model.cluster_centers_, dtype=np.float32)
