import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import alignment as bench
from schemas.clock import Samples
from schemas.records import Aligned, Checked, Clip, Utterance, Word
from schemas.rejects import Reason, Reject
from stages.align_pocketsphinx import PocketsphinxConfig
from stages.normalise import NormaliseConfig
from stages.qc import QcConfig
from tests.real_speech import SPEECH, needs_speech

UTTERANCE = Utterance(key="u1", id="u/1", audio="a.wav", location="/a.wav", text="", recording="r", index=0)
CLIP = Clip(utterance=UTTERANCE, pcm=np.zeros(16_000, np.int16), source_rate=16_000, source_channels=1)


def aligned(*scores, score_all=-5.0, score_silence=None, texts=()):
    """Words with these scores; None stands for a word without a time."""
    texts = texts or [f"w{i}" for i in range(len(scores))]
    words = tuple(
        Word(text, *((None, None) if score is None else (Samples(160 * i), Samples(160 * i + 160))), score)
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    )
    return Aligned(
        clip=CLIP, words=words, score_all=score_all, score_words=-5.0, fallback=False, score_silence=score_silence
    )


def check(item, **config):
    (outcome,) = QcConfig(**config).setup().process([item])
    return outcome


def test_words_with_low_scores_or_no_time_are_doubtful():
    outcome = check(aligned(-3.0, -9.0, -9.01, None, -math.inf, -3.0, -4.0))
    assert isinstance(outcome, Checked)
    assert outcome.doubtful == (2, 3, 4)


def test_punctuation_is_doubtful_but_does_not_count():
    words = aligned(-3.0, None, None, None, -3.0, texts=["a", "-", "...", "!", "b"])
    outcome = check(words, max_doubtful_share=0.0)
    assert isinstance(outcome, Checked)
    assert outcome.doubtful == (1, 2, 3)


def test_a_spoken_symbol_counts():
    assert check(aligned(-20.0, -3.0, texts=["&", "b"]), max_doubtful_share=0.4).reason == Reason.DOUBTFUL_WORDS


def test_a_large_share_of_doubtful_words_is_rejected_with_the_figures():
    assert isinstance(check(aligned(-10.0, -10.0, -3.0, -3.0), max_doubtful_share=0.5), Checked)
    detail = "a.wav: 3 of 4 words are doubtful, most is 50%"
    want = Reject(key="u1", id="u/1", stage="qc", reason=Reason.DOUBTFUL_WORDS, detail=detail)
    assert check(aligned(-10.0, -10.0, None, -3.0), max_doubtful_share=0.5) == want


@pytest.mark.parametrize("score", [-8.71, -99.0, -math.inf, math.nan])
def test_a_low_score_means_a_wrong_transcript(score):
    assert check(aligned(-3.0, score_all=score)).reason == Reason.WRONG_TRANSCRIPT
    assert isinstance(check(aligned(-3.0, score_all=-8.7)), Checked)


def test_speech_in_the_silence_means_a_wrong_transcript():
    detail = "a.wav: silence scores -6.00 per frame, least is -5.5"
    want = Reject(key="u1", id="u/1", stage="qc", reason=Reason.WRONG_TRANSCRIPT, detail=detail)
    assert check(aligned(-3.0, score_silence=-6.0)) == want
    assert isinstance(check(aligned(-3.0, score_silence=-5.5)), Checked)
    assert isinstance(check(aligned(-3.0, score_silence=None)), Checked)


@given(
    st.lists(st.none() | st.floats(-99, 0), min_size=1, max_size=12),
    st.floats(-20, 0),
    st.floats(-20, 0),
    st.floats(0, 1),
)
def test_stricter_thresholds_only_add_rejects_and_doubts(scores, low, high, share):
    low, high = sorted((low, high))
    loose = check(aligned(*scores), doubtful_score=low, max_doubtful_share=share)
    strict = check(aligned(*scores), doubtful_score=high, max_doubtful_share=share)
    if isinstance(strict, Checked):
        assert isinstance(loose, Checked)
        assert set(loose.doubtful) <= set(strict.doubtful)


def test_a_share_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"1\.5"):
        QcConfig(max_doubtful_share=1.5)


@pytest.fixture(scope="module")
def outcome_of():
    normaliser, aligner, qc = NormaliseConfig().setup(), PocketsphinxConfig().setup(), QcConfig().setup()

    def outcome(clip, text):
        (spoken,) = normaliser.process([bench.with_text(clip, text)])
        (result,) = aligner.process([spoken])
        return result if isinstance(result, Reject) else qc.process([result])[0]

    return outcome


def planted(clips, outcome_of):
    """Outcomes with the right texts, with each clip's text given to the next clip, and with the first half only."""
    texts = [clip.utterance.text for clip in clips]
    halves = [text[: len(text) // 2] for text in texts]
    return [
        [outcome_of(clip, text) for clip, text in zip(clips, given, strict=True)]
        for given in (texts, texts[1:] + texts[:1], halves)
    ]


def test_wrong_transcripts_of_the_corpus_are_rejected_and_right_ones_kept(outcome_of):
    clips = [item.clip for item in bench.corpus_items()[::15]]
    right, wrong, half = planted(clips, outcome_of)
    assert all(isinstance(outcome, Checked) for outcome in right)
    assert all(isinstance(outcome, Reject) for outcome in (*wrong, *half))


@needs_speech("sb_spk2_snt5.wav", "librivox_0870.wav")
def test_wrong_transcripts_of_real_speech_are_rejected_and_right_ones_kept(outcome_of):
    clips = {item.clip.utterance.id: item.clip for item in bench.speech_items(SPEECH)}
    whole = [clip for name, clip in clips.items() if name.startswith(("libritts", "librivox_08"))]
    right, wrong, half = planted(whole, outcome_of)
    assert all(isinstance(outcome, Checked) for outcome in right)
    assert all(isinstance(outcome, Reject) for outcome in wrong)
    assert sum(isinstance(outcome, Reject) for outcome in half) >= 0.8 * len(half)
    published = clips["sb_spk2_snt5.wav"]
    assert outcome_of(published, published.utterance.text).reason == Reason.WRONG_TRANSCRIPT


@pytest.mark.slow
def test_every_right_transcript_of_the_corpus_is_kept(outcome_of):
    outcomes = [outcome_of(item.clip, item.clip.utterance.text) for item in bench.corpus_items()]
    assert [outcome for outcome in outcomes if isinstance(outcome, Reject)] == []
