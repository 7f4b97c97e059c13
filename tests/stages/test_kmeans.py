import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stages.kmeans import ROWS_AT_ONCE, assign, fit_kmeans

values = st.floats(-1e6, 1e6, width=32)


@st.composite
def rows_and_codebook(draw):
    columns = draw(st.integers(1, 40))
    rows = draw(hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.just(columns)), elements=values))
    codebook = draw(hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.just(columns)), elements=values))
    return rows, codebook


@given(case=rows_and_codebook(), cut=st.integers(0, 30))
def test_a_row_is_assigned_alike_in_any_company(case, cut):
    rows, codebook = case
    together = assign(rows, codebook)
    apart = np.concatenate([assign(rows[:cut], codebook), assign(rows[cut:], codebook)])
    one_by_one = [int(assign(row[None], codebook)[0]) for row in rows]
    assert together.dtype == np.uint16
    np.testing.assert_array_equal(together, apart)
    assert together.tolist() == one_by_one


@given(case=rows_and_codebook())
def test_the_nearest_centroid_wins(case):
    rows, codebook = case
    exact = ((rows[:, None].astype(np.float64) - codebook[None]) ** 2).sum(-1)
    chosen = np.take_along_axis(exact, assign(rows, codebook)[:, None].astype(int), 1)[:, 0]
    assert (chosen <= exact.min(axis=1) * (1 + 1e-12)).all()


def test_a_real_sized_batch_is_cut_into_blocks_without_a_trace():
    rng = np.random.default_rng(0)
    codebook = (1000 + rng.normal(size=(100, 39))).astype(np.float32)
    pairs = rng.integers(100, size=(2 * ROWS_AT_ONCE + 5, 2))
    rows = codebook[pairs].mean(axis=1, dtype=np.float32)  # all but tied, so that the last bit decides
    ids = assign(rows, codebook)
    for cut in (1, 7, ROWS_AT_ONCE - 1, ROWS_AT_ONCE + 1):
        np.testing.assert_array_equal(ids[cut:], assign(rows[cut:], codebook))
    np.testing.assert_array_equal(ids[::97], [assign(row[None], codebook)[0] for row in rows[::97]])


def test_ties_go_to_the_lowest_index():
    codebook = np.array([[5], [1], [-1], [1]], np.float32)
    assert assign(np.array([[0], [1], [3]], np.float32), codebook).tolist() == [1, 1, 0]


def test_four_heaps_are_found_in_order():
    rng = np.random.default_rng(1)
    centres = np.array([[-7, 9], [9, -9], [7, 9], [-9, -9]], np.float32)
    rows = np.concatenate([centre + rng.normal(0, 0.1, (50, 2)) for centre in centres]).astype(np.float32)
    np.testing.assert_allclose(fit_kmeans(rows, 4, 0), [[-9, -9], [-7, 9], [7, 9], [9, -9]], atol=0.1)


def test_the_same_seed_gives_the_same_bytes_whatever_the_threads():
    from threadpoolctl import threadpool_limits

    rows = np.random.default_rng(2).normal(size=(3000, 39)).astype(np.float32)
    with threadpool_limits(limits=2):
        first = fit_kmeans(rows, 20, 5)
    with threadpool_limits(limits=1):
        second = fit_kmeans(rows, 20, 5)
    assert first.dtype == np.float32
    assert first.tobytes() == second.tobytes()
    assert first.tobytes() != fit_kmeans(rows, 20, 6).tobytes()


@given(
    rows=hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.sampled_from([0, 1, 2])),
    clusters=st.integers(1, 30),
)
def test_a_tiny_sample_never_fails_and_codes_itself(rows, clusters):
    codebook = fit_kmeans(rows, clusters, 0)
    distinct = len(np.unique(rows, axis=0))
    assert 1 <= len(codebook) <= min(clusters, distinct)
    if distinct <= clusters:
        np.testing.assert_array_equal(codebook[assign(rows, codebook)], rows)


@pytest.mark.parametrize(
    ("rows", "clusters", "message"),
    [
        (np.zeros((0, 3), np.float32), 2, "num_rows"),
        (np.zeros((4, 3), np.float32), 0, "clusters"),
        (np.full((4, 3), np.nan, np.float32), 2, "finite"),
    ],
)
def test_impossible_fits_are_named(rows, clusters, message):
    with pytest.raises(ValueError, match=message):
        fit_kmeans(rows, clusters, 0)


def test_a_codebook_of_other_width_is_refused():
    with pytest.raises(ValueError, match="do not fit"):
        assign(np.zeros((2, 3), np.float32), np.zeros((2, 4), np.float32))
