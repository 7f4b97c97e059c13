import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader.draw import utterance_starts
from schemas.canonical import rng_for
from schemas.sequence import AsrPolicy, Policy, SequenceSection, SpiritLmPolicy, TtsPolicy, VocabularySection
from stages.documents import Document
from stages.interleave import Modality, Piece, render
from stages.policies import draw_spans
from stages.tokenizer import SentencePieceTokenizer, fit_sentencepiece
from stages.vocabulary import SPIRITLM, TASKS, TokenSequence, Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, contracts, documents
from tests.stages.tokenizer_builders import CORPUS, byte_level, opened, space_sign, words


class Llama32000(ByteTokenizer):
    vocab_size = 32_000


SMALL = Vocabulary(ByteTokenizer(), SIZES)
RELEASED = Vocabulary(Llama32000(), {"hubert": 501, "pitch": 64, "style": 100})


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("[Text]", 32_000), ("[Speech]", 32_001),
        ("[Hu0]", 32_002), ("[Hu500]", 32_502),
        ("[Pi0]", 32_503), ("[Pi63]", 32_566),
        ("[St0]", 32_567), ("[St99]", 32_666),
        ("[ASR]", 32_667), ("[TTS]", 32_668),
    ],
)  # fmt: skip
def test_ids_are_those_of_the_released_models(token: str, expected: int) -> None:
    assert RELEASED.token_id(token) == expected
    assert RELEASED.size == 32_669


def test_sizes_come_from_the_contracts() -> None:
    assert Vocabulary.from_contracts(ByteTokenizer(), contracts()).sizes == SIZES
    base = Vocabulary(Llama32000(), {"hubert": 501})
    assert base.size == 32_505
    assert base.task_id("asr") == 32_503
    assert base.token_id("[Hu500]") == RELEASED.token_id("[Hu500]")


@pytest.mark.parametrize("token", ["[Hu50]", "[St8]", "the", "[MT]"])
def test_a_token_outside_the_vocabulary_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"not in the vocabulary; codebook sizes are"):
        SMALL.token_id(token)


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="energy"):
        Vocabulary(ByteTokenizer(), {"energy": 3})


POLICIES = (SpiritLmPolicy(text_words=(1, 4), speech_words=(1, 4)), AsrPolicy(), TtsPolicy())
APPENDED = Vocabulary(ByteTokenizer(), SIZES, VocabularySection(layout="append", first_id=300, pad_to_multiple=64))


def pieces_of(doc: Document, policy: Policy, seed: int, stream: str = "expressive") -> list[Piece]:
    spans = draw_spans(len(doc.words), doc.closed_boundaries(), policy, rng_for(seed), utterance_starts(doc))
    return render(doc, spans, SequenceSection(stream=stream))


@given(
    doc=documents(),
    seed=st.integers(0, 99),
    policy=st.sampled_from(POLICIES),
    vocabulary=st.sampled_from([SMALL, APPENDED]),
    stream=st.sampled_from(["base", "expressive"]),
)
def test_decoding_gives_back_the_pieces(
    doc: Document, seed: int, policy: Policy, vocabulary: Vocabulary, stream: str
) -> None:
    pieces = pieces_of(doc, policy, seed, stream)
    sequence = vocabulary.encode(pieces)
    assert vocabulary.decode(sequence.ids.tolist()) == pieces
    assert vocabulary.repaired(sequence.ids) == sequence.ids.tolist()
    assert_modality(sequence, vocabulary)
    assert_cuttable(sequence, vocabulary)


def assert_modality(sequence: TokenSequence, vocabulary: Vocabulary) -> None:
    """An independent reading: units are speech, bytes are text, markers and tasks are what comes after them."""
    kind = -1
    for token, modality in zip(reversed(sequence.ids.tolist()), reversed(sequence.modality.tolist()), strict=True):
        if token in (vocabulary.marker_id(0), vocabulary.marker_id(1)):
            kind = token - vocabulary.marker_id(0)
        elif token < 256:
            kind = 0
        elif token < vocabulary.task_id("asr"):
            kind = 1
        assert modality == kind


def assert_cuttable(sequence: TokenSequence, vocabulary: Vocabulary) -> None:
    """An independent reading of the rule: a cut lies after a HuBERT or text token, or where the order falls back."""
    rank = {"[St": 0, "[Pi": 1, "[Hu": 2}
    openings = {vocabulary.marker_id(0), vocabulary.marker_id(1), *map(vocabulary.task_id, TASKS)}
    cuttable = set(np.flatnonzero(~sequence.glued).tolist())
    for i in range(1, len(sequence.ids)):
        before, after = int(sequence.ids[i - 1]), int(sequence.ids[i])
        if before in openings:
            assert i not in cuttable, "cut after a marker or a task"
        elif before < 256 or after in openings:
            assert i in cuttable
        else:
            speech = vocabulary.marker_id(1)
            a, b = (vocabulary.decode([speech, token])[0].tokens[0][:3] for token in (before, after))
            assert (i in cuttable) == (rank[b] <= rank[a])
    assert 0 in cuttable


def test_a_task_stands_before_its_pair() -> None:
    pair = [
        Piece(modality=Modality.SPEECH, tokens=("[St1]", "[Hu3]", "[Hu4]"), task="asr"),
        Piece(modality=Modality.TEXT, text="ab"),
    ]
    sequence = SMALL.encode(pair)
    asr, text, speech = SMALL.task_id("asr"), SMALL.marker_id(0), SMALL.marker_id(1)
    units = [SMALL.token_id(token) for token in ("[St1]", "[Hu3]", "[Hu4]")]
    assert sequence.ids.tolist() == [asr, speech, *units, text, 97, 98]
    assert sequence.modality.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert np.flatnonzero(sequence.glued).tolist() == [1, 2, 3, 6]
    assert SMALL.decode(sequence.ids) == pair
    assert SMALL.encode([Piece(modality=Modality.TEXT, text="a", task="tts")]).modality.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("section", "first_id", "size"),
    [
        (VocabularySection(), 32_000, 32_669),
        (VocabularySection(layout="append"), 32_000, 32_669),
        (VocabularySection(layout="append", pad_to_multiple=128), 32_000, 32_768),
        (VocabularySection(layout="append", first_id=32_064, pad_to_multiple=64), 32_064, 32_768),
        (VocabularySection(layout="append", first_id=32_099, pad_to_multiple=64), 32_099, 32_768),
        (VocabularySection(layout="append", first_id=32_100, pad_to_multiple=64), 32_100, 32_832),
    ],
)
def test_layouts(section: VocabularySection, first_id: int, size: int) -> None:
    vocabulary = Vocabulary(Llama32000(), RELEASED.sizes, section)
    assert (vocabulary.first_id, vocabulary.size) == (first_id, size)
    shift = first_id - 32_000
    for token in ("[Text]", "[Speech]", "[Hu0]", "[Pi63]", "[St99]", "[ASR]", "[TTS]"):
        assert vocabulary.token_id(token) == RELEASED.token_id(token) + shift
    described = vocabulary.describe()
    assert json.loads(json.dumps(described)) == described
    blocks = described["blocks"]
    assert blocks.pop("text") == [0, 32_000]
    assert list(blocks) == ["[Text]", "[Speech]", "hubert", "pitch", "style", "[ASR]", "[TTS]"]
    edges = [edge for block in blocks.values() for edge in block]
    assert edges[0] == first_id
    assert edges[1:-1:2] == edges[2::2], "blocks follow each other"
    assert described["size"] == size >= edges[-1]


def test_ids_of_units_are_their_blocks_first_id_and_the_unit() -> None:
    for slot, prefix in (("hubert", "Hu"), ("pitch", "Pi"), ("style", "St")):
        for unit in range(SIZES[slot]):
            assert APPENDED.unit_offset(slot) + unit == APPENDED.token_id(f"[{prefix}{unit}]")
    assert [APPENDED.marker_id(0), APPENDED.marker_id(1)] == [300, 301]
    assert [APPENDED.task_id(task) for task in TASKS] == [APPENDED.token_id("[ASR]"), APPENDED.token_id("[TTS]")]
    for slot in ("pitch", "energy"):
        with pytest.raises(ValueError, match=f"no '{slot}' units in the vocabulary"):
            Vocabulary(ByteTokenizer(), {"hubert": 50}).unit_offset(slot)


def test_the_tokenizers_hash_is_told() -> None:
    assert Vocabulary(ByteTokenizer(), SIZES, tokenizer_sha256="ab").describe()["tokenizer_sha256"] == "ab"


def test_a_first_id_among_the_texts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"first_id 255 is an id of the text tokenizer.* set it to 256 or more"):
        Vocabulary(ByteTokenizer(), SIZES, VocabularySection(layout="append", first_id=255))


def test_markers_in_a_transcript_are_plain_text() -> None:
    sequence = SMALL.encode([Piece(modality=Modality.TEXT, text="[Speech][Hu3]")])
    assert set(sequence.modality.tolist()) == {0}
    assert SMALL.decode(sequence.ids)[0].text == "[Speech][Hu3]"


@pytest.mark.parametrize(
    ("ids", "message"),
    [([5], "must open with"), ([256, 300], r"300 cannot follow \[Text\]"), ([257, 5], r"5 cannot follow \[Speech\]"),
     ([257, 256 + 2 + 74], r"after \[ASR\] comes \[Text\] or \[Speech\], got the end"),
     ([333, 5], r"after \[TTS\] comes .* got 5"), ([332, 333, 256], r"after \[ASR\] comes .* got 333"),
     ([256, 334], "id 334 has no token"), ([257, -1], "id -1 has no token"), ([300], "must open with")],
)  # fmt: skip
def test_sequences_that_mean_nothing_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.decode(ids)


@pytest.mark.parametrize("unused", [256, 299, 300 + 78, 383, 384])
def test_ids_that_no_token_has_are_refused(unused: int) -> None:
    assert APPENDED.size == 384
    for marker in (0, 1):
        with pytest.raises(ValueError, match=f"id {unused} has no token"):
            APPENDED.decode([APPENDED.marker_id(marker), unused])


def test_an_empty_sequence_has_no_pieces() -> None:
    assert SMALL.decode([]) == []
    assert SMALL.encode([]).ids.shape == (0,)


REAL = {
    "sentencepiece": SentencePieceTokenizer(fit_sentencepiece(CORPUS, 400)),
    "byte-level": opened(byte_level("llama3")),
    "llama2": opened(space_sign("legacy")),
    "metaspace": opened(space_sign("never")),
}


@pytest.mark.parametrize("name", REAL)
@given(doc=documents(), seed=st.integers(0, 99), policy=st.sampled_from(POLICIES))
def test_text_spans_decode_to_their_words(name: str, doc: Document, seed: int, policy: Policy) -> None:
    vocabulary = Vocabulary(REAL[name], SIZES)
    pieces = pieces_of(doc, policy, seed)
    assert vocabulary.decode(vocabulary.encode(pieces).ids) == pieces


@pytest.mark.parametrize("name", REAL)
@given(data=st.data(), appended=st.booleans())
def test_ids_of_any_model_are_decoded_when_repaired(name: str, data: st.DataObject, appended: bool) -> None:
    known = REAL[name].vocab_size
    section = VocabularySection(layout="append", first_id=known + 9, pad_to_multiple=64) if appended else SPIRITLM
    vocabulary = Vocabulary(REAL[name], SIZES, section)
    few = st.integers(vocabulary.first_id - 3, vocabulary.first_id + 4) | st.sampled_from(
        [*map(vocabulary.task_id, TASKS), vocabulary.size - 1]
    )
    ids = data.draw(st.lists(few | st.integers(-3, vocabulary.size + 3)))
    repaired = vocabulary.repaired(ids)
    pieces = vocabulary.decode(repaired)
    assert vocabulary.repaired(repaired) == repaired
    openings = {vocabulary.marker_id(0), vocabulary.marker_id(1), *map(vocabulary.task_id, TASKS)}
    kept = [i for i in ids if 0 <= i < known or vocabulary.first_id + 2 <= i < vocabulary.task_id("asr")]
    assert [i for i in repaired if i not in openings] == kept
    assert sum(len(piece.tokens) for piece in pieces) == sum(i >= vocabulary.first_id for i in kept)
    assert len(pieces) <= len(kept) + sum(i in openings for i in ids)


def test_a_marker_is_put_in_where_the_modality_changes_without_one() -> None:
    unit, asr, text, speech = SMALL.token_id("[Hu3]"), SMALL.task_id("asr"), SMALL.marker_id(0), SMALL.marker_id(1)
    assert SMALL.repaired([97, 98, unit, unit, 99]) == [text, 97, 98, speech, unit, unit, text, 99]
    assert SMALL.repaired([asr, unit, asr, speech, unit, asr]) == [speech, unit, asr, speech, unit]
    assert SMALL.repaired([text, 97, SMALL.size, -1, 98]) == [text, 97, 98]


@pytest.mark.parametrize("name", REAL)
@given(words=words, cut=st.integers(1, 3))
def test_spans_of_any_words_decode_to_them(name: str, words: list[str], cut: int) -> None:
    """Wherever a text is cut into spans, they have the words and, word by word, the ids of the whole text."""
    vocabulary = Vocabulary(REAL[name], SIZES)
    parts = [" ".join(words[i : i + cut]) for i in range(0, len(words), cut)]
    pieces = [Piece(modality=Modality.TEXT, text=part) for part in parts]
    sequence = vocabulary.encode(pieces)
    assert [piece.text for piece in vocabulary.decode(sequence.ids)] == parts
    inside = sequence.ids[sequence.ids != vocabulary.marker_id(0)]
    assert inside.tolist() == vocabulary.tokenizer.encode(" ".join(words))
