"""Interleaved draws by the dataset's own recipe, counted in words and tokens."""

from collections.abc import Callable, Iterator, Sequence

import fsspec

from pipeline.audit.summary import DrawnExample, DrawnSpan
from pipeline.dataset import BadDataset, Dataset
from schemas.canonical import rng_for, sha256_hex
from schemas.unit_record import UnitRecord
from stages.documents import document_from
from stages.interleave import Modality, Piece, Span, draw_spans, render

Draw = Callable[[Sequence[UnitRecord]], DrawnExample]
"""Draws one interleaving of a document, given as its records in order."""

CountTokens = Callable[[str], int]


def recipe_draw(dataset: Dataset, *, seed: int) -> Draw:
    """Return the draw of the dataset's recipe: its policy, stream and gap rule, one epoch at the given seed."""
    sequence, contracts = dataset.recipe.sequence, dataset.contracts
    count = text_token_counter(dataset)

    def draw(records: Sequence[UnitRecord]) -> DrawnExample:
        document = document_from(records, contracts)
        if not document.words:
            return DrawnExample(spans=())
        rng = rng_for(seed, 0, document.key)
        spans = draw_spans(len(document.words), document.closed_boundaries(), sequence.policy, rng)
        pieces = render(document, spans, sequence)
        return DrawnExample(spans=tuple(_counted(pieces, spans, count)))

    return draw


def _counted(pieces: Sequence[Piece], spans: Sequence[Span], count: CountTokens) -> Iterator[DrawnSpan]:
    left = iter(spans)
    for index, piece in enumerate(pieces):
        # A speech span without a frame was dissolved into the text around it: one piece may hold several spans.
        words, wanted = 0, len(piece.text.split(" ")) if piece.modality is Modality.TEXT else 1
        while words < wanted:
            span = next(left)
            words += span.end_word - span.start_word
        tokens = count(piece.text) if piece.modality is Modality.TEXT else len(piece.tokens)
        yield DrawnSpan(
            modality=piece.modality.value,
            words=words,
            tokens=1 + tokens,
            content=piece.text + "".join(piece.tokens),
            last=index == len(pieces) - 1,
        )


def text_token_counter(dataset: Dataset) -> CountTokens:
    """Return a function that counts the tokens of a text under the dataset's own tokenizer.

    Raises:
        BadDataset: if the tokenizer is not the one whose hash the dataset names.
    """
    import sentencepiece

    path = dataset.artifact("tokenizer")
    with fsspec.open(path, "rb") as file:
        model = file.read()
    if sha256_hex(model) != dataset.info["artifacts"]["tokenizer"]["sha256"]:
        raise BadDataset(f"{path} is not the tokenizer that dataset.json names (its sha256 differs); fit again")
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda text: len(processor.encode(text))
