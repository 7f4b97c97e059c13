import math
import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import rng_for, sha256_hex
from schemas.clock import FrameGrid, Samples
from schemas.records import Aligned, Artifact, Spoken, Token
from schemas.rejects import Reason, Reject
from stages.align_ctc import CtcAligner, CtcConfig, aligned, targets_of, with_star
from stages.ctc_models import CtcLabels
from tests.feature_builders import clip

HOP, RECEPTIVE = 320, 400
GRID = FrameGrid(hop=Samples(HOP), offset=Samples(199))
ALPHABET = "abcdefghijklmnopqrstuvwxyz'"
MARKED = CtcLabels(letters={c: i + 2 for i, c in enumerate(ALPHABET)}, blank=0, delimiter=1, width=29)
BARE = CtcLabels(letters={c: i for i, c in enumerate(ALPHABET)}, blank=27, delimiter=None, width=28)
POOR = CtcLabels(letters={c: i + 1 for i, c in enumerate("ehlorwd")}, blank=0, delimiter=None, width=8)
CHECKPOINT = Artifact(path="ctc", sha256="0" * 64)
SURE = math.log(0.99)


class Emissions:
    """Stands for a model: log-probabilities are given, or drawn from a clip's samples alone."""

    grid = GRID

    def __init__(self, labels, given=None):
        self.labels, self.given, self.calls = labels, given, 0

    def num_frames(self, num_samples):
        return max(0, (num_samples - RECEPTIVE) // HOP + 1)

    def log_probs(self, clips):
        self.calls += 1
        return [self.given if self.given is not None else self._drawn(pcm) for pcm in clips]

    def _drawn(self, pcm):
        logits = rng_for(0, sha256_hex(pcm.tobytes())).normal(0, 4, (self.num_frames(len(pcm)), self.labels.width))
        return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def samples_for(num_frames, rest=0):
    return RECEPTIVE + (num_frames - 1) * HOP + rest


def painted(labels, text):
    """Emissions that say one character per frame: a letter, `_` for blank, `|` for the mark; each with 0.99."""
    columns = [{"_": labels.blank, "|": labels.delimiter}.get(char, labels.letters.get(char)) for char in text]
    log_probs = np.full((len(text), labels.width), math.log(0.01 / (labels.width - 1)), np.float32)
    log_probs[np.arange(len(text)), columns] = SURE
    return log_probs


def spoken(*tokens, num_samples=16_000, key="u0", pcm=None):
    pcm = np.zeros(num_samples, np.int16) if pcm is None else pcm
    pairs = [Token(token, (token,)) if isinstance(token, str) else Token(*token) for token in tokens]
    return Spoken(clip=clip(pcm, key), tokens=tuple(pairs))


def aligner(labels, log_probs=None, **options):
    config = CtcConfig(checkpoint=CHECKPOINT, **{"max_words_per_second": 1000, **options})
    return CtcAligner(config, labels, Emissions(labels, log_probs))


def align(labels, text, *tokens, rest=0, **options):
    """Align tokens with painted emissions."""
    stage = aligner(labels, painted(labels, text), **options)
    (outcome,) = stage.process([spoken(*tokens, num_samples=samples_for(len(text), rest))])
    return outcome


def frames(word):
    """The frames that an interval covers, given that both ends lie on frames' borders."""
    left = GRID.offset - HOP // 2
    assert (word.start - left) % HOP == 0
    assert (word.end - left) % HOP == 0
    return (word.start - left) // HOP, (word.end - left) // HOP


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (MARKED, "__hh_e_l__l_oo_|__w_or_l_d__"),
        (MARKED, "__hh_e_l__l_oo||||w_or_l_d__"),
        (BARE, "__hh_e_l__l_oo____w_or_l_d__"),
    ],
)
def test_a_word_lasts_from_its_first_letter_to_its_last(labels, text):
    outcome = align(labels, text, "hello", "world")
    hello, world = outcome.words
    assert (hello.text, world.text) == ("hello", "world")
    assert frames(hello) == (2, 14)
    assert frames(world) == (18, 26)
    assert outcome.doubtful == ()
    assert not outcome.fallback


def test_repeated_letters_need_a_blank_and_are_one_word():
    (word,) = align(BARE, "_aa_a_", "aaa"[:2]).words
    assert frames(word) == (1, 5)
    assert isinstance(align(BARE, "aaa", "aaaa"), Reject)


def test_a_token_of_several_words_spans_them_all():
    outcome = align(MARKED, "_two_|___one__|_x_", ("21", ("two", "one")), "x")
    number, x = outcome.words
    assert number.text == "21"
    assert frames(number) == (1, 12)
    assert frames(x) == (16, 17)
    assert number.score == pytest.approx(SURE)


def test_bare_punctuation_gets_no_time_and_is_not_doubtful():
    outcome = align(BARE, "_ab__cd_", ("—", ()), "ab", ("...", ()), "cd", ("!", ()))
    assert [word.text for word in outcome.words] == ["—", "ab", "...", "cd", "!"]
    assert [word.start is None for word in outcome.words] == [True, False, True, False, True]
    assert all((w.start is None) == (w.end is None) == (w.score is None) for w in outcome.words)
    assert outcome.doubtful == ()


def test_letters_that_the_model_lacks_are_left_out():
    outcome = align(POOR, "_hel_lo__word_", "xhelloz", "w'ord")
    assert [frames(word) for word in outcome.words] == [(1, 7), (9, 13)]


def test_a_frame_lies_around_its_position():
    """The first frame's hop starts before its position, the last one's ends with the clip at the latest."""
    (word,) = align(BARE, "aab", "ab").words
    assert (word.start, word.end) == (39, 39 + 3 * HOP)
    (word,) = aligned_at(last=2, num_samples=39 + 3 * HOP - 1)
    assert word.end == 39 + 3 * HOP - 1


def aligned_at(last, num_samples):
    targets = targets_of([Token("a", ("a",))], BARE, star=True)
    count = last + 1
    path, nats = np.zeros(count, np.int32), np.zeros(count, np.float32)
    return aligned(spoken("a", num_samples=num_samples), targets, path, nats, np.zeros(count), GRID).words


# ---------------------------------------------------------------- stars


def test_a_star_stands_for_what_cannot_be_spelled():
    outcome = align(BARE, "__hey__qqq__you_", "hey", ("مرحبا", ()), "you")
    hey, star, you = outcome.words
    assert frames(hey) == (2, 5)
    assert frames(star) == (7, 10)
    assert frames(you) == (12, 15)
    assert star.score is None
    assert outcome.doubtful == (1,)
    assert outcome.score_all == pytest.approx(SURE)


def test_without_stars_such_a_token_gets_no_time():
    outcome = align(BARE, "__hey__qqq__you_", "hey", ("مرحبا", ()), "you", star=False)
    assert outcome.words[1] == ("مرحبا", None, None, None)
    assert outcome.doubtful == ()


@pytest.mark.parametrize("labels", [BARE, MARKED])
def test_each_of_two_stars_in_a_row_has_its_own_time(labels):
    mark = "_" if labels is BARE else "|"
    outcome = align(labels, f"_hey_{mark}_qq_{mark}_zz_{mark}_you_", "hey", ("你", ()), ("好", ()), "you")
    assert [frames(word) for word in outcome.words] == [(1, 4), (7, 9), (12, 14), (17, 20)]
    assert outcome.doubtful == (1, 2)


def test_the_star_s_column_comes_last():
    log_probs = painted(MARKED, "_|q")
    star = with_star(log_probs)
    assert star.dtype == np.float32
    np.testing.assert_array_equal(star[:, : MARKED.width], log_probs)
    np.testing.assert_array_equal(star[:, MARKED.width], np.full(3, -0.1, np.float32))


def test_a_star_covers_the_blanks_between_letters_but_no_silence():
    outcome = align(BARE, "_hey" + "_" * 30 + "q___q__q" + "_" * 30 + "you_", "hey", ("你好", ()), "you")
    assert [frames(word) for word in outcome.words] == [(1, 4), (34, 42), (72, 75)]


def test_frames_of_a_star_vouch_for_nothing():
    log_probs = painted(BARE, "_ab__qqqqqq__cd_")
    log_probs[5:11] = -2
    log_probs[5:11, BARE.blank] = -9
    (outcome,) = aligner(BARE, log_probs).process([spoken("ab", ("5th", ()), "cd", num_samples=samples_for(16))])
    assert frames(outcome.words[1]) == (5, 11)
    assert outcome.score_all == pytest.approx(SURE)
    assert outcome.score_words == pytest.approx(SURE)


# ---------------------------------------------------------------- scores


def test_scores_are_means_over_frames():
    log_probs = painted(BARE, "_a_b_c_")
    log_probs[[1, 3, 5]] = -9
    log_probs[1, BARE.letters["a"]], log_probs[3, BARE.letters["b"]] = -0.5, -1.5
    log_probs[5, BARE.letters["c"]] = -2.5
    (outcome,) = aligner(BARE, log_probs).process([spoken("ab", "c", num_samples=samples_for(7))])
    assert [word.score for word in outcome.words] == pytest.approx([-1.0, -2.5])
    assert outcome.score_words == pytest.approx(-4.5 / 3)
    assert outcome.score_all == pytest.approx((4 * SURE - 4.5) / 7)


def test_marks_between_words_count_for_the_clip_only():
    outcome = align(MARKED, "_a_|_b_", "a", "b")
    assert outcome.score_all == pytest.approx(SURE)
    assert [word.score for word in outcome.words] == pytest.approx([SURE, SURE])


@pytest.mark.parametrize("labels", [BARE, MARKED])
def test_speech_that_the_text_lacks_lowers_the_silence(labels):
    quiet = align(labels, "_ab_" + "_" * 60, "ab")
    speech = align(labels, "_ab_" + "_" * 20 + "s_p_ee_c_h" + "_" * 30, "ab")
    assert quiet.score_silence >= SURE - 1e-6
    assert speech.score_silence < quiet.score_silence - 0.5


def test_a_mark_in_a_silence_is_silence():
    outcome = align(MARKED, "_a_" + "_" * 15 + "||||" + "_" * 15 + "_b_", "a", "b")
    assert outcome.score_silence >= SURE - 1e-6


def test_the_worst_half_second_counts_not_the_mean():
    speech = align(BARE, "_ab_" + "_" * 300 + "s_p_ee_c_h" + "_" * 300, "ab")
    assert speech.score_silence < -0.5


@pytest.mark.parametrize(("blanks", "there"), [(24, False), (25, True)])
def test_less_than_half_a_second_is_no_silence(blanks, there):
    assert (align(BARE, "a" + "_" * blanks + "b", "ab").score_silence is not None) is there


# ---------------------------------------------------------------- rejects


def test_reasons():
    config = CtcConfig(checkpoint=CHECKPOINT, max_words_per_second=4)
    emissions = Emissions(BARE)
    stage = CtcAligner(config, BARE, emissions)
    second = 16_000
    outcomes = stage.process(
        [
            spoken(*"abcde", num_samples=second),
            spoken(("—", ()), num_samples=second),
            spoken(("你好", ()), num_samples=second),
            spoken(num_samples=second),
            spoken("abc", num_samples=RECEPTIVE - 1, key="short"),
            spoken("a" * 26, num_samples=second),
        ]
    )
    assert all(isinstance(outcome, Reject) for outcome in outcomes)
    assert [outcome.reason for outcome in outcomes] == [
        Reason.TOO_MANY_WORDS,
        Reason.NO_ALIGNMENT,
        Reason.NO_ALIGNMENT,
        Reason.NO_ALIGNMENT,
        Reason.TOO_MANY_WORDS,
        Reason.NO_ALIGNMENT,
    ]
    assert [outcome.detail for outcome in outcomes[1:]] == [
        "u0: no spoken words",
        "u0: no spoken words",
        "u0: no spoken words",
        "short: 1 words in 0.02 s, more than 4 per second",
        "u0: no path for 1 words in 1.00 s",
    ]
    assert {outcome.stage for outcome in outcomes} == {"align"}
    assert emissions.calls == 0


def test_a_clip_without_a_frame_is_too_short():
    (outcome,) = aligner(BARE).process([spoken("a", num_samples=RECEPTIVE - 1)])
    assert (outcome.reason, outcome.detail) == (
        Reason.TOO_SHORT,
        f"u0: {RECEPTIVE - 1} samples are less than one frame of the model",
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_output_that_is_not_finite_is_rejected(bad):
    log_probs = painted(BARE, "_a_")
    log_probs[1, 3] = bad
    (outcome,) = aligner(BARE, log_probs).process([spoken("a", num_samples=samples_for(3))])
    assert (outcome.reason, outcome.detail) == (Reason.NO_ALIGNMENT, "u0: the model's output is not finite")


def test_as_many_frames_as_targets_are_enough():
    assert isinstance(align(BARE, "abcd", "ab", "cd"), Aligned)
    assert isinstance(align(BARE, "abc", "ab", "cd"), Reject)


# ---------------------------------------------------------------- properties

any_token = st.one_of(
    st.text(ALPHABET, min_size=1, max_size=6).map(lambda word: (word, (word,))),
    st.tuples(st.sampled_from(["21", "Mr.", "x²"]), st.lists(st.text("abé", min_size=1, max_size=3), max_size=3)),
    st.sampled_from([("—", ()), ("你好", ()), ("!?", ()), ("５", ()), ("ß", ("ß",)), ("&", ("ß",))]),
)
any_item = st.builds(
    lambda tokens, num_samples, seed: spoken(
        *((text, tuple(words)) for text, words in tokens),
        pcm=rng_for(seed, "pcm").integers(-99, 99, num_samples).astype(np.int16),
    ),
    st.lists(any_token, max_size=8),
    st.integers(0, 40_000),
    st.integers(0, 9),
)


def is_spelled(token, labels):
    return any(labels.spell(word) for word in token.spoken)


@given(any_item, st.sampled_from([MARKED, BARE, POOR]), st.booleans())
def test_every_token_is_accounted_for(item, labels, star):
    (outcome,) = aligner(labels, star=star).process([item])
    if isinstance(outcome, Reject):
        return
    assert [word.text for word in outcome.words] == [token.text for token in item.tokens]
    edge = 0
    for i, (word, token) in enumerate(zip(outcome.words, item.tokens, strict=True)):
        wild = star and not is_spelled(token, labels) and any(c.isalnum() for c in token.text)
        assert (i in outcome.doubtful) is wild
        assert (word.start is not None) is (word.end is not None) is (wild or is_spelled(token, labels))
        assert (word.score is not None) is is_spelled(token, labels)
        if word.start is not None:
            assert edge <= word.start < word.end <= item.clip.num_samples
            edge = word.end
        assert word.score is None or -99 <= word.score <= 0
    assert -99 <= outcome.score_all <= 0
    assert -99 <= outcome.score_words <= 0
    assert outcome.score_silence is None or -99 <= outcome.score_silence <= 1e-6


def as_plain(outcome):
    if isinstance(outcome, Reject):
        return outcome
    return (outcome.words, outcome.score_all, outcome.score_words, outcome.score_silence, outcome.doubtful)


@given(st.lists(any_item, min_size=1, max_size=5), st.randoms())
def test_batch_and_order_change_nothing(items, shuffler: random.Random):
    want = {id(item): as_plain(aligner(MARKED).process([item])[0]) for item in items}
    shuffler.shuffle(items)
    outcomes = aligner(MARKED).process(items)
    assert [as_plain(outcome) for outcome in outcomes] == [want[id(item)] for item in items]
    assert all(o.clip is item.clip for o, item in zip(outcomes, items, strict=True) if isinstance(o, Aligned))


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=4), st.integers(0, 3)), min_size=1, max_size=6), st.data()
)
def test_words_are_merged_exactly_from_a_known_path(words, data):
    """Say each letter for some frames, blanks between as CTC asks; the intervals are known without any search."""
    text, want = "_" * data.draw(st.integers(0, 2)), []
    for word, pause in words:
        first = len(text)
        for i, letter in enumerate(word):
            gap = data.draw(st.integers(int(i > 0 and word[i - 1] == letter), 2))
            text += "_" * (gap if i else 0)
            first = len(text) if i == 0 else first
            text += letter * data.draw(st.integers(1, 3))
        want.append((first, len(text)))
        text += "_" * (pause + 1)
    outcome = align(BARE, text, *(word for word, _ in words))
    assert [frames(word) for word in outcome.words] == want


# ---------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window_seconds", 0),
        ("window_seconds", math.nan),
        ("window_seconds", math.inf),
        ("context_seconds", -1),
        ("context_seconds", math.nan),
        ("max_words_per_second", 0),
        ("max_words_per_second", math.nan),
        ("precision", "float8"),
    ],
)
def test_bad_settings_are_named(field, value):
    with pytest.raises(ValueError, match=rf"{field} must.*{value}"):
        CtcConfig(checkpoint=CHECKPOINT, **{field: value})


def test_the_config_travels_and_says_what_scores_mean():
    config = CtcConfig(checkpoint=CHECKPOINT, model="MMS_FA", star=False)
    assert pickle.loads(pickle.dumps(config)) == config
    metadata = config.metadata()
    assert metadata["name"] == "ctc"
    assert (metadata["version"], metadata["score_version"], metadata["star"]) == (1, 1, False)
    assert (metadata["model"], metadata["checkpoint_sha256"]) == ("MMS_FA", "0" * 64)
    assert "nats" in metadata["score"]
