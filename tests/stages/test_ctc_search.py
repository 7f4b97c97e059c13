import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stages.ctc_search as search
from stages.ctc_search import align_ctc, least_frames

BLANK = 0
LATE = 99
"""Seed of the cases that are drawn once."""


def path_places(num_frames, targets):
    """Every CTC path by the rules of the paper: places 2 i (blank before target i) and 2 i + 1 (target i)."""
    last = 2 * len(targets)

    def follows(place):
        yield place
        if place < last:
            yield place + 1
        if place % 2 and place + 2 < last and targets[place // 2] != targets[place // 2 + 1]:
            yield place + 2

    paths = [[0], [1]] if num_frames else []
    for _ in range(num_frames - 1):
        paths = [[*path, place] for path in paths for place in follows(path[-1])]
    return [path for path in paths if path[-1] >= last - 1]


def labels_of(path, targets):
    return [int(targets[place // 2]) if place % 2 else BLANK for place in path]


def brute_force(log_probs, targets):
    """The highest total, and every path that has it; totals are exact sums."""
    scored = [
        (math.fsum(float(row[i]) for row, i in zip(log_probs, labels_of(path, targets), strict=True)), path)
        for path in path_places(len(log_probs), targets)
    ]
    best = max((score for score, _ in scored), default=-math.inf)
    return best, [path for score, path in scored if score == best]


def tokens_of(path):
    return [place // 2 if place % 2 else -1 for place in path]


def assert_legal(path, log_probs, targets):
    assert path.tokens.dtype == np.int32
    assert path.nats.dtype == np.float32
    assert path.tokens.shape == path.nats.shape == (len(log_probs),)
    labels = np.where(path.tokens < 0, BLANK, targets[path.tokens])
    assert [label for label, _ in itertools.groupby(labels.tolist()) if label != BLANK] == targets.tolist()
    assert [token for token, _ in itertools.groupby(path.tokens.tolist()) if token != -1] == list(range(len(targets)))
    np.testing.assert_array_equal(path.nats, log_probs[np.arange(len(log_probs)), labels])


def total(path):
    return float(path.nats.sum(dtype=np.float64))


def kept_rows(monkeypatch, apart):
    """Long audio's way through the code, whatever the length."""
    monkeypatch.setattr(search, "_WHOLE_CELLS", 0)
    monkeypatch.setattr(search, "_steps_apart", lambda lattice: apart)


def whole(monkeypatch, apart):
    monkeypatch.setattr(search, "_WHOLE_APART", apart)


WAYS = [(whole, 1), (whole, 2), (whole, 96), (kept_rows, 1), (kept_rows, 2), (kept_rows, 3)]


def peaky(num_frames, num_targets, seed, vocab=32, repeats=0.1):
    """Posteriors of a made-up model along a true path: peaks where tokens are spoken, blank elsewhere."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(1, vocab, num_targets).astype(np.int32)
    twice = np.flatnonzero(rng.random(num_targets - 1) < repeats)
    targets[twice + 1] = targets[twice]
    at = np.sort(rng.choice(num_frames // 2, num_targets, replace=False)) * 2
    logits = rng.normal(0, 1.5, (num_frames, vocab))
    logits[:, BLANK] += 4
    logits[at, targets] += 7
    return log_softmax(logits), targets


def log_softmax(logits):
    logits = logits - logits.max(axis=1, keepdims=True)
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


exact_score = st.integers(-4, 0) | st.just(-math.inf)
"""Small whole numbers: their sums are exact in any order, and they tie often."""


@st.composite
def small_cases(draw, score=exact_score):
    vocab = draw(st.integers(2, 3))
    targets = draw(st.lists(st.integers(1, vocab - 1), min_size=1, max_size=3))
    num_frames = draw(st.integers(0, 7))
    flat = draw(st.lists(score, min_size=num_frames * vocab, max_size=num_frames * vocab))
    return np.array(flat, np.float32).reshape(num_frames, vocab), np.array(targets, np.int32)


def check_against_brute_force(log_probs, targets):
    best, winners = brute_force(log_probs, targets)
    path = align_ctc(log_probs, targets, BLANK)
    assert (path is None) == (best == -math.inf)
    if path is None:
        return
    assert_legal(path, log_probs, targets)
    assert total(path) == best
    furthest = [max(places) for places in zip(*winners, strict=True)]
    assert furthest in winners
    assert path.tokens.tolist() == tokens_of(furthest)


@pytest.mark.parametrize(("way", "apart"), WAYS)
@settings(max_examples=200, deadline=None)
@given(case=small_cases())
def test_it_is_the_best_of_all_paths_and_ties_go_to_the_one_furthest_along(way, apart, case):
    with pytest.MonkeyPatch.context() as patch:
        way(patch, apart)
        check_against_brute_force(*case)


@settings(max_examples=200, deadline=None)
@given(small_cases(st.floats(-30, 0, width=32) | st.sampled_from([-1e9, -3e38, -1000.0, -math.inf])))
def test_no_path_is_better_whatever_the_scores(case):
    log_probs, targets = case
    best, _ = brute_force(log_probs, targets)
    path = align_ctc(log_probs, targets, BLANK)
    assert (path is None) == (best == -math.inf)
    if path is not None:
        assert_legal(path, log_probs, targets)
        exact = math.fsum(path.nats.tolist())
        assert exact <= best
        assert exact == pytest.approx(best, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("targets", [[1], [1, 1], [1, 2], [1, 1, 1], [1, 2, 2, 1], [3, 3, 2, 2, 1, 1]])
def test_least_frames_is_the_shortest_clip_with_a_path(targets):
    targets = np.array(targets, np.int32)
    least = least_frames(targets)
    repeats = sum(a == b for a, b in itertools.pairwise(targets.tolist()))
    assert least == len(targets) + repeats
    log_probs = log_softmax(np.random.default_rng(LATE).normal(size=(least, 4)))
    path = align_ctc(log_probs, targets, BLANK)
    assert_legal(path, log_probs, targets)
    assert np.count_nonzero(path.tokens == -1) == repeats
    assert align_ctc(log_probs[:-1], targets, BLANK) is None


@pytest.mark.filterwarnings("ignore::UserWarning")  # torchaudio announces its own end
@pytest.mark.parametrize("num_frames", [60, 61, 400, 1501])
@pytest.mark.parametrize("seed", range(4))
def test_it_equals_torchaudio(num_frames, seed):
    """On real-valued scores the best path is unique."""
    for num_targets in (1, 7, num_frames // 4, num_frames // 2):
        log_probs, targets = peaky(num_frames, num_targets, seed)
        assert_equals_torchaudio(log_probs, targets)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("apart", [1, 2, 17, 64, 749])
def test_it_equals_torchaudio_where_only_some_rows_are_kept(apart, monkeypatch):
    kept_rows(monkeypatch, apart)
    for num_frames, num_targets in ((300, 5), (301, 150), (1500, 400)):
        assert_equals_torchaudio(*peaky(num_frames, num_targets, apart))


def assert_equals_torchaudio(log_probs, targets):
    """In float64: where float32 sums tie, torchaudio stays on its place, which may be worse than both that tie."""
    import torch
    from torchaudio.functional import forced_align

    path = align_ctc(log_probs, targets, BLANK)
    if len(log_probs) < least_frames(targets):
        assert path is None
        return
    assert_legal(path, log_probs, targets)
    scores = torch.tensor(log_probs)[None]
    labels, nats = forced_align(scores.double(), torch.tensor(targets)[None].long(), blank=BLANK)
    assert total(path) == pytest.approx(float(nats.sum()), rel=1e-9)
    np.testing.assert_array_equal(np.where(path.tokens < 0, BLANK, targets[path.tokens]), labels[0].numpy())
    _, rough = forced_align(scores, torch.tensor(targets)[None].long(), blank=BLANK)
    assert total(path) >= float(rough.double().sum()) - 1e-9
    assert total(path) == pytest.approx(float(rough.double().sum()), rel=2e-3)


def test_memory_does_not_grow_with_frames_times_targets():
    """What numpy takes at most, for seven minutes at 50 Hz, against a byte per frame and state."""
    log_probs, targets = peaky(20_000, 5_000, LATE)
    align_ctc(log_probs[:100], targets[:10], BLANK)
    tracemalloc.start()
    try:
        assert_legal(align_ctc(log_probs, targets, BLANK), log_probs, targets)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(log_probs) * (2 * len(targets) + 1) / 30
    assert peak < 25 * (len(log_probs) * len(targets)) ** (2 / 3) + 2**21


def test_real_scores_give_the_same_path_however_many_rows_are_kept(monkeypatch):
    log_probs, targets = peaky(2001, 600, LATE)
    log_probs[500:900, BLANK] = -np.inf
    log_probs[1200:1300, BLANK] = -5000
    whole = align_ctc(log_probs, targets, BLANK)
    assert_legal(whole, log_probs, targets)
    for apart in (1, 7, 100, 1000):
        kept_rows(monkeypatch, apart)
        np.testing.assert_array_equal(align_ctc(log_probs, targets, BLANK).tokens, whole.tokens)


def test_the_input_stays_as_it_was_and_neither_layout_nor_the_id_of_the_blank_matters():
    log_probs, targets = peaky(300, 60, LATE)
    before = log_probs.copy(), targets.copy()
    path = align_ctc(log_probs, targets, BLANK)
    np.testing.assert_array_equal(log_probs, before[0])
    np.testing.assert_array_equal(targets, before[1])
    log_probs.flags.writeable = targets.flags.writeable = False
    for same in (np.asfortranarray(log_probs), np.repeat(log_probs, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(align_ctc(same, targets, BLANK).tokens, path.tokens)
    moved = align_ctc(np.roll(log_probs, -1, axis=1), (targets - 1).astype(np.int32), log_probs.shape[1] - 1)
    np.testing.assert_array_equal(moved.tokens, path.tokens)


@pytest.mark.parametrize("backwards", [False, True])
def test_float32_sums_would_choose_wrong(backwards):
    """Two places of the last token are 0.01 nats apart: float32 cannot tell beside the half million before."""
    spoken, num_frames = 80_000, 180_000
    log_probs = np.full((num_frames, 3), [-0.1, -60, -60], np.float32)
    log_probs[:spoken, :2] = -8, -0.1
    near, far = 85_000, 86_000
    log_probs[near, 2], log_probs[far, 2] = (-5.0, -5.01) if backwards else (-5.01, -5.0)
    targets = np.array([1, 2], np.int32)
    if backwards:
        log_probs, targets, near, far = (
            log_probs[::-1],
            targets[::-1].copy(),
            num_frames - 1 - far,
            num_frames - 1 - near,
        )
    path = align_ctc(log_probs, targets, BLANK)
    assert np.count_nonzero(path.tokens == int(backwards)) == spoken
    assert np.flatnonzero(path.tokens == int(not backwards)).tolist() == [far]
    assert np.spacing(np.float32(7.9 * spoken)) > 0.01


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("masked", [-np.inf, -1e30, -1e11, -1e4])
def test_a_masked_blank_leaves_the_other_scores_their_digits(masked, backwards):
    log_probs = np.full((40, 3), [0, -60, -60], np.float32)
    log_probs[2:4, :2] = masked, 0
    log_probs[10, 2], log_probs[12, 2] = (-1e-6, -2e-6) if backwards else (-2e-6, -1e-6)
    targets = np.array([1, 2], np.int32)
    if backwards:
        log_probs, targets = log_probs[::-1], targets[::-1].copy()
    path = align_ctc(log_probs, targets, BLANK)
    tokens = path.tokens[::-1] if backwards else path.tokens
    assert np.flatnonzero(tokens == int(backwards)).tolist() == [2, 3]
    assert np.flatnonzero(tokens == int(not backwards)).tolist() == [10 if backwards else 12]


GOOD = np.zeros((4, 3), np.float32)
ONE = np.array([1], np.int32)


@pytest.mark.parametrize(
    ("log_probs", "targets", "blank", "says"),
    [
        (GOOD.astype(np.float64), ONE, 0, "float64"),
        (GOOD[0], ONE, 0, r"\(3,\)"),
        (GOOD, ONE.astype(np.int64), 0, "int64"),
        (GOOD, ONE[None], 0, r"\(1, 1\)"),
        (GOOD, ONE[:0], 0, "at least one"),
        (GOOD, ONE, 3, "got 3"),
        (GOOD, ONE, -1, "got -1"),
        (GOOD, ONE * 3, 0, "got 3"),
        (GOOD, -ONE, 0, "got -1"),
        (GOOD, np.array([1, 2], np.int32), 2, "got 2"),
        (np.where(np.eye(4, 3), np.float32(np.nan), GOOD), ONE, 0, "NaN"),
        (GOOD + np.float32(np.inf), ONE, 0, "inf"),
    ],
)
def test_wrong_input_is_a_value_error(log_probs, targets, blank, says):
    with pytest.raises(ValueError, match=says):
        align_ctc(log_probs, targets, blank)


def test_no_frames_no_path():
    assert align_ctc(GOOD[:0], ONE, 0) is None
    assert align_ctc(np.full((50, 3), -np.inf, np.float32), ONE, 0) is None
