import gc
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from schemas.canonical import rng_for
from stages import kmeans_stream
from stages.kmeans import assign, fit_kmeans
from stages.kmeans_stream import _batches, fit_kmeans_stream


def blobs(num_blobs=40, num_clips=120, width=8, spread=1.0):
    """Clips that each stay in a few blobs, as speech stays in a phone for some frames."""
    centres = 3 * rng_for(0, "centres").normal(size=(num_blobs, width))
    rng = rng_for(1, "clips")
    clips = []
    for _ in range(num_clips):
        ids = rng.integers(num_blobs, size=5).repeat(rng.integers(1, 60, size=5))
        clips.append((centres[ids] + spread * rng.normal(size=(len(ids), width))).astype(np.float32))
    return clips


def inertia(rows, codebook):
    return float(((rows - codebook[assign(rows, codebook)]) ** 2).sum())


def test_the_codebook_is_as_good_as_that_of_all_rows_at_once():
    clips = blobs()
    rows = np.concatenate(clips)
    streamed = fit_kmeans_stream(lambda: iter(clips), 50, 0, batch_rows=600)
    assert streamed.dtype == np.float32
    assert streamed.shape == (50, 8)
    assert inertia(rows, streamed) < 1.03 * inertia(rows, fit_kmeans(rows, 50, 0))


def test_the_passes_improve_on_the_sample_of_rows():
    """The start knows 500 of 18 thousand rows; k-means on those alone is worse."""
    clips = blobs()
    rows = np.concatenate(clips)
    alone = [inertia(rows, fit_kmeans(rng_for(i).permutation(rows)[:500], 50, 0)) for i in range(3)]
    streamed = fit_kmeans_stream(lambda: iter(clips), 50, 0, batch_rows=500)
    assert inertia(rows, streamed) < 0.97 * min(alone)


def test_the_start_is_drawn_from_the_whole_sample():
    """Rows of the last clips are in the sample of rows as often as those of the first."""
    count, size = 20_000, 1000
    rows = np.arange(count, dtype=np.float32)[:, None]
    kept, distinct, found = kmeans_stream._first_pass(lambda: iter(np.array_split(rows, 37)), 10, size, 0)
    assert found == count
    assert len(np.unique(kept)) == size
    tenths = np.histogram(kept, bins=10, range=(0, count))[0]
    assert (abs(tenths - size / 10) < 4 * np.sqrt(size / 10)).all()
    np.testing.assert_array_equal(distinct[:, 0], np.arange(11))


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads():
    from threadpoolctl import threadpool_limits

    clips = blobs(num_clips=40)
    with threadpool_limits(limits=2):
        first = fit_kmeans_stream(lambda: iter(clips), 30, 5, batch_rows=300)
    with threadpool_limits(limits=1):
        second = fit_kmeans_stream(lambda: iter(clips), 30, 5, batch_rows=300)
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != fit_kmeans_stream(lambda: iter(clips), 30, 6, batch_rows=300).tobytes()


@given(cuts=st.lists(st.integers(0, 3000), max_size=8))
@settings(max_examples=8, deadline=None)
def test_how_rows_are_divided_among_clips_does_not_matter(cuts):
    rows = np.concatenate(blobs(num_clips=20))
    whole = fit_kmeans_stream(lambda: iter([rows]), 20, 0, batch_rows=250)
    parts = np.split(rows, sorted(min(cut, len(rows)) for cut in cuts))
    assert fit_kmeans_stream(lambda: iter(parts), 20, 0, batch_rows=250).tobytes() == whole.tobytes()


@given(
    rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0, 1, 2])),
    clusters=st.integers(1, 30),
)
@settings(deadline=None)
def test_a_tiny_sample_never_fails_and_codes_itself(rows, clusters):
    codebook = fit_kmeans_stream(lambda: iter(rows[:, None]), clusters, 0, batch_rows=4)
    distinct = np.unique(rows, axis=0)
    assert 1 <= len(codebook) <= min(clusters, len(distinct))
    if len(distinct) <= clusters:
        np.testing.assert_array_equal(codebook, distinct)


def test_a_sample_of_silence_still_has_its_rare_rows():
    """One row fills the sample, so no drawn row may be another one; still there are enough to start from."""
    rare = rng_for(0).normal(size=(6, 3)).astype(np.float32)
    clips = [np.zeros((5000, 3), np.float32), rare, np.zeros((5000, 3), np.float32)]
    codebook = fit_kmeans_stream(lambda: iter(clips), 4, 0, batch_rows=50)
    assert len(codebook) == 4


def test_a_centroid_that_nothing_is_near_is_moved():
    """Two heaps of rows, and a start that puts both centroids in the first heap and none of the weight in one."""
    rng = rng_for(3)
    near, far = rng.normal(size=(400, 2)), 50 + rng.normal(size=(4000, 2))
    rows = np.concatenate([near, far]).astype(np.float32)
    start = np.array([[0, 0], [25, 25], [-900, 900]], np.float32)
    found, again = (kmeans_stream._move(lambda: iter([rows]), start, rows[:3], 0, 500, 2, len(rows)) for _ in range(2))
    assert np.abs(found).max() < 60
    assert found.tobytes() == again.tobytes()


def test_memory_is_that_of_a_few_batches():
    """50 MB of rows pass; what is held stays below 12 MB."""
    width, batch = 64, 1500
    base = rng_for(0).normal(size=(1000, width)).astype(np.float32)

    def clips():
        for i in range(200):
            yield base + np.float32(i % 7)

    fit_kmeans_stream(lambda: iter([base]), 8, 0, batch_rows=batch)  # imports
    gc.collect()
    tracemalloc.start()
    fit_kmeans_stream(clips, 8, 0, batch_rows=batch, passes=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 200 * base.nbytes > 48 << 20
    assert peak < 12 << 20


@given(lengths=st.lists(st.integers(0, 12), max_size=12), size=st.integers(1, 9))
def test_batches_hold_every_row_once_in_order(lengths, size):
    edges = np.cumsum([0, *lengths])
    clips = [np.arange(a, b, dtype=np.float32)[:, None] for a, b in pairwise(edges)]
    batches = list(_batches(lambda: iter(clips), size))
    assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
    assert all(0 < len(batch) <= size for batch in batches)
    assert [value for batch in batches for value in batch[:, 0]] == list(range(edges[-1]))


def test_each_pass_asks_for_the_sample_once():
    clips, starts = blobs(num_clips=10), []

    def samples():
        starts.append(1)
        return iter(clips)

    fit_kmeans_stream(samples, 10, 0, batch_rows=200, passes=3)
    assert len(starts) == 4


def test_a_sample_that_changes_between_passes_is_an_error():
    clips = blobs(num_clips=10)
    once = iter([iter(clips), iter(clips[:-1])])
    with pytest.raises(ValueError, match=r"rows in the first pass and \d+ in a later one"):
        fit_kmeans_stream(lambda: next(once), 10, 0, batch_rows=200)


@pytest.mark.parametrize(
    ("clips", "told"),
    [
        ([], "no clip of the sample has any"),
        ([np.empty((0, 4), np.float32)], "no clip of the sample has any"),
        ([np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32)], r"shape \(num_rows, 3\), got \[2, 4\]"),
        ([np.zeros(3, np.float32)], "shape"),
        ([np.zeros((3, 0), np.float32)], "shape"),
        ([np.full((2, 3), np.nan, np.float32)], "not finite"),
    ],
)
def test_bad_samples_are_named(clips, told):
    with pytest.raises(ValueError, match=told):
        fit_kmeans_stream(lambda: iter(clips), 2, 0)


@pytest.mark.parametrize("options", [{"clusters": 0}, {"clusters": 65_537}, {"batch_rows": 0}, {"passes": 0}])
def test_options_are_checked(options):
    chosen = {"clusters": 2, "batch_rows": 10, "passes": 1} | options
    with pytest.raises(ValueError, match=str(min(options.values()))):
        fit_kmeans_stream(lambda: iter(blobs(num_clips=2)), seed=0, **chosen)
