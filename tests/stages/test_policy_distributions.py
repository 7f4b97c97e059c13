"""Distributions of the policies over many words: chi-square and means, four standard errors wide."""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest

from schemas.canonical import rng_for
from schemas.sequence import BernoulliPolicy, PoissonPolicy, SpiritLmPolicy
from stages.interleave import Modality
from stages.policies import draw_spans
from tests.sequence_measures import length, spoken

TEXT, SPEECH = Modality.TEXT, Modality.SPEECH


def chi_square(counts: Iterable[float], expected: Iterable[float]) -> float:
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))


def test_lengths_over_a_million_words_are_uniform() -> None:
    spans = draw_spans(1_000_000, (), SpiritLmPolicy(), rng_for(0))[:-1]
    # 99.9 % quantiles of chi-square are 45.3 (20 degrees of freedom) and 29.6 (10).
    for modality, low, high, quantile in ((TEXT, 10, 30, 45.3), (SPEECH, 5, 15, 29.6)):
        counts = Counter(length(span) for span in spans if span.modality is modality)
        assert set(counts) == set(range(low, high + 1))
        mean = counts.total() / len(counts)
        assert chi_square(counts.values(), [mean] * len(counts)) < quantile


def test_either_modality_opens_half_of_the_documents() -> None:
    first = [draw_spans(5, (), SpiritLmPolicy(), rng_for(0, key))[0].modality for key in range(400)]
    assert 160 < first.count(TEXT) < 240


@pytest.mark.parametrize("num_words", [1, 3, 20, 40, 100])
def test_the_mean_share_of_poisson_does_not_depend_on_length(num_words: int) -> None:
    drawn = [draw_spans(num_words, (), PoissonPolicy(), rng_for(1, key)) for key in range(3000)]
    share = sum(spoken(spans) for spans in drawn) / (3000 * num_words)
    # Four standard errors of a document of one word, which is either.
    assert abs(share - 0.3) < 4 * math.sqrt(0.21 / 3000)


def test_poisson_lengths_are_poisson_without_zero() -> None:
    mean, largest = 4.0, 12
    spans = draw_spans(300_000, (), PoissonPolicy(mean_words=mean), rng_for(0))
    counts = Counter(min(length(span), largest) for span in spans if span.modality is SPEECH)
    odds = [math.exp(-mean) * mean**n / math.factorial(n) / (1 - math.exp(-mean)) for n in range(1, largest)]
    total = counts.total()
    expected = [total * p for p in (*odds, 1 - sum(odds))]
    # 99.9 % quantile of chi-square with 11 degrees of freedom; one span in 22,000 was cut.
    assert chi_square([counts[n] for n in range(1, largest + 1)], expected) < 31.3


def test_poisson_places_spans_anywhere_with_the_same_odds() -> None:
    policy = PoissonPolicy(mean_words=1.0, speech_share=0.4)
    seen: Counter[tuple[int, ...]] = Counter()
    for key in range(6000):
        spans = draw_spans(5, (), policy, rng_for(2, key))
        seen[tuple(w for s in spans if s.modality is SPEECH for w in range(s.start_word, s.end_word))] += 1
    together = [seen[i, i + 1] for i in range(4)]
    apart = [seen[i, j] for i in range(5) for j in range(i + 2, 5)]
    assert sum(together) + sum(apart) == 6000
    # 99.9 % quantiles of chi-square with 3 and 5 degrees of freedom.
    assert chi_square(together, [sum(together) / 4] * 4) < 16.3
    assert chi_square(apart, [sum(apart) / 6] * 6) < 20.5


def test_the_span_that_was_cut_is_not_always_the_last() -> None:
    policy = PoissonPolicy(mean_words=40.0, speech_share=0.5)
    shorter = 0
    for key in range(300):
        speech = [s for s in draw_spans(130, (), policy, rng_for(3, key)) if s.modality is SPEECH]
        if len(speech) == 2:
            shorter += length(speech[0]) < length(speech[1])
    assert 90 < shorter < 210


def test_each_span_makes_up_for_what_closed_boundaries_cost_the_one_before() -> None:
    spans = draw_spans(30_000, set(range(1, 30_000, 2)), PoissonPolicy(mean_words=5.0), rng_for(0))
    assert spoken(spans) == 9000
    # Were the count evened out at the end alone, the first spans would pay for all of them.
    assert 0.25 < spoken(span for span in spans if span.end_word <= 3000) / 3000 < 0.35


def test_bernoulli_gives_each_word_its_probability_whatever_its_neighbours_are() -> None:
    words = np.zeros(200_000, dtype=int)
    for span in draw_spans(len(words), (), BernoulliPolicy(speech_probability=0.3), rng_for(0)):
        words[span.start_word : span.end_word] = span.modality is SPEECH
    assert abs(words.mean() - 0.3) < 4 * math.sqrt(0.21 / len(words))
    assert abs((words[1:] & words[:-1]).mean() - 0.09) < 4 * math.sqrt(0.09 * 0.91 * 3 / len(words))


def test_closed_boundaries_leave_bernoullis_share() -> None:
    closed = {i for i in range(200_000) if i % 5 == 1 or i % 7 == 2}
    spans = draw_spans(200_000, closed, BernoulliPolicy(speech_probability=0.3), rng_for(0))
    assert abs(spoken(spans) / 200_000 - 0.3) < 4 * math.sqrt(0.21 * 2.5 / 200_000)
