import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.canonical import rng_for
from schemas.sequence import SequenceSection, SpiritLmPolicy
from stages.documents import Document
from stages.interleave import Modality, Piece, draw_spans, render
from stages.vocabulary import TokenSequence, Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, contracts, documents, sentencepiece_model


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
    ],
)  # fmt: skip
def test_ids_are_those_of_the_released_models(token: str, expected: int) -> None:
    assert RELEASED.token_id(token) == expected
    assert RELEASED.size == 32_667


def test_sizes_come_from_the_contracts() -> None:
    assert Vocabulary.from_contracts(ByteTokenizer(), contracts()).sizes == SIZES
    base = Vocabulary(Llama32000(), {"hubert": 501})
    assert base.size == 32_503
    assert base.token_id("[Hu500]") == RELEASED.token_id("[Hu500]")


@pytest.mark.parametrize("token", ["[Hu50]", "[St8]", "the"])
def test_a_token_outside_the_vocabulary_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match=r"not in the vocabulary; codebook sizes are"):
        SMALL.token_id(token)


def test_an_unknown_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="energy"):
        Vocabulary(ByteTokenizer(), {"energy": 3})


@given(
    doc=documents(),
    seed=st.integers(0, 99),
    stream=st.sampled_from(["base", "expressive"]),
)
def test_decoding_gives_back_the_pieces(doc: Document, seed: int, stream: str) -> None:
    policy = SpiritLmPolicy(text_words=(1, 4), speech_words=(1, 4))
    spans = draw_spans(len(doc.words), doc.closed_boundaries(), policy, rng_for(seed))
    pieces = render(doc, spans, SequenceSection(stream=stream))
    sequence = SMALL.encode(pieces)
    assert SMALL.decode(sequence.ids.tolist()) == pieces
    speech = (sequence.ids >= 258) | (sequence.ids == SMALL.marker_id(1))
    assert np.array_equal(sequence.modality, speech.astype(np.int8))
    assert_cuttable(sequence)


def assert_cuttable(sequence: TokenSequence) -> None:
    """An independent reading of the rule: a cut lies after a HuBERT or text token, or where the order falls back."""
    rank = {"[St": 0, "[Pi": 1, "[Hu": 2}
    cuttable = set(np.flatnonzero(~sequence.glued).tolist())
    for i in range(1, len(sequence.ids)):
        before, after = int(sequence.ids[i - 1]), int(sequence.ids[i])
        if before in (256, 257):
            assert i not in cuttable, "cut after a marker"
        elif before < 256 or after < 258:
            assert i in cuttable
        else:
            a, b = (SMALL.decode([257, token])[0].tokens[0][:3] for token in (before, after))
            assert (i in cuttable) == (rank[b] <= rank[a])
    assert 0 in cuttable


def test_markers_in_a_transcript_are_plain_text() -> None:
    sequence = SMALL.encode([Piece(modality=Modality.TEXT, text="[Speech][Hu3]")])
    assert set(sequence.modality.tolist()) == {0}
    assert SMALL.decode(sequence.ids)[0].text == "[Speech][Hu3]"


@pytest.mark.parametrize(
    ("ids", "message"),
    [([5], "must open with"), ([256, 300], r"300 cannot follow \[Text\]"), ([257, 5], r"5 cannot follow \[Speech\]"),
     ([257, 256 + 2 + 74], r"cannot follow \[Speech\]")],
)  # fmt: skip
def test_sequences_that_mean_nothing_are_refused(ids: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SMALL.decode(ids)


class RealSentencePiece:
    def __init__(self) -> None:
        import sentencepiece

        self._model = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
        self.vocab_size = self._model.vocab_size()

    def encode(self, text: str) -> list[int]:
        return list(self._model.encode(text))

    def decode(self, ids: list[int]) -> str:
        return str(self._model.decode(ids))


@given(doc=documents(), seed=st.integers(0, 99))
def test_sentencepiece_text_spans_decode_to_their_words(doc: Document, seed: int) -> None:
    vocabulary = Vocabulary(RealSentencePiece(), SIZES)
    policy = SpiritLmPolicy(text_words=(1, 4), speech_words=(1, 4))
    spans = draw_spans(len(doc.words), doc.closed_boundaries(), policy, rng_for(seed))
    pieces = render(doc, spans, SequenceSection())
    decoded = vocabulary.decode(vocabulary.encode(pieces).ids)
    assert [p.text.split() for p in decoded] == [p.text.split() for p in pieces]
    assert decoded == pieces
