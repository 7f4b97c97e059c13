"""Policies: what they draw, how often, and what closed boundaries may change."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import rng_for
from schemas.sequence import (
    POLICY_NAMES,
    AsrPolicy,
    BernoulliPolicy,
    PoissonPolicy,
    Policy,
    SequenceSection,
    SpeechOnlyPolicy,
    SpiritLmPolicy,
    TextOnlyPolicy,
    TtsPolicy,
    WordTranscriptionPolicy,
)
from stages.interleave import Modality, Span
from stages.policies import _below, _bits, draw_spans
from tests.sequence_measures import length, spoken

TEXT, SPEECH = Modality.TEXT, Modality.SPEECH

spiritlm = st.builds(
    SpiritLmPolicy,
    text_words=st.sampled_from([(10, 30), (2, 4), (1, 1)]),
    speech_words=st.sampled_from([(5, 15), (1, 3), (3, 3)]),
    start=st.sampled_from(["random", "text", "speech"]),
    remainder=st.sampled_from(["keep", "merge"]),
)
poisson = st.builds(PoissonPolicy, mean_words=st.sampled_from([1.0, 2.5, 10.0, 40.0]), speech_share=st.floats(0, 1))
bernoulli = st.builds(BernoulliPolicy, speech_probability=st.floats(0, 1))
partitions = st.one_of(spiritlm, poisson, bernoulli, st.just(SpeechOnlyPolicy()), st.just(TextOnlyPolicy()))
pairs = st.one_of(
    st.builds(WordTranscriptionPolicy, first=st.sampled_from(["speech", "text"])),
    st.just(AsrPolicy()),
    st.just(TtsPolicy()),
)
sizes = st.integers(1, 300)
boundaries = st.sets(st.integers(0, 299))
seeds = st.integers(0, 999)


def open_runs(num_words: int, closed: Iterable[int]) -> list[tuple[int, int]]:
    edges = sorted(({*range(num_words + 1)} - set(closed)) | {0, num_words})
    return list(pairwise(edges))


@given(num_words=sizes, closed=boundaries, policy=partitions, seed=seeds)
def test_spans_partition_the_words_and_never_switch_where_it_is_closed(
    num_words: int, closed: set[int], policy: Policy, seed: int
) -> None:
    spans = draw_spans(num_words, closed, policy, rng_for(seed))
    assert [w for s in spans for w in range(s.start_word, s.end_word)] == list(range(num_words))
    assert all(a.modality is not b.modality for a, b in pairwise(spans))
    assert all(length(span) > 0 and not span.task for span in spans)
    assert not closed & {s.end_word for s in spans[:-1]}


@given(num_words=sizes, closed=boundaries, utterances=boundaries, policy=pairs, seed=seeds)
def test_pairs_hold_every_word_once_in_each_modality_and_never_switch_where_it_is_closed(
    num_words: int, closed: set[int], utterances: set[int], policy: Policy, seed: int
) -> None:
    spans = draw_spans(num_words, closed, policy, rng_for(seed), sorted(utterances))
    first, second = spans[::2], spans[1::2]
    assert [s[1:3] for s in first] == [s[1:3] for s in second]
    assert [w for s in first for w in range(s.start_word, s.end_word)] == list(range(num_words))
    assert all(length(span) > 0 for span in spans)
    assert len({s.modality for s in first}) == len({s.modality for s in second}) == 1
    assert first[0].modality is second[0].modality.other
    assert not closed & {s.end_word for s in first[:-1]}


@given(
    widths=st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2**32 - 1)), min_size=1, max_size=30),
    count=st.integers(0, 30),
    seed=seeds,
)
def test_draws_from_bits_are_those_of_numpy(widths: list[int], count: int, seed: int) -> None:
    """numpy's own implementation of the same method, which draws anew where a draw would be biased."""
    rng = rng_for(seed)
    bits = _bits(rng_for(seed), count)
    assert [_below(width, bits) for width in widths] == [int(rng.integers(width)) for width in widths]


def test_spiritlm_draws_what_it_always_drew() -> None:
    spans = draw_spans(60, (), SpiritLmPolicy(), rng_for(7, 0, "doc-000"))
    assert (spans[0].modality, [s.end_word for s in spans]) == (SPEECH, [11, 22, 35, 51, 60])
    closed = frozenset({12, 13, 20, 21, 22, 41})
    policy = SpiritLmPolicy(text_words=(2, 4), speech_words=(1, 3), remainder="merge")
    spans = draw_spans(45, closed, policy, rng_for(7, 1, "doc-001"))
    assert spans[0].modality is TEXT
    assert [s.end_word for s in spans] == [3, 5, 9, 10, 14, 15, 18, 19, 23, 26, 28, 31, 33, 36, 38, 40, 43, 45]


def test_the_draws_of_poisson_and_bernoulli_are_frozen() -> None:
    closed = frozenset({4, 5, 12, 20, 21})
    spans = draw_spans(60, closed, PoissonPolicy(mean_words=4.0), rng_for(7, 0, "doc-000"))
    assert (spans[0].modality, [s.end_word for s in spans]) == (
        TEXT,
        [1, 2, 13, 16, 31, 34, 42, 45, 47, 51, 55, 59, 60],
    )
    spans = draw_spans(24, closed, BernoulliPolicy(), rng_for(7, 0, "doc-001"))
    assert (spans[0].modality, [s.end_word for s in spans]) == (TEXT, [14, 15, 16, 18, 19, 23, 24])


@given(num_words=st.integers(1, 300), closed=st.sets(st.integers(1, 299)), policy=spiritlm, seed=st.integers(0, 999))
def test_lengths_leave_the_range_only_for_the_documented_reasons(
    num_words: int, closed: set[int], policy: SpiritLmPolicy, seed: int
) -> None:
    spans = draw_spans(num_words, closed, policy, rng_for(seed))
    limits = {TEXT: policy.text_words, SPEECH: policy.speech_words}
    for span in spans[:-1]:
        low, high = limits[span.modality]
        words = length(span)
        if not low <= words <= high:
            assert words > high, "moving a switch never makes a span short"
            passed_over = range(span.start_word + low, span.end_word)
            assert closed.issuperset(passed_over), "an open boundary was passed over"
    low, high = limits[spans[-1].modality]
    last = spans[-1].end_word - spans[-1].start_word
    if policy.remainder == "merge" and len(spans) > 1:
        assert last >= low
    if policy.remainder == "keep" and last > high:
        assert closed.issuperset(range(spans[-1].start_word + high + 1, num_words))


def test_a_switch_moves_forward_then_back_then_beyond() -> None:
    policy = SpiritLmPolicy(text_words=(4, 6), speech_words=(4, 6), start="text")
    targets = {draw_spans(100, (), policy, rng_for(s))[0].end_word: s for s in range(50)}
    at_five = rng_for(targets[5]), rng_for(targets[5]), rng_for(targets[5])
    assert draw_spans(100, {5}, policy, at_five[0])[0].end_word == 6
    assert draw_spans(100, {5, 6}, policy, at_five[1])[0].end_word == 4
    assert draw_spans(100, {4, 5, 6, 7}, policy, at_five[2])[0].end_word == 8
    assert draw_spans(100, set(range(1, 100)), policy, rng_for(0)) == (Span(TEXT, 0, 100),)


def test_remainder_keep_and_merge() -> None:
    keep = SpiritLmPolicy(text_words=(5, 5), speech_words=(5, 5), start="text")
    merge = keep.model_copy(update={"remainder": "merge"})
    assert draw_spans(12, (), keep, rng_for(0))[-1] == Span(TEXT, 10, 12)
    assert draw_spans(12, (), merge, rng_for(0)) == (Span(TEXT, 0, 5), Span(SPEECH, 5, 12))
    assert draw_spans(3, (), merge, rng_for(0)) == (Span(TEXT, 0, 3),)


def test_a_document_without_words_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one word, got 0"):
        draw_spans(0, (), SpiritLmPolicy(), rng_for(0))


@given(num_words=sizes, policy=poisson, seed=seeds)
def test_poisson_gives_speech_its_share_to_the_word(num_words: int, policy: PoissonPolicy, seed: int) -> None:
    spans = draw_spans(num_words, (), policy, rng_for(seed))
    assert abs(spoken(spans) - policy.speech_share * num_words) < 1


@given(num_words=sizes, few=st.booleans(), chosen=st.sets(st.integers(1, 299), max_size=20), policy=poisson, seed=seeds)
def test_closed_boundaries_cost_poisson_no_more_than_they_must(
    num_words: int, few: bool, chosen: set[int], policy: PoissonPolicy, seed: int
) -> None:
    closed = chosen if few else set(range(1, num_words)) - chosen
    spans = draw_spans(num_words, closed, policy, rng_for(seed))
    wanted = int(policy.speech_share * num_words + rng_for(seed).random())
    missing = wanted - spoken(spans)
    speech = {w for s in spans if s.modality is SPEECH for w in range(s.start_word, s.end_word)}
    runs = open_runs(num_words, closed)
    turned = [start - end if start in speech else end - start for start, end in runs]
    assert all(abs(missing - words) >= abs(missing) for words in turned)
    assert abs(missing) <= max(abs(words) for words in turned) / 2


def test_spans_grow_and_shrink_rather_than_new_ones_appear() -> None:
    # One span of 12 words; where an end of it falls into the closed words, it is a few words too short or too long.
    closed = set(range(31, 38))
    policy = PoissonPolicy(mean_words=1000.0, speech_share=0.2)
    drawn = {draw_spans(60, closed, policy, rng_for(4, key)) for key in range(300)}
    assert {spoken(spans) for spans in drawn} == {12}
    assert {sum(span.modality is SPEECH for span in spans) for spans in drawn} == {1}
    assert len(drawn) > 10


def test_words_are_transcribed_in_groups_that_no_switch_may_part() -> None:
    speech = [Span(SPEECH, 0, 1), Span(SPEECH, 1, 3), Span(SPEECH, 3, 4)]
    text = [span._replace(modality=TEXT) for span in speech]
    spans = draw_spans(4, {2, 9}, WordTranscriptionPolicy(), rng_for(0))
    assert (list(spans[::2]), list(spans[1::2])) == (speech, text)
    spans = draw_spans(4, {2, 9}, WordTranscriptionPolicy(first="text"), rng_for(0))
    assert (list(spans[::2]), list(spans[1::2])) == (text, speech)


def test_tasks_go_utterance_by_utterance_joined_where_it_is_closed() -> None:
    asr = draw_spans(9, {5}, AsrPolicy(), rng_for(0), (3, 5, 7))
    assert asr == (
        Span(SPEECH, 0, 3, "asr"), Span(TEXT, 0, 3), Span(SPEECH, 3, 7, "asr"), Span(TEXT, 3, 7),
        Span(SPEECH, 7, 9, "asr"), Span(TEXT, 7, 9),
    )  # fmt: skip
    assert draw_spans(9, (), TtsPolicy(), rng_for(0)) == (Span(TEXT, 0, 9, "tts"), Span(SPEECH, 0, 9))
    # An utterance without words begins where the next one does.
    assert draw_spans(4, (), AsrPolicy(), rng_for(0), (0, 2, 2, 4))[1::2] == (Span(TEXT, 0, 2), Span(TEXT, 2, 4))


def test_one_modality_alone_is_one_span() -> None:
    assert draw_spans(7, {3}, SpeechOnlyPolicy(), rng_for(0)) == (Span(SPEECH, 0, 7),)
    assert draw_spans(7, {3}, TextOnlyPolicy(), rng_for(0)) == (Span(TEXT, 0, 7),)


class Asked(frozenset[int]):
    """Closed boundaries that count how often they are asked."""

    times = 0

    def __contains__(self, item: object) -> bool:
        Asked.times += 1
        return super().__contains__(item)


@pytest.mark.parametrize(
    "policy", [SpiritLmPolicy(), PoissonPolicy(), BernoulliPolicy(), WordTranscriptionPolicy(), AsrPolicy()]
)
@pytest.mark.parametrize("closed", [range(0, 20_000, 3), range(1, 19_990), [i for i in range(20_000) if i % 500]])
def test_the_work_is_linear_in_the_words(policy: Policy, closed: Iterable[int]) -> None:
    Asked.times = 0
    draw_spans(20_000, Asked(closed), policy, rng_for(0), range(0, 20_000, 10))
    assert Asked.times <= 4 * 20_000


def test_the_names_are_those_of_the_union() -> None:
    tags = SequenceSection.model_json_schema()["properties"]["policy"]["oneOf"]
    names = [SequenceSection.model_validate({"policy": {"name": name}}).policy.name for name in POLICY_NAMES]
    assert names == list(POLICY_NAMES)
    assert len(tags) == len(POLICY_NAMES)
