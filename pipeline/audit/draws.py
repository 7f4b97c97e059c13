"""Interleaved draws by the dataset's own recipe, counted in words and tokens."""

from collections.abc import Callable, Sequence

from pipeline.audit.summary import DrawnExample, DrawnSpan
from pipeline.dataset import Dataset
from pipeline.reader.draw import draw_document
from pipeline.reader.vocabularies import open_vocabulary
from schemas.sequence import Policy, SpiritLmPolicy
from schemas.unit_record import UnitRecord
from stages.documents import document_from
from stages.interleave import Modality, Piece, realise

Draw = Callable[[Sequence[UnitRecord]], DrawnExample]
"""Draws one interleaving of a document, given as its records in order."""

Encode = Callable[[str], list[int]]


def recipe_draw(dataset: Dataset, *, seed: int) -> Draw:
    """Return the draw of the dataset's recipe: what its reader yields for a document in epoch 0 at this seed.

    Raises:
        ValueError: if the tokenizer is not the one that the dataset was built with.
    """
    sequence, contracts = dataset.recipe.sequence, dataset.contracts
    encode = open_vocabulary(dataset, sequence.vocabulary).tokenizer.encode

    def draw(records: Sequence[UnitRecord]) -> DrawnExample:
        document = document_from(records, contracts)
        if not document.words:
            return DrawnExample(spans=())
        spans = draw_document(document, sequence, seed=seed, epoch=0)
        realised = realise(document, spans, sequence)
        return DrawnExample(
            spans=tuple(
                DrawnSpan(
                    modality=piece.modality.value,
                    words=span.end_word - span.start_word,
                    tokens=num_tokens(piece, encode),
                    content=piece.text + "".join(piece.tokens),
                    last=place == len(realised),
                )
                for place, (span, piece) in enumerate(realised, 1)
            )
        )

    return draw


def length_bounds(policy: Policy) -> dict[str, tuple[int, int]]:
    """Return modality to the least and most words of a span; empty for a policy that sets none."""
    if not isinstance(policy, SpiritLmPolicy):
        return {}
    return {Modality.TEXT.value: policy.text_words, Modality.SPEECH.value: policy.speech_words}


def num_tokens(piece: Piece, encode: Encode) -> int:
    """Return how many tokens a piece becomes, its marker and the token of its task included."""
    body = len(encode(piece.text)) if piece.modality is Modality.TEXT else len(piece.tokens)
    return 1 + bool(piece.task) + body
