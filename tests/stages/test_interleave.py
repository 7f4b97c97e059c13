import math
from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.reader.draw import utterance_starts
from schemas.canonical import rng_for
from schemas.clock import Samples
from schemas.records import Word
from schemas.sequence import (
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
from stages.documents import Document, document_from
from stages.interleave import Modality, Span, interleaved_string, realise, render, speech_cuts
from stages.policies import draw_spans
from stages.serialise import parse_speech_tokens, speech_tokens
from tests.sequence_builders import contracts, document, documents, record, recording

TEXT, SPEECH = Modality.TEXT, Modality.SPEECH
BASE = SequenceSection(stream="base")
EXPRESSIVE = SequenceSection(stream="expressive")
SHORT = SpiritLmPolicy(text_words=(2, 4), speech_words=(1, 3))

alternating = st.builds(
    SpiritLmPolicy,
    text_words=st.sampled_from([(10, 30), (2, 4), (1, 1)]),
    speech_words=st.sampled_from([(5, 15), (1, 3), (3, 3)]),
)
partitions = st.one_of(
    alternating,
    st.builds(PoissonPolicy, mean_words=st.sampled_from([1.0, 5.0])),
    st.just(BernoulliPolicy()),
    st.just(SpeechOnlyPolicy()),
    st.just(TextOnlyPolicy()),
)
pairs = st.sampled_from([WordTranscriptionPolicy(), WordTranscriptionPolicy(first="text"), AsrPolicy(), TtsPolicy()])
sections = st.builds(
    SequenceSection,
    policy=st.one_of(partitions, pairs),
    stream=st.sampled_from(["base", "expressive"]),
    gap=st.sampled_from(["midpoint", "left", "right"]),
    silence=st.sampled_from(["keep", "cap", "drop"]),
    max_silence=st.sampled_from([0.01, 0.05, 0.5]),
)


def drawn(doc: Document, policy: Policy, seed: int) -> tuple[Span, ...]:
    return draw_spans(len(doc.words), doc.closed_boundaries(), policy, rng_for(seed), utterance_starts(doc))


def in_removed_gap(doc: Document, sample: int, sequence: SequenceSection) -> bool:
    """The rule of `SequenceSection.silence`, asked of one sample and the words on its two sides."""
    before = [word for word in doc.words if word.start is not None and word.start <= sample]
    after = [word for word in doc.words if word.start is not None and word.start > sample]
    places = {id(word): place for place, word in enumerate(doc.words)}
    left, right = (before[-1] if before else None), (after[0] if after else None)
    if sequence.silence == "keep" or (left is None and right is None) or (left and sample < left.end):
        return False
    if places[id(right)] if left is None else places[id(left)] + 1 != (places[id(right)] if right else len(places)):
        return False
    if sequence.silence == "drop":
        return True
    longest = int(sequence.max_silence * 16_000 + 0.5)
    if left is None:
        return sample < right.start - longest
    if right is None:
        return sample >= left.end + longest
    within = sample - left.end
    return longest // 2 <= within < right.start - left.end - (longest - longest // 2)


def kept_units(doc: Document, slot: str, sequence: SequenceSection) -> list[tuple[int, int]]:
    """Each frame's sample on the document's timeline, and its unit, outside the removed gaps."""
    frames = []
    for segment in doc.segments:
        for i, unit in enumerate(segment.streams[slot].tolist()):
            sample = segment.start + min(doc.grids[slot].position(i), segment.num_samples - 1)
            if not in_removed_gap(doc, sample, sequence):
                frames.append((sample, unit))
    return frames


def times_of(doc: Document, span: Span, gap: str) -> tuple[float, float]:
    def cut(boundary: int) -> float:
        if boundary in (0, len(doc.words)):
            return -math.inf if boundary == 0 else math.inf
        return speech_cuts(doc, [boundary], gap)[0]

    return cut(span.start_word), cut(span.end_word)


@pytest.mark.parametrize(("gap", "cut"), [("midpoint", 1500), ("left", 2000), ("right", 1000)])
def test_the_silence_at_a_switch_goes_where_the_option_says(gap: str, cut: int) -> None:
    words = [Word("a", Samples(0), Samples(1000), -1.0), Word("b", Samples(2000), Samples(3000), -1.0)]
    doc = document_from([record("u", words)], contracts())
    assert speech_cuts(doc, [1], gap) == [cut]


def test_a_switch_next_to_a_word_without_time_is_refused() -> None:
    words = [Word("a", Samples(0), Samples(1000), -1.0), Word("b", None, None, None)]
    doc = document_from([record("u", words)], contracts())
    with pytest.raises(ValueError, match="no time at the switch before word 1"):
        speech_cuts(doc, [1], "midpoint")


@given(doc=documents(), sequence=sections, seed=st.integers(0, 99))
def test_each_speech_span_holds_the_frames_between_its_cuts_outside_removed_silence(
    doc: Document, sequence: SequenceSection, seed: int
) -> None:
    spans = drawn(doc, sequence.policy, seed)
    frames = kept_units(doc, "hubert", sequence)
    want = []
    for span in spans:
        if span.modality is SPEECH:
            begin, end = times_of(doc, span, sequence.gap)
            want.append([unit for unit, _ in groupby(u for sample, u in frames if begin <= sample < end)])
    pieces = render(doc, spans, sequence)
    spoken = [parse_speech_tokens(p.tokens)["hubert"].tolist() for p in pieces if p.modality is SPEECH]
    assert spoken == [units for units in want if units]


@given(doc=documents(), policy=partitions, sequence=sections, seed=st.integers(0, 99))
def test_no_frame_is_lost_or_used_twice_when_every_span_is_speech(
    doc: Document, policy: Policy, sequence: SequenceSection, seed: int
) -> None:
    spans = [span._replace(modality=SPEECH) for span in drawn(doc, policy, seed)]
    # Units that differ from frame to frame pass deduplication untouched.
    segments = tuple(
        replace(segment, streams={slot: 1000 * k + np.arange(len(ids)) for slot, ids in segment.streams.items()})
        for k, segment in enumerate(doc.segments)
    )
    doc = replace(doc, segments=segments)
    pieces = render(doc, spans, sequence)
    used = Counter(unit for p in pieces for unit in parse_speech_tokens(p.tokens)["hubert"].tolist())
    assert used == Counter(unit for _, unit in kept_units(doc, "hubert", sequence))


@given(doc=documents(), policy=pairs, seed=st.integers(0, 99))
def test_pairs_show_every_frame_and_every_word_once(doc: Document, policy: Policy, seed: int) -> None:
    spans = drawn(doc, policy, seed)
    pieces = render(doc, spans, BASE.model_copy(update={"policy": policy}))
    assert len(pieces) % 2 == 0
    tasks = [p.task for p in pieces]
    assert set(tasks[::2]) <= {spans[0].task}
    assert set(tasks[1::2]) <= {""}
    if len(pieces) == len(spans):
        assert " ".join(p.text for p in pieces if p.text) == doc.text(0, len(doc.words))


@given(doc=documents(), sequence=sections, seed=st.integers(0, 99))
@example(doc=document((30, 30)), sequence=SequenceSection(policy=SHORT), seed=0)
def test_pieces_alternate_hold_every_text_word_and_are_never_empty(
    doc: Document, sequence: SequenceSection, seed: int
) -> None:
    spans = drawn(doc, sequence.policy, seed)
    pieces = render(doc, spans, sequence)
    assert [span.modality for span, _ in realise(doc, spans, sequence)] == [piece.modality for piece in pieces]
    assert all(p.text or p.tokens for p in pieces)
    assert all(a.modality is not b.modality for a, b in pairwise(pieces))
    if len(pieces) == len(spans):
        assert [p.text for p in pieces] == [
            doc.text(s.start_word, s.end_word) if s.modality is TEXT else "" for s in spans
        ]


@given(doc=documents(), sequence=sections, seed=st.integers(0, 99))
def test_an_expressive_span_opens_with_style_pitch_and_hubert(
    doc: Document, sequence: SequenceSection, seed: int
) -> None:
    sequence = sequence.model_copy(update={"stream": "expressive"})
    for piece in render(doc, drawn(doc, sequence.policy, seed), sequence):
        if piece.modality is SPEECH:
            assert [token[1:3] for token in piece.tokens[:3]] == ["St", "Pi", "Hu"]


@given(num_words=st.integers(1, 60), policy=alternating, seed=st.integers(0, 99))
def test_every_style_and_pitch_frame_is_used_with_at_most_one_restated(
    num_words: int, policy: SpiritLmPolicy, seed: int
) -> None:
    doc = document((num_words,), seed=seed)
    spans = [span._replace(modality=SPEECH) for span in drawn(doc, policy, seed)]
    cuts = speech_cuts(doc, [span.end_word for span in spans[:-1]], "midpoint")
    spoken = [i for i, parts in enumerate(doc.divide("hubert", cuts)) if parts]
    tokens = [parse_speech_tokens(p.tokens) for p in render(doc, spans, EXPRESSIVE) if p.modality is SPEECH]
    for slot in ("style", "pitch"):
        own = [[doc.segments[0].streams[slot][f] for p in parts for f in p.frames] for parts in doc.divide(slot, cuts)]
        for i, streams in zip(spoken, tokens, strict=True):
            got = streams[slot].tolist()
            want = own[i] if slot == "style" else [unit for unit, _ in groupby(own[i])]
            assert got == want or got[1:] == want


@given(doc=documents(), sequence=sections, seed=st.integers(0, 99))
def test_base_and_expressive_hold_the_same_hubert_tokens(doc: Document, sequence: SequenceSection, seed: int) -> None:
    spans = drawn(doc, sequence.policy, seed)
    base, expressive = (
        render(doc, spans, sequence.model_copy(update={"stream": stream})) for stream in ("base", "expressive")
    )
    assert [p.tokens for p in base] == [tuple(t for t in p.tokens if t.startswith("[Hu")) for p in expressive]


@given(num_words=st.integers(1, 60), seed=st.integers(0, 99))
def test_an_utterance_wholly_spoken_is_the_released_form(num_words: int, seed: int) -> None:
    one = recording("r", [num_words], seed=seed)[0]
    doc = document_from([one], contracts())
    (piece,) = render(doc, [Span(SPEECH, 0, num_words)], EXPRESSIVE)
    assert list(piece.tokens) == speech_tokens(one.streams["hubert"], one.streams["pitch"], one.streams["style"])


def test_a_span_in_mid_utterance_restates_what_is_in_force() -> None:
    second = 16_000
    words = [Word(t, Samples(i * second), Samples((i + 1) * second), -1.0) for i, t in enumerate("abcd")]
    words[1] = words[1]._replace(end=Samples(second + 12_160))
    words[2] = words[2]._replace(start=Samples(second + 12_160))
    streams = {
        "hubert": [i // 5 for i in range(100)],
        "pitch": [i // 4 for i in range(50)],
        "style": [4, 5, 6, 7],
    }
    doc = document_from([record("u", words, num_samples=4 * second, streams=streams)], contracts())
    piece = render(doc, [Span(TEXT, 0, 2), Span(SPEECH, 2, 3), Span(TEXT, 3, 4)], EXPRESSIVE)[1]
    # From 1.76 s to 3 s: HuBERT frames 44 to 74, pitch frames 22 to 37, style frame 2; style frame 1 is in force.
    assert piece.tokens[:5] == ("[St5]", "[Pi5]", "[Hu8]", "[Hu9]", "[Pi6]")
    assert [t for t in piece.tokens if t.startswith("[St")] == ["[St5]", "[St6]"]
    # Pitch frame 36 begins with HuBERT frame 72, after frame 70 has opened the last run.
    assert piece.tokens[-2:] == ("[Hu14]", "[Pi9]")


def test_a_span_across_utterances_takes_the_frames_of_both() -> None:
    a = record("a", [Word("x", Samples(0), Samples(1000), -1.0)], num_samples=1000, index=0,
               streams={"hubert": [1, 2], "pitch": [3], "style": [4]})  # fmt: skip
    b = record("b", [Word("y", Samples(0), Samples(1000), -1.0)], num_samples=1000, index=1,
               streams={"hubert": [2, 5], "pitch": [3], "style": [4]})  # fmt: skip
    doc = document_from([a, b], contracts())
    assert render(doc, [Span(SPEECH, 0, 2)], BASE)[0].tokens == ("[Hu1]", "[Hu2]", "[Hu5]")
    assert render(doc, [Span(SPEECH, 0, 2)], EXPRESSIVE)[0].tokens == (
        "[St4]", "[Pi3]", "[Hu1]", "[Hu2]", "[St4]", "[Hu5]",
    )  # fmt: skip


def test_speech_shorter_than_a_frame_becomes_text() -> None:
    words = [
        Word("a", Samples(0), Samples(400), -1.0),
        Word("b", Samples(400), Samples(500), -1.0),
        Word("c", Samples(500), Samples(2000), -1.0),
    ]
    doc = document_from([record("u", words)], contracts())
    spans = [Span(TEXT, 0, 1), Span(SPEECH, 1, 2), Span(TEXT, 2, 3)]
    assert interleaved_string(doc, spans, EXPRESSIVE) == "[Text]a b c"


def test_the_interleaved_string() -> None:
    words = [Word(t, Samples(i * 1280), Samples((i + 1) * 1280), -1.0) for i, t in enumerate(["the", "cat", "sat"])]
    streams = {"hubert": [9, 9, 9, 9, 99, 49], "pitch": [1, 1, 39], "style": [71 % 8]}
    doc = document_from([record("u", words, num_samples=3840, streams=streams)], contracts())
    spans = [Span(TEXT, 0, 2), Span(SPEECH, 2, 3)]
    assert interleaved_string(doc, spans, EXPRESSIVE) == "[Text]the cat[Speech][St7][Pi39][Hu99][Hu49]"
    assert interleaved_string(doc, spans, BASE) == "[Text]the cat[Speech][Hu99][Hu49]"
