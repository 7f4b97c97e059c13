"""Guards against text that nobody said: each at its limit, and on text of real languages."""

import math
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.transcripts import Drop
from stages.transcript_guards import (
    LEAST_REPEATED_CHARACTERS,
    LEAST_REPEATED_WORDS,
    Guards,
    compression_ratio,
    is_broken,
    longest_loop,
    loops,
    num_characters,
    tidy,
)

GOOD = ("The lamp in the lighthouse had burned every night.", 4.0, -0.3, 0.1)


def problem(text=GOOD[0], seconds=GOOD[1], logprob=GOOD[2], no_speech=GOOD[3], **limits):
    return Guards(**limits).problem(text, seconds, logprob, no_speech)


def test_speech_that_was_heard_passes():
    assert problem() is None


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"no_speech": 0.6}, None),
        ({"no_speech": 0.6001}, Drop.NO_SPEECH),
        ({"no_speech": math.nan}, Drop.NO_SPEECH),
        ({"logprob": -1.0}, None),
        ({"logprob": -1.0001}, Drop.LOW_LOGPROB),
        ({"logprob": math.nan}, Drop.LOW_LOGPROB),
        ({"logprob": -math.inf}, Drop.LOW_LOGPROB),
        ({"text": ""}, Drop.NO_TEXT),
        ({"text": "... - ?!"}, Drop.NO_TEXT),
        ({"text": "♪♪"}, Drop.NO_TEXT),
        ({"text": "a"}, None),
        ({"text": "7"}, None),
        ({"text": "你好"}, None),
        ({"text": "half a \ufffd"}, Drop.BROKEN_TEXT),
        ({"text": "a\0b"}, Drop.BROKEN_TEXT),
        ({"text": "ab cd " * 2, "seconds": 1.0, "max_characters_per_second": 8.0}, None),
        ({"text": "ab cd " * 2, "seconds": 1.0, "max_characters_per_second": 7.9}, Drop.TOO_FAST),
        ({"text": "so it goes on " * 4, "seconds": 30.0}, Drop.LOOP),
    ],
)
def test_each_guard_at_its_limit(changed, found):
    assert problem(**changed) is found


def test_text_that_compresses_too_well_goes_even_where_nothing_follows_itself():
    phrases = ["one two three four five six", "seven eight nine ten eleven twelve"]
    text = " ".join(phrases[i] for i in (0, 1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1, 0, 1, 1, 0))
    assert not loops(text)
    assert compression_ratio(text) > 2.4
    assert problem(text=text, seconds=30.0) is Drop.COMPRESSIBLE
    assert problem(text=text, seconds=30.0, max_compression_ratio=99.0) is None


TEXTS = {
    "refrain": "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily.",
    "stammer": "No no no no, I I I mean it is is very very very good.",
    "digits": "The number is 0 0 0 0 7 0 0 0.",
    "chinese": "今天天气很好，我们一起去公园散步，然后回家吃饭。",
    "thai": "วันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันเถอะ",
    "german": "Die Katze, die die Katze, die die Maus fing, sah, schlief.",
    "once": "We will do it again tomorrow. We will do it again tomorrow.",
}


@pytest.mark.parametrize("name", TEXTS)
def test_what_people_say_is_no_loop(name):
    assert not loops(TEXTS[name])
    assert problem(text=TEXTS[name], seconds=10.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "Thank you. " * 9,
        "so it goes, So It Goes! SO IT GOES? so, it goes.",
        "I am going to do it again. " * 3,
        "the " * 9,
        "我不知道" * 12,
        "ha" * 20,
        "a" * 40,
        "Well, then. " + "so on and so forth, " * 4 + "and that was that.",
    ],
)
def test_what_a_caught_decoder_writes_is_a_loop(text):
    assert loops(text)


@pytest.mark.parametrize(
    ("items", "want"),
    [
        ("", 0),
        ("a", 0),
        ("aa", 0),
        ("aaa", 2),
        ("abab", 0),
        ("ababab", 4),
        ("xababaBy", 0),
        ("ababax", 0),
        ("abcabcabcab", 8),
        ("aaabbb", 2),
    ],
)
def test_longest_loop_of_letters(items, want):
    assert longest_loop(items) == want


@given(
    st.text("abc", min_size=1, max_size=6), st.integers(3, 9), st.text("xyz", max_size=9), st.text("uvw", max_size=9)
)
def test_a_phrase_said_over_and_over_is_found_wherever_it_stands(phrase, times, before, after):
    assert longest_loop(before + phrase * times + after) >= len(phrase) * (times - 1)


@given(st.lists(st.sampled_from("ab"), max_size=30))
def test_longest_loop_agrees_with_trying_every_phrase(items):
    text = "".join(items)
    want = 0
    for period in range(1, len(text) // 3 + 1):
        for start in range(len(text)):
            end = start + period
            while end < len(text) and text[end] == text[end - period]:
                end += 1
            if end - start >= 3 * period:
                want = max(want, end - start - period)
    assert longest_loop(items) == want


@given(st.text(max_size=200), st.floats(0.1, 30), st.floats(-3, 0), st.floats(0, 1))
@example("a" * 300, 30.0, 0.0, 0.0)
def test_what_passes_satisfies_every_limit_and_case_and_order_of_limits_do_not_matter(
    text, seconds, logprob, no_speech
):
    text = tidy(text)
    found = problem(text, seconds, logprob, no_speech)
    lax = Guards(
        max_no_speech=1.0, min_average_logprob=-99.0, max_compression_ratio=999.0, max_characters_per_second=9999.0
    )
    fine = no_speech <= 0.6 and logprob >= -1 and num_characters(text) <= 30 * seconds
    if found is None:
        assert fine
        assert any(c.isalnum() for c in text)
        assert not is_broken(text)
    elif lax.problem(text, seconds, logprob, no_speech) is None:
        assert not fine or compression_ratio(text) > 2.4


def test_the_compression_ratio_is_whispers():
    text = "Déjà vu " * 20
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode()))
    assert compression_ratio("") == 0


def test_tidy_leaves_single_spaces():
    assert tidy("  a\tb \n c\u3000d ") == "a b c d"


def test_limits_of_loops_are_those_documented():
    assert not loops("a " * LEAST_REPEATED_WORDS)
    assert loops("a " * (LEAST_REPEATED_WORDS + 1))
    assert not loops("字" * LEAST_REPEATED_CHARACTERS)
    assert loops("字" * (LEAST_REPEATED_CHARACTERS + 1))


@pytest.mark.parametrize(
    "limits",
    [
        {"max_no_speech": -0.1},
        {"max_no_speech": 1.1},
        {"max_no_speech": math.nan},
        {"min_average_logprob": 0.1},
        {"min_average_logprob": math.nan},
        {"max_compression_ratio": 0.0},
        {"max_characters_per_second": 0.0},
        {"max_characters_per_second": math.nan},
    ],
)
def test_limits_are_checked(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        Guards(**limits)
