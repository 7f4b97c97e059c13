"""Removed silence, tasks and doubled words, by hand."""

import pytest

from pipeline.reader.draw import draw_document, utterance_starts
from schemas.clock import Samples
from schemas.records import Word
from schemas.sequence import AsrPolicy, Policy, SequenceSection, TtsPolicy, WordTranscriptionPolicy
from stages.documents import Document, document_from
from stages.interleave import Modality, Span, interleaved_string, removed_silence, render
from tests.sequence_builders import contracts, document, record

TEXT, SPEECH = Modality.TEXT, Modality.SPEECH
BASE = SequenceSection(stream="base")


def three_words(*times: tuple[int | None, int | None], num_samples: int = 20_000, **streams: list[int]) -> Document:
    words = [
        Word(text, None if start is None else Samples(start), None if end is None else Samples(end), -1.0)
        for text, (start, end) in zip(("the", "cat", "sat"), times, strict=True)
    ]
    units = {"hubert": [], "pitch": [], "style": []} | streams
    return document_from([record("u", words, num_samples=num_samples, streams=units if streams else None)], contracts())


def silence(how: str, seconds: float = 0.5) -> SequenceSection:
    return SequenceSection(silence=how, max_silence=seconds)


def test_dropped_and_capped_silence() -> None:
    doc = three_words((1000, 3000), (3000, 5000), (9001, 12_000))
    assert removed_silence(doc, silence("keep")) == []
    assert removed_silence(doc, silence("drop")) == [(0, 1000), (5000, 9001), (12_000, 20_000)]
    # 101 samples may stay: 50 after the word, 51 before the next; the whole of it at the ends.
    assert removed_silence(doc, silence("cap", 101 / 16_000)) == [(0, 899), (5050, 8950), (12_101, 20_000)]
    # 0.25 s: the gap of 4001 samples is one too long, the 1000 before the first word are not too many.
    assert removed_silence(doc, silence("cap", 0.25)) == [(7000, 7001), (16_000, 20_000)]


def test_silence_next_to_a_word_without_a_time_is_kept() -> None:
    doc = three_words((1000, 3000), (None, None), (9000, 12_000))
    assert removed_silence(doc, silence("drop")) == [(0, 1000), (12_000, 20_000)]
    doc = three_words((None, None), (4000, 5000), (None, None))
    assert removed_silence(doc, silence("drop")) == []


def test_silence_runs_on_across_utterances() -> None:
    a = record("a", [Word("x", Samples(500), Samples(1000), -1.0)], num_samples=3000, index=0)
    b = record("b", [Word("y", Samples(700), Samples(1000), -1.0)], num_samples=2000, index=1)
    doc = document_from([a, b], contracts())
    assert removed_silence(doc, silence("drop")) == [(0, 500), (1000, 3700), (4000, 5000)]


def test_units_on_both_sides_of_removed_silence_are_deduplicated_as_neighbours() -> None:
    # Frames stand for samples 320, 960, 1600, 2240, 2880; 1600 and 2240 lie in the gap.
    doc = three_words((0, 700), (700, 1500), (2300, 3200), num_samples=3200,
                      hubert=[4, 7, 8, 9, 7], pitch=[1, 2, 3], style=[5])  # fmt: skip
    spans = [Span(SPEECH, 0, 3)]
    assert interleaved_string(doc, spans, BASE) == "[Speech][Hu4][Hu7][Hu8][Hu9][Hu7]"
    dropped = BASE.model_copy(update={"silence": "drop"})
    assert interleaved_string(doc, spans, dropped) == "[Speech][Hu4][Hu7]"
    # The pitch frame at 1920 goes, the one at 3200 is moved to the last sample and kept.
    assert interleaved_string(doc, spans, dropped.model_copy(update={"stream": "expressive"})) == (
        "[Speech][St5][Pi1][Hu4][Hu7][Pi3]"
    )


def test_removed_silence_is_half_open() -> None:
    # Frames stand for samples 320, 960, 1600, 2240, 2880; the silence is [960, 2240).
    doc = three_words((0, 700), (700, 960), (2240, 3200), num_samples=3200,
                      hubert=[1, 2, 3, 4, 5], pitch=[1, 2, 3], style=[5])  # fmt: skip
    dropped = BASE.model_copy(update={"silence": "drop"})
    assert interleaved_string(doc, [Span(SPEECH, 0, 3)], dropped) == "[Speech][Hu1][Hu4][Hu5]"


def test_a_removed_style_frame_that_is_still_in_force_is_restated() -> None:
    # The style frame stands for sample 8000, which is silence; the second word is its business none the less.
    doc = three_words((0, 640), (640, 1280), (12_800, 14_080), num_samples=16_000,
                      hubert=list(range(25)), pitch=list(range(13)), style=[6])  # fmt: skip
    tokens = render(doc, [Span(TEXT, 0, 2), Span(SPEECH, 2, 3)], silence("drop"))[1].tokens
    assert tokens == ("[St6]", "[Pi10]", "[Hu20]", "[Hu21]")


def test_tasks_and_doubled_words_in_the_string_form() -> None:
    doc = three_words((0, 1280), (1280, 2560), (2560, 3840), num_samples=3840, hubert=[1, 1, 2, 3, 4, 4],
                      pitch=[1, 1, 3], style=[2])  # fmt: skip
    asr = [Span(SPEECH, 0, 2, "asr"), Span(TEXT, 0, 2), Span(SPEECH, 2, 3, "asr"), Span(TEXT, 2, 3)]
    assert interleaved_string(doc, asr, BASE) == (
        "[ASR][Speech][Hu1][Hu2][Hu3][Text]the cat[ASR][Speech][Hu4][Text]sat"
    )
    tts = [Span(TEXT, 0, 3, "tts"), Span(SPEECH, 0, 3)]
    assert interleaved_string(doc, tts, BASE) == "[TTS][Text]the cat sat[Speech][Hu1][Hu2][Hu3][Hu4]"
    words = draw_document(doc, SequenceSection(policy=WordTranscriptionPolicy()), seed=0, epoch=0)
    assert interleaved_string(doc, words, BASE) == (
        "[Speech][Hu1][Text]the[Speech][Hu2][Hu3][Text]cat[Speech][Hu4][Text]sat"
    )


@pytest.mark.parametrize("policy", [WordTranscriptionPolicy(), WordTranscriptionPolicy(first="text")])
def test_a_pair_whose_speech_is_shorter_than_a_frame_is_left_out(policy: Policy) -> None:
    doc = three_words((0, 400), (400, 500), (500, 2000), num_samples=2000)
    pieces = render(doc, draw_document(doc, SequenceSection(policy=policy), seed=0, epoch=0), BASE)
    assert [p.text for p in pieces if p.modality is TEXT] == ["the", "sat"]
    assert len(pieces) == 4
    assert render(doc, [Span(TEXT, 1, 2, "tts"), Span(SPEECH, 1, 2)], BASE) == []


def test_speech_alone_without_a_frame_is_text() -> None:
    doc = three_words((0, 100), (100, 200), (200, 300), num_samples=300, hubert=[1], pitch=[1], style=[1])
    assert interleaved_string(doc, [Span(SPEECH, 0, 3)], BASE) == "[Speech][Hu1]"
    doc = three_words((0, 100), (100, 200), (200, 290), num_samples=300, hubert=[1], pitch=[1], style=[1])
    dropped = BASE.model_copy(update={"silence": "drop"})
    assert interleaved_string(doc, [Span(SPEECH, 0, 3)], dropped) == "[Text]the cat sat"


def test_an_utterance_begins_where_the_segment_of_a_word_changes() -> None:
    assert utterance_starts(document((3, 1, 4))) == (3, 4)
    assert utterance_starts(document((5,))) == ()
    assert utterance_starts(document((3, 3), untimed=1.0)) == ()
    for policy in (AsrPolicy(), TtsPolicy()):
        spans = draw_document(document((3, 1, 4)), SequenceSection(policy=policy), seed=0, epoch=0)
        assert [span.end_word for span in spans[::2]] == [3, 4, 8]
