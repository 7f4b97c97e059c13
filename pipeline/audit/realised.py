"""What a policy comes to on a dataset: span lengths, speech share, switches and tokens, over whole documents."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import Any

from pipeline.audit.draws import num_tokens
from pipeline.dataset import BadDataset, Dataset
from pipeline.reader.draw import draw_document
from schemas.canonical import rng_for
from schemas.sequence import SequenceSection
from stages.documents import Document, documents_from
from stages.interleave import Modality, realise, removed_silence

SHARDS_SAMPLED = 16
"""Documents are taken from this many shards, in equal numbers where they hold enough."""

CLASSES = (1, 10, 20, 40, 80, 160, 320)
"""Fewest words of a document in each class of lengths."""

BINS = 10
"""Most bins of a histogram of span lengths."""

Encode = Callable[[str], list[int]]


@dataclass(slots=True)
class Share:
    """Words and tokens of some documents, by modality; a word that comes in both counts in both."""

    documents: int = 0
    words: Counter[Modality] = field(default_factory=Counter)
    tokens: Counter[Modality] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        return {
            "documents": self.documents,
            "speech_share_of_words": _ratio(self.words[Modality.SPEECH], self.words.total()),
            "speech_share_of_tokens": _ratio(self.tokens[Modality.SPEECH], self.tokens.total()),
        }


@dataclass(slots=True)
class Realisation:
    """Counts over the documents drawn so far.

    Attributes:
        words: of the documents, each once.
        switches: changes of modality within a document.
        frameless: speech spans that hold no HuBERT frame, so became text or were left out.
        samples: of the documents' audio; removed: of them, those in removed silence.
        inner: modality to {words: spans}; last: the same for the spans that end a document.
        classes: fewest words of a class of documents to its share; a marker counts to what it opens.
    """

    words: int = 0
    switches: int = 0
    frameless: int = 0
    samples: int = 0
    removed: int = 0
    inner: dict[Modality, Counter[int]] = field(default_factory=lambda: {each: Counter() for each in Modality})
    last: dict[Modality, Counter[int]] = field(default_factory=lambda: {each: Counter() for each in Modality})
    classes: dict[int, Share] = field(default_factory=lambda: {least: Share() for least in CLASSES})

    def add(self, document: Document, sequence: SequenceSection, encode: Encode, *, seed: int) -> None:
        """Draw a document as its reader does in epoch 0, and count it."""
        spans = draw_document(document, sequence, seed=seed, epoch=0)
        realised = realise(document, spans, sequence)
        self.words += len(document.words)
        self.samples += document.segments[-1].end
        self.removed += sum(end - start for start, end in removed_silence(document, sequence))
        self.switches += sum(a.piece.modality is not b.piece.modality for a, b in pairwise(realised))
        self.frameless += _spoken(span.modality for span in spans) - _spoken(span.modality for span, _ in realised)
        share = self.classes[max(least for least in CLASSES if least <= len(document.words))]
        share.documents += 1
        for place, (span, piece) in enumerate(realised, 1):
            words = span.end_word - span.start_word
            (self.last if place == len(realised) else self.inner)[span.modality][words] += 1
            share.words[span.modality] += words
            share.tokens[span.modality] += num_tokens(piece, encode)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain JSON; a ratio of nothing is None."""
        overall = Share()
        for share in self.classes.values():
            overall.documents += share.documents
            overall.words += share.words
            overall.tokens += share.tokens
        tokens = overall.tokens.total()
        return {
            **overall.to_json(),
            "words": self.words,
            "tokens": tokens,
            "switches_per_1000_tokens": _ratio(1000 * self.switches, tokens),
            "tokens_per_word": {
                "document": _ratio(tokens, self.words),
                **{each.value: _ratio(overall.tokens[each], overall.words[each]) for each in Modality},
            },
            "removed_silence_share": _ratio(self.removed, self.samples),
            "speech_spans_without_a_frame": self.frameless,
            "spans": {
                each.value: {
                    "inner": _described(self.inner[each]),
                    "last": _described(self.last[each]),
                    "histogram": _histogram(self.inner[each] + self.last[each]),
                }
                for each in Modality
            },
            "by_document_length": [
                {"words": [least, most], **share.to_json()}
                for (least, share), most in zip(self.classes.items(), _most_words(), strict=True)
                if share.documents
            ],
        }


def measure_policy(
    dataset: Dataset, sequence: SequenceSection, encode: Encode, *, documents: int, seed: int
) -> Realisation:
    """Draw up to `documents` documents, spread over shards in an order set by the seed.

    Raises:
        BadDataset: if the dataset lacks a stream that the sequence needs, or holds no words.
    """
    found = Realisation()
    for document in _sampled(dataset, sequence, documents, seed):
        found.add(document, sequence, encode, seed=seed)
    if not found.words:
        raise BadDataset(
            f"{dataset.root} holds no document with words; `interloom audit` shows what became of its rows"
        )
    return found


def _sampled(dataset: Dataset, sequence: SequenceSection, documents: int, seed: int) -> Iterator[Document]:
    order = rng_for(seed, "policy-shards").permutation(dataset.num_splits).tolist()
    quota = -(-documents // max(1, min(len(order), SHARDS_SAMPLED)))
    waiting = [_documents(dataset, split, join=sequence.join_recordings) for split in order]
    left = documents
    while left and waiting:
        for shard in list(waiting):
            taken = list(islice(shard, min(quota, left)))
            if not taken:
                waiting.remove(shard)
            left -= len(taken)
            yield from taken
            if not left:
                return


def _documents(dataset: Dataset, split: int, *, join: bool) -> Iterator[Document]:
    for document in documents_from(dataset.records(split), dataset.contracts, join=join):
        if document.words:
            yield document


def _spoken(modalities: Iterator[Modality]) -> int:
    return sum(each is Modality.SPEECH for each in modalities)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _most_words() -> list[int | None]:
    return [*(least - 1 for least in CLASSES[1:]), None]


def _described(lengths: Counter[int]) -> dict[str, Any]:
    spans = lengths.total()
    mean = _ratio(sum(words * count for words, count in lengths.items()), spans)
    return {"spans": spans, "min": min(lengths, default=None), "mean": mean, "max": max(lengths, default=None)}


def _histogram(lengths: Counter[int]) -> list[dict[str, Any]]:
    """Return bins of equal width, `words` being the first and the last length of a bin."""
    if not lengths:
        return []
    least, most = min(lengths), max(lengths)
    width = -(-(most - least + 1) // BINS)
    return [
        {"words": [start, start + width - 1], "spans": sum(lengths[start + i] for i in range(width))}
        for start in range(least, most + 1, width)
    ]
