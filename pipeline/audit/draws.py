"""Interleaved draws by the dataset's own recipe, counted in words and tokens."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.audit.summary import DrawnExample, DrawnSpan
from pipeline.dataset import Dataset
from pipeline.reader.draw import draw_document
from pipeline.reader import vocabulary_of
from schemas.unit_record import UnitRecord
from stages.documents import document_from
from stages.interleave import Modality, Piece, Span, render

Draw = Callable[[Sequence[UnitRecord]], DrawnExample]
"""Draws one interleaving of a document, given as its records in order."""

Encode = Callable[[str], list[int]]


def recipe_draw(dataset: Dataset, *, seed: int) -> Draw:
    """Return the draw of the dataset's recipe: what its reader yields for a document in epoch 0 at this seed.

    Raises:
        ValueError: if the tokenizer is not the one that the dataset was built with.
    """
    sequence, contracts = dataset.recipe.sequence, dataset.contracts
    encode = vocabulary_of(dataset).tokenizer.encode

    def draw(records: Sequence[UnitRecord]) -> DrawnExample:
        document = document_from(records, contracts)
        if not document.words:
            return DrawnExample(spans=())
        spans = draw_document(document, sequence, seed=seed, epoch=0)
        return DrawnExample(spans=tuple(_counted(render(document, spans, sequence), spans, encode)))

    return draw


def _counted(pieces: Sequence[Piece], spans: Sequence[Span], encode: Encode) -> Iterator[DrawnSpan]:
    left = iter(spans)
    for index, piece in enumerate(pieces):
        # A speech span without a frame was dissolved into the text around it: one piece may hold several spans.
        words, wanted = 0, len(piece.text.split(" ")) if piece.modality is Modality.TEXT else 1
        while words < wanted:
            span = next(left)
            words += span.end_word - span.start_word
        tokens = len(encode(piece.text)) if piece.modality is Modality.TEXT else len(piece.tokens)
        yield DrawnSpan(
            modality=piece.modality.value,
            words=words,
            tokens=1 + tokens,
            content=piece.text + "".join(piece.tokens),
            last=index == len(pieces) - 1,
        )
