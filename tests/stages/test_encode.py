"""The fast encoder against the reference: rendering into strings, then looking each up."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.draw import draw_document
from schemas.clock import Samples, frames_covering
from schemas.contract import UnitContract
from schemas.records import Word
from schemas.sequence import (
    AsrPolicy,
    BernoulliPolicy,
    PoissonPolicy,
    SequenceSection,
    SpeechOnlyPolicy,
    SpiritLmPolicy,
    TextOnlyPolicy,
    TtsPolicy,
    VocabularySection,
    WordTranscriptionPolicy,
)
from schemas.unit_record import UnitRecord
from stages.documents import Document, document_from
from stages.encode import Encoder, encode_document
from stages.interleave import Modality, Span, render
from stages.tokenizer import SentencePieceTokenizer, fit_sentencepiece
from stages.vocabulary import TokenSequence, Vocabulary
from stages.word_ids import WordIds
from tests.sequence_builders import (
    SIZES,
    VOCABULARY,
    ByteTokenizer,
    contracts,
    document,
    in_runs,
    record,
    sentencepiece_model,
)

POLICIES = (
    SpiritLmPolicy(text_words=(1, 4), speech_words=(1, 4)),
    SpiritLmPolicy(text_words=(2, 3), speech_words=(1, 2), remainder="merge"),
    PoissonPolicy(mean_words=2.0, speech_share=0.5),
    BernoulliPolicy(),
    WordTranscriptionPolicy(),
    WordTranscriptionPolicy(first="text"),
    AsrPolicy(),
    TtsPolicy(),
    SpeechOnlyPolicy(),
    TextOnlyPolicy(),
)


def sequences() -> st.SearchStrategy[SequenceSection]:
    return st.builds(
        SequenceSection,
        policy=st.sampled_from(POLICIES),
        stream=st.sampled_from(["base", "expressive"]),
        gap=st.sampled_from(["midpoint", "left", "right"]),
        silence=st.sampled_from(["keep", "keep", "cap", "drop"]),
        max_silence=st.sampled_from([0.001, 0.05, 0.2, 1.0]),
    )


def odd_contracts(hops: Sequence[int], offsets: Sequence[int]) -> dict[str, UnitContract]:
    """Contracts whose grids have nothing to do with each other."""
    return {
        slot: replace(value, hop=hop, offset=offset, frame_rate=f"{16_000}/{hop}")
        for (slot, value), hop, offset in zip(contracts().items(), hops, offsets, strict=True)
    }


@st.composite
def utterances(draw: st.DrawFn, key: str, index: int, of: dict[str, UnitContract]) -> UnitRecord:
    """Words of any length, many shorter than a frame, and streams a frame or two longer or shorter than the clip."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    position, words = int(rng.integers(0, 3000)), []
    untimed = draw(st.sampled_from([0.0, 0.0, 0.3]))
    longest = draw(st.sampled_from([50, 900, 9000]))
    for _ in range(draw(st.integers(1, 12))):
        end = position + int(rng.integers(0, longest))
        timed = rng.random() >= untimed
        text = str(rng.choice(VOCABULARY))
        words.append(Word(text, Samples(position), Samples(end), -5.0) if timed else Word(text, None, None, None))
        position = end + int(rng.choice([0, 0, 100, 2000, 20_000]))
    length = max(1, position + int(rng.integers(-100, 900)))
    streams = {}
    for slot, value in of.items():
        count = frames_covering(length, value.hop) + int(rng.choice([0, 0, 0, -1, 1, 2]))
        streams[slot] = in_runs(max(0, count), SIZES[slot], rng)
    doubtful = [i for i in range(len(words)) if rng.random() < 0.1]
    return record(key, words, num_samples=length, streams=streams, doubtful=doubtful, index=index)


@st.composite
def any_documents(draw: st.DrawFn) -> Document:
    if draw(st.booleans()):
        own = contracts()
    else:
        hops = [draw(st.integers(100, 3000)) for _ in SIZES]
        own = odd_contracts(hops, [draw(st.integers(0, 2 * hop)) for hop in hops])
    count = draw(st.integers(1, 4))
    return document_from([draw(utterances(f"u{i}", i, own)) for i in range(count)], own)


BYTES = Vocabulary.from_contracts(ByteTokenizer(), contracts())
MODEL = fit_sentencepiece([" ".join(VOCABULARY[i:] + VOCABULARY[:i]) for i in range(len(VOCABULARY))], 300)
PIECES = Vocabulary.from_contracts(SentencePieceTokenizer(MODEL), contracts())
APPENDED = Vocabulary.from_contracts(
    SentencePieceTokenizer(sentencepiece_model()), contracts(), VocabularySection(layout="append", first_id=1000)
)


def test_the_vocabularies_are_of_both_kinds() -> None:
    assert [v.tokenizer.word_by_word for v in (BYTES, PIECES, APPENDED)] == [False, True, False]


def assert_same(found: TokenSequence, wanted: TokenSequence) -> None:
    for name, own, reference in zip(TokenSequence._fields, found, wanted, strict=True):
        assert own.dtype == reference.dtype
        assert own.tolist() == reference.tolist(), name


@st.composite
def documents_of_one_dataset(draw: st.DrawFn) -> list[Document]:
    hops = draw(st.sampled_from([(640, 1280, 16_000), (320, 1000, 2999)]))
    own = odd_contracts(hops, [hop // 2 for hop in hops])
    counts = draw(st.lists(st.integers(1, 3), min_size=1, max_size=5))
    return [document_from([draw(utterances(f"d{n}u{i}", i, own)) for i in range(c)], own) for n, c in enumerate(counts)]


@given(docs=documents_of_one_dataset(), sequence=sequences(), seed=st.integers(0, 1000))
def test_documents_encoded_together_are_what_each_is_alone(
    docs: list[Document], sequence: SequenceSection, seed: int
) -> None:
    encoder = Encoder(sequence, PIECES)
    drawn = [(doc, draw_document(doc, sequence, seed=seed, epoch=0)) for doc in docs]
    for found, (doc, spans) in zip(encoder.encode_all(drawn), drawn, strict=True):
        assert_same(found, encoder.encode(doc, spans))


@given(doc=any_documents(), sequence=sequences(), seed=st.integers(0, 1000))
def test_the_fast_encoder_gives_what_the_reference_gives(doc: Document, sequence: SequenceSection, seed: int) -> None:
    spans = draw_document(doc, sequence, seed=seed, epoch=0)
    pieces = render(doc, spans, sequence)
    for vocabulary in (BYTES, PIECES, APPENDED):
        assert_same(encode_document(doc, spans, sequence, vocabulary), vocabulary.encode(pieces))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("stream", ["base", "expressive"])
@pytest.mark.parametrize("silence", ["keep", "cap", "drop"])
def test_one_encoder_for_many_documents(policy, stream, silence) -> None:
    sequence = SequenceSection(policy=policy, stream=stream, silence=silence, max_silence=0.05)
    encoder = Encoder(sequence, PIECES)
    for seed in range(5):
        for counts in ((7,), (30, 1, 20)):
            doc = document(counts, seed=seed, untimed=0.1)
            spans = draw_document(doc, sequence, seed=seed, epoch=1)
            assert_same(encoder.encode(doc, spans), PIECES.encode(render(doc, spans, sequence)))


@pytest.mark.parametrize(("slot", "stream"), [("hubert", "base"), ("hubert", "expressive"), ("style", "expressive")])
def test_a_unit_beyond_its_codebook_is_an_error_only_where_it_is_used(slot: str, stream: str) -> None:
    good = record(num_samples=64_000)
    streams = {**good.streams, slot: np.full(len(good.streams[slot]), SIZES[slot])}
    doc = document_from([record(num_samples=64_000, streams=streams)], contracts())
    sequence = SequenceSection(stream=stream)
    with pytest.raises(ValueError, match=rf"'u0' has the {slot} unit {SIZES[slot]}, its codebook ends at"):
        encode_document(doc, (Span(Modality.SPEECH, 0, 1),), sequence, PIECES)
    text = (Span(Modality.TEXT, 0, 1),)
    assert_same(encode_document(doc, text, sequence, PIECES), PIECES.encode(render(doc, text, sequence)))


def timed(*times: tuple[int | None, int | None]) -> Document:
    words = [Word("cat", None if a is None else Samples(a), None if b is None else Samples(b), -1.0) for a, b in times]
    return document_from([record(words=words, num_samples=40_000)], contracts())


def test_a_switch_without_a_time_and_times_that_descend_are_errors() -> None:
    spans = (Span(Modality.SPEECH, 0, 1), Span(Modality.TEXT, 1, 2), Span(Modality.SPEECH, 2, 3))
    with pytest.raises(ValueError, match="no time at the switch before word 1"):
        encode_document(timed((0, 9), (None, None), (20, 30)), spans, SequenceSection(), PIECES)
    with pytest.raises(ValueError, match="the times of its words descend"):
        encode_document(timed((0, 9000), (9000, 12_000), (0, 900)), spans, SequenceSection(), PIECES)


def test_the_ids_of_words_are_looked_up_once_and_the_table_is_bounded() -> None:
    class Counting(SentencePieceTokenizer):
        calls: list[str]

        def encode_word(self, word: str) -> list[int]:
            self.calls.append(word)
            return super().encode_word(word)

    tokenizer = Counting(MODEL)
    tokenizer.calls = []
    words = WordIds(tokenizer, max_words=2)
    whole = tokenizer.encode("the cat the cat")
    assert np.frombuffer(words.encode(["the", "cat", "the", "cat"]), np.int64).tolist() == whole
    assert tokenizer.calls == ["the", "cat"]
    assert np.frombuffer(words.encode(["the", "cat", "the", "cat"]), np.int64).tolist() == whole
    assert tokenizer.calls == ["the", "cat"]
    words.encode(["sat", "on", "the"])
    assert tokenizer.calls == ["the", "cat", "sat", "on", "the"]
    assert np.frombuffer(words.encode(["cat", "sat"]), np.int64).tolist() == tokenizer.encode("cat sat")


def test_a_word_with_whitespace_in_it_is_encoded_as_the_text_that_it_is() -> None:
    class Lengths(ByteTokenizer):
        """A word's id is its length."""

        word_by_word = True

        def encode(self, text: str) -> list[int]:
            return [len(word) for word in text.split()]

        def encode_word(self, word: str) -> list[int]:
            return [len(word)]

    words = WordIds(Lengths())
    for _ in range(2):
        assert np.frombuffer(words.encode(["abc", "a bc", "d"]), np.int64).tolist() == [3, 1, 2, 1]
        assert np.frombuffer(words.encode(["abc", "d"]), np.int64).tolist() == [3, 1]


def test_text_beside_text_is_one_piece() -> None:
    doc, sequence = document((6,)), SequenceSection()
    spans = (Span(Modality.TEXT, 0, 2), Span(Modality.TEXT, 2, 3), Span(Modality.SPEECH, 3, 6))
    found = encode_document(doc, spans, sequence, PIECES)
    assert_same(found, PIECES.encode(render(doc, spans, sequence)))
    assert found.ids.tolist().count(PIECES.marker_id(0)) == 1


@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=5))
def test_words_of_any_characters_encode_as_their_text_does(words: list[str]) -> None:
    for vocabulary in (BYTES, PIECES):
        ids = np.frombuffer(WordIds(vocabulary.tokenizer).encode(words), np.int64)
        assert ids.tolist() == vocabulary.tokenizer.encode(" ".join(words))


def test_the_frame_in_force_opens_a_span_whose_own_frames_ended_before_it() -> None:
    """Style frame 3 stands for a sample that is kept, but ended before the first HuBERT frame that is."""
    own = odd_contracts([100, 100, 100], [0, 0, 200])
    words = [Word("a", Samples(500), Samples(600), -1.0), Word("b", Samples(900), Samples(1300), -1.0)]
    streams = {slot: [i % 8 for i in range(13)] for slot in SIZES}
    doc = document_from([record("u", words, num_samples=1300, streams=streams)], own)
    spans, sequence = (Span(Modality.SPEECH, 0, 2),), SequenceSection(silence="drop")
    pieces = render(doc, spans, sequence)
    assert pieces[0].tokens[:3] == ("[St5]", "[Pi5]", "[Hu5]")
    assert_same(encode_document(doc, spans, sequence, PIECES), PIECES.encode(pieces))
