"""One draw of the interleaving of one document: a pure function of the seed, the epoch and the document's key."""

from bisect import bisect_right
from itertools import pairwise

from schemas.canonical import rng_for
from schemas.sequence import AsrPolicy, SequenceSection, TtsPolicy
from stages.documents import Document
from stages.interleave import Piece, Span, render
from stages.policies import draw_spans
from stages.vocabulary import TokenSequence, Vocabulary


def draw_document(document: Document, sequence: SequenceSection, *, seed: int, epoch: int) -> tuple[Span, ...]:
    """Return the spans of a document in an epoch, whatever else is read and in which order.

    Raises:
        ValueError: if the document has no words.
    """
    rng = rng_for(seed, epoch, document.key)
    policy = sequence.policy
    utterances = utterance_starts(document) if isinstance(policy, AsrPolicy | TtsPolicy) else ()
    return draw_spans(len(document.words), document.closed_boundaries(), policy, rng, utterances)


def utterance_starts(document: Document) -> tuple[int, ...]:
    """Return each i such that an utterance begins between words i-1 and i.

    Words without a time do not say which utterance they are of; boundaries next to them are closed anyway.
    """
    begins = [segment.start for segment in document.segments]
    owners = [None if word.start is None else bisect_right(begins, word.start) for word in document.words]
    return tuple(i for i, (a, b) in enumerate(pairwise(owners), 1) if a is not None and b is not None and a != b)


def draw_pieces(document: Document, sequence: SequenceSection, *, seed: int, epoch: int) -> list[Piece]:
    """Return the rendered pieces of a document in an epoch."""
    return render(document, draw_document(document, sequence, seed=seed, epoch=epoch), sequence)


def draw_sequence(
    document: Document, sequence: SequenceSection, vocabulary: Vocabulary, *, seed: int, epoch: int
) -> TokenSequence:
    """Return the token ids of a document in an epoch, before packing."""
    return vocabulary.encode(draw_pieces(document, sequence, seed=seed, epoch=epoch))
