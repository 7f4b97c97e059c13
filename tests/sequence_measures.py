"""Counts of words in spans."""

from collections.abc import Iterable

from stages.interleave import Modality, Span


def length(span: Span) -> int:
    return span.end_word - span.start_word


def spoken(spans: Iterable[Span]) -> int:
    return sum(length(span) for span in spans if span.modality is Modality.SPEECH)
