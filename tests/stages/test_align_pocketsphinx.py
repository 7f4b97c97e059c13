import itertools
import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from benchmarks import alignment as bench
from schemas.records import Aligned, Clip, Spoken, Token, Utterance
from schemas.rejects import Reason, Reject
from stages.align_pocketsphinx import LOWEST_SCORE, PocketsphinxConfig
from stages.normalise import NormaliseConfig
from stages.pocketsphinx_search import WordSearch, pronounce
from tests.real_speech import SPEECH, needs_speech

GRID = 160


def spoken(pcm, words, key="u1"):
    utterance = Utterance(key=key, id=key, audio="a.wav", location="/a.wav", text="", recording="r", index=0)
    clip = Clip(utterance=utterance, pcm=np.asarray(pcm, np.int16), source_rate=16_000, source_channels=1)
    return Spoken(clip=clip, tokens=tuple(Token(word, (word,)) for word in words))


def said(outcome):
    """What an outcome says, without the clip, whose identity is not its content."""
    if isinstance(outcome, Reject):
        return outcome
    return outcome.words, outcome.score_all, outcome.score_words, outcome.score_silence, outcome.fallback


@pytest.fixture(scope="module")
def aligner():
    return PocketsphinxConfig().setup()


@pytest.fixture(scope="module")
def roomy():
    return PocketsphinxConfig(max_words_per_second=1e9).setup()


@pytest.fixture(scope="module")
def items():
    return bench.corpus_items()


@pytest.fixture(scope="module")
def utterances(items):
    """The shortest clips of the corpus; some with names, noise or a wrong text that the dictionary lacks."""
    clips = [item.clip for item in sorted(items, key=lambda item: item.clip.num_samples)[:4]]
    noise = np.random.default_rng(1).normal(0, 2000, 16_000).astype(np.int16)
    odd = [
        spoken(noise, ["thistlewick's"], "noise"),
        spoken(clips[0].pcm, ["thistlewick", "thistlewicks'"], "names"),
        spoken(clips[1].pcm, ["'thistlewick"], "quoted"),
    ]
    return [*NormaliseConfig().setup().process(clips), *odd]


@pytest.fixture(scope="module")
def apart(utterances):
    """Every utterance aligned by an aligner that has seen no other."""
    return [said(PocketsphinxConfig().setup().process([item])[0]) for item in utterances]


@settings(max_examples=2, deadline=None, suppress_health_check=list(HealthCheck))
@given(order=st.permutations(range(7)), size=st.integers(1, 7))
@example(order=list(range(7)), size=7)
@example(order=list(reversed(range(7))), size=1)
def test_order_and_batching_never_change_an_outcome(order, size, aligner, utterances, apart):
    batch = [utterances[i] for i in order]
    outcomes = [o for i in range(0, len(batch), size) for o in aligner.process(batch[i : i + size])]
    assert [said(outcome) for outcome in outcomes] == [apart[i] for i in order]


def test_names_added_for_earlier_utterances_are_forgotten_without_a_trace(utterances, apart, monkeypatch):
    monkeypatch.setattr("stages.pocketsphinx_search._MAX_ADDED", 0)
    aligner = PocketsphinxConfig().setup()
    assert [said(outcome) for outcome in aligner.process(utterances)] == apart


def test_words_lie_in_the_clip_on_the_grid_and_ascend(aligner, utterances):
    for item, outcome in zip(utterances, aligner.process(utterances), strict=True):
        if isinstance(outcome, Reject):
            continue
        assert [word.text for word in outcome.words] == [token.text for token in item.tokens]
        timed = [word for word in outcome.words if word.start is not None]
        edges = [edge for word in timed for edge in (word.start, word.end)]
        assert edges == sorted(edges)
        assert all(word.start < word.end for word in timed)
        assert len(timed) < 3 or any(a.end == b.start for a, b in itertools.pairwise(timed))
        assert all(edge % GRID == 0 or edge == outcome.clip.num_samples for edge in edges)
        assert 0 <= edges[0] <= edges[-1] <= outcome.clip.num_samples
        assert all(LOWEST_SCORE <= word.score <= 0 for word in timed)


def test_word_starts_of_the_corpus_are_near_the_true_ones(aligner, items):
    some = [item for item in items if item.clip.utterance.id.startswith("news01")]
    errors = np.array(bench.start_errors(some, bench.align(some, NormaliseConfig().setup(), aligner)))
    assert len(errors) > 80
    assert np.median(errors) <= 20
    assert np.mean(errors <= 50) >= 0.9


@needs_speech(*(f"{name}.wav" for name in bench.HAND_CORRECTED))
def test_word_starts_of_real_speech_are_near_the_hand_corrected_ones(aligner):
    some = [item for item in bench.speech_items(SPEECH) if item.starts]
    errors = bench.start_errors(some, bench.align(some, NormaliseConfig().setup(), aligner))
    assert len(some) == 3
    assert len(errors) > 60
    assert np.median(errors) <= 20


def test_a_token_of_several_words_spans_them_and_a_mute_one_has_no_time(aligner, utterances):
    clip = utterances[0].clip
    words = [word for token in utterances[0].tokens for word in token.spoken]
    (whole,) = aligner.process([replace(utterances[0], tokens=tuple(Token(word, (word,)) for word in words))])
    tokens = (Token("first two", tuple(words[:2])), Token("-", ()), *(Token(word, (word,)) for word in words[2:]))
    (merged,) = aligner.process([Spoken(clip=clip, tokens=tokens)])
    first, second = whole.words[:2]
    assert merged.words[0][1:3] == (first.start, second.end)
    frames = (first.end - first.start), (second.end - second.start)
    mean = (first.score * frames[0] + second.score * frames[1]) / sum(frames)
    assert merged.words[0].score == pytest.approx(mean)
    assert merged.words[1] == ("-", None, None, None)
    assert merged.words[2:] == whole.words[2:]


def test_speech_that_the_text_lacks_is_found_in_the_silence(aligner, items):
    spoken_all = NormaliseConfig().setup().process([items[0].clip])[0]
    early = replace(spoken_all, tokens=spoken_all.tokens[:6])
    whole, cut = aligner.process([spoken_all, early])
    assert whole.score_silence is None or whole.score_silence > -4
    assert cut.score_silence < -7


def test_silence_counts_in_the_score_of_the_clip_only(aligner, utterances):
    (outcome,) = aligner.process(utterances[:1])
    scores, lengths = zip(*[(word.score, word.end - word.start) for word in outcome.words], strict=True)
    assert outcome.score_words == pytest.approx(np.average(scores, weights=lengths))
    assert outcome.score_all != outcome.score_words


rng = np.random.default_rng(0)
ODD_AUDIO = {
    "one sample": np.zeros(1),
    "a frame": np.full(160, 7),
    "ten milliseconds of noise": rng.normal(0, 3000, 410),
    "silence": np.zeros(32_000),
    "noise": rng.normal(0, 3000, 32_000).clip(-32768, 32767),
    "full scale": np.full(32_000, 32767),
    "clipped square": np.tile([32767, -32768], 16_000),
}
ODD_WORDS = [
    ["hello"],
    ["a"],
    ["the", "quick", "brown", "fox"],
    ["z" * 90],
    ["z" * 5000],
    ["<s>"],
    ["<sil>"],
    ["hello(2)"],
    ["'"],
    ["two words"],
    ["caf\u00e9"],
    [""],
    ["'tis", "o'neill's", "'s"],
]


@pytest.mark.parametrize("name", ODD_AUDIO)
def test_odd_input_ends_as_an_outcome(roomy, name):
    for words, outcome in zip(ODD_WORDS, roomy.process([spoken(ODD_AUDIO[name], w) for w in ODD_WORDS]), strict=True):
        if isinstance(outcome, Reject):
            assert outcome.reason == Reason.NO_ALIGNMENT
            assert outcome.detail.startswith("a.wav: ")
        else:
            assert [word.text for word in outcome.words] == words
            json.dumps([outcome.score_all, outcome.score_silence, *outcome.words], allow_nan=False)


def test_nothing_to_say_and_nothing_to_hear_are_rejected(aligner):
    mute = Spoken(clip=spoken(np.zeros(16_000), []).clip, tokens=(Token("-", ()),))
    assert aligner.process([mute])[0].detail == "a.wav: no spoken words"
    (empty,) = PocketsphinxConfig(max_words_per_second=1e9).setup().process([spoken(np.zeros(0), ["a"])])
    assert empty.reason == Reason.TOO_MANY_WORDS


def test_too_many_words_are_rejected_with_the_figures(aligner):
    (outcome,) = aligner.process([spoken(np.zeros(16_000), ["go"] * 13)])
    detail = "a.wav: 13 words in 1.00 s, more than 12 per second"
    assert outcome == Reject(key="u1", id="u1", stage="align", reason=Reason.TOO_MANY_WORDS, detail=detail)
    assert isinstance(aligner.process([spoken(np.zeros(16_000), ["go"] * 12)])[0], Aligned)


def test_the_full_search_is_tried_only_on_short_clips(utterances):
    pcm = np.concatenate([utterances[3].clip.pcm] * 2)
    wrong = spoken(pcm, ["every", "large", "wooden", "boat", "sinks", "quickly", "without", "any", "visible", "reason"])
    (full,) = PocketsphinxConfig().setup().process([wrong])
    (narrow,) = PocketsphinxConfig(full_search_seconds=0.5).setup().process([wrong])
    assert isinstance(full, Aligned)
    assert full.fallback
    assert isinstance(narrow, Reject)
    assert narrow.reason == Reason.NO_ALIGNMENT


def test_pronunciations_of_words_that_the_dictionary_lacks():
    dictionary = {"cat": "K AE T", "fox": "F AA K S", "dog": "D AO G", "o": "OW"}
    reads = [
        pronounce(word, dictionary.get, lambda w: w.upper()) for word in ("cat's", "fox's", "dog's", "'cat'", "c'at")
    ]
    assert reads == ["K AE T S", "F AA K S IH Z", "D AO G Z", "K AE T", "K AE T"]
    assert pronounce("yet", dictionary.get, lambda w: w.upper()) == "Y E T"
    assert not WordSearch().knows("'")


def test_the_config_travels_and_states_what_made_the_times():
    config = PocketsphinxConfig(full_search_seconds=30)
    assert pickle.loads(pickle.dumps(config)) == config
    json.dumps(asdict(config))
    meta = config.metadata()
    assert (meta["name"], meta["version"]) == ("pocketsphinx", 1)
    assert all(len(meta[name]) == 64 for name in ("dictionary_sha256", "g2p_sha256"))


@pytest.mark.parametrize("bad", [{"full_search_seconds": -1.0}, {"max_words_per_second": 0.0}])
def test_impossible_limits_are_refused(bad):
    with pytest.raises(ValueError, match="got"):
        PocketsphinxConfig(**bad)


@pytest.mark.slow
def test_nine_in_ten_word_starts_of_the_whole_corpus_are_within_50_ms(aligner, items):
    errors = np.array(bench.start_errors(items, bench.align(items, NormaliseConfig().setup(), aligner)))
    assert np.mean(errors <= 50) >= 0.9
