"""K-means over samples that do not fit into memory: features of neural models are 3 KB a frame."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from schemas.canonical import rng_for
from stages.base import FeatureSamples
from stages.kmeans import MAX_CLUSTERS, fit_kmeans

Rows = npt.NDArray[np.float32]

DEAD = 1e-5
"""A centroid with a smaller share than this of the rows of the largest one is put on a row of the batch. scikit-learn's
0.01 would also take rare sounds' centroids away, and give them to what the batch has most of."""


def fit_kmeans_stream(
    samples: FeatureSamples, clusters: int, seed: int, *, batch_rows: int = 10_000, passes: int = 2
) -> Rows:
    """Return centroids in lexicographic order: float32, shape (at most clusters, num_features).

    Mini-batch k-means (Sculley, WWW 2010). The first pass draws a uniform sample of rows (reservoir sampling), on which
    k-means of `fit_kmeans` gives the start; each further pass moves the centroids by batches. A sample with no more
    distinct rows than clusters is its own codebook, as with `fit_kmeans`. One thread; the result does not depend on how
    the rows are divided among clips.

    Memory: about six times max(batch_rows, 5 * clusters) rows, and one clip. Time: per row and pass, 2 * clusters *
    num_features operations; and up to 100 times that for each row of the start.

    Args:
        samples: starts a pass over arrays of finite float32, shape (num_rows, num_features); read 1 + `passes` times.
        clusters: 1 to 65536.
        seed: of the sample of rows and of all that follows.
        batch_rows: rows in a batch, at least `clusters` is advised.
        passes: how often the batches go over the sample.

    Raises:
        ValueError: if there are no rows, they are not finite or differ in width, a later pass gives another number of
            rows, or `clusters`, `batch_rows` or `passes` is out of range.
    """
    if not 1 <= clusters <= MAX_CLUSTERS:
        raise ValueError(f"clusters must lie in 1 .. {MAX_CLUSTERS}, got {clusters}")
    if batch_rows < 1 or passes < 1:
        raise ValueError(f"batch_rows and passes must be positive, got {batch_rows} and {passes}")
    kept, distinct, count = _first_pass(samples, clusters, max(batch_rows, 5 * clusters), seed)
    if len(distinct) <= clusters:
        return np.unique(distinct, axis=0)
    # Silence may repeat one row so often that the sample has fewer distinct rows than there are clusters.
    start = np.concatenate([kept, distinct])
    return np.unique(_move(samples, fit_kmeans(start, clusters, seed), start, seed, batch_rows, passes, count), axis=0)


def _first_pass(samples: FeatureSamples, clusters: int, size: int, seed: int) -> tuple[Rows, Rows, int]:
    """Return a uniform sample of rows, the first distinct rows (at most clusters + 1), and how many rows there are."""
    rng = rng_for(seed, "reservoir")
    kept: Rows = np.empty((0, 0), np.float32)
    distinct: dict[bytes, None] = {}
    count = width = 0
    for rows in _clips(samples):
        if count == 0:
            width = rows.shape[1]
            kept = np.empty((size, width), np.float32)
        for row in rows if len(distinct) <= clusters else ():
            distinct[row.tobytes()] = None
            if len(distinct) > clusters:
                break
        free = min(max(0, size - count), len(rows))
        kept[count : count + free] = rows[:free]
        ordinals = np.arange(count + free, count + len(rows)) + 1
        places = (rng.random(len(ordinals)) * ordinals).astype(np.int64)
        taken = np.flatnonzero(places < size)
        kept[places[taken]] = rows[free:][taken]  # a place drawn twice keeps the later row
        count += len(rows)
    if count == 0:
        raise ValueError("a codebook needs features, and no clip of the sample has any")
    found = np.frombuffer(b"".join(distinct), np.float32).reshape(-1, width)
    return kept[:count], found, count


def _move(
    samples: FeatureSamples, centroids: Rows, start: Rows, seed: int, batch_rows: int, passes: int, count: int
) -> Rows:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    state = int(rng_for(seed, "kmeans-stream").integers(1 << 31))
    model = MiniBatchKMeans(
        len(centroids), init=centroids, n_init=1, random_state=state, reassignment_ratio=DEAD, compute_labels=False
    )
    with threadpool_limits(limits=1):
        model.partial_fit(start)  # so that the first batch does not outvote the start
        for _ in range(passes):
            seen = 0
            for batch in _batches(samples, batch_rows):
                model.partial_fit(batch)
                seen += len(batch)
            if seen != count:
                raise ValueError(f"the sample had {count} rows in the first pass and {seen} in a later one")
    return np.asarray(model.cluster_centers_, dtype=np.float32)


def _clips(samples: FeatureSamples) -> Iterator[Rows]:
    """Yield the arrays that have rows, checked."""
    width = -1
    for features in samples():
        if len(features) == 0:
            continue
        if features.ndim != 2 or features.shape[1] == 0 or width not in (-1, features.shape[1]):
            raise ValueError(f"features must have shape (num_rows, {max(width, 1)}), got {list(features.shape)}")
        if not np.isfinite(features).all():
            raise ValueError("a codebook cannot be fitted to features that are not finite")
        width = features.shape[1]
        yield np.ascontiguousarray(features, dtype=np.float32) + np.float32(0)  # -0.0 and 0.0 are one value


def _batches(samples: FeatureSamples, size: int) -> Iterator[Rows]:
    """Yield the rows of all clips in order, `size` at a time, the last time perhaps fewer."""
    parts: list[Rows] = []
    held = 0
    for rows in _clips(samples):
        while len(rows):
            parts.append(rows[: size - held])
            held += len(parts[-1])
            rows = rows[size - held + len(parts[-1]) :]
            if held == size:
                yield np.concatenate(parts)
                parts, held = [], 0
    if parts:
        yield np.concatenate(parts)
