"""One draw of the interleaving of one document: a pure function of the seed, the epoch and the document's key."""

from schemas.canonical import rng_for
from schemas.sequence import SequenceSection
from stages.documents import Document
from stages.interleave import Piece, Span, draw_spans, render
from stages.vocabulary import TokenSequence, Vocabulary


def draw_document(document: Document, sequence: SequenceSection, *, seed: int, epoch: int) -> tuple[Span, ...]:
    """Return the spans of a document in an epoch, whatever else is read and in which order."""
    rng = rng_for(seed, epoch, document.key)
    return draw_spans(len(document.words), document.closed_boundaries(), sequence.policy, rng)


def draw_pieces(document: Document, sequence: SequenceSection, *, seed: int, epoch: int) -> list[Piece]:
    """Return the rendered pieces of a document in an epoch."""
    return render(document, draw_document(document, sequence, seed=seed, epoch=epoch), sequence)


def draw_sequence(
    document: Document, sequence: SequenceSection, vocabulary: Vocabulary, *, seed: int, epoch: int
) -> TokenSequence:
    """Return the token ids of a document in an epoch, before packing."""
    return vocabulary.encode(draw_pieces(document, sequence, seed=seed, epoch=epoch))
