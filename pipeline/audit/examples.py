"""Records that an audit reads: documents to draw from, and the utterances shown in full."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pipeline.audit.draws import Draw
from pipeline.audit.summary import Draws, Example
from pipeline.dataset import BadDataset, Dataset
from schemas.canonical import rng_for
from schemas.unit_record import UnitRecord
from stages.documents import follows

SHARDS_SAMPLED = 16
"""Draws are spread over this many shards, so that they do not all come from one corner of the data."""

MODALITIES = ("text", "speech")


def documents(dataset: Dataset, *, seed: int, max_records: int, join: bool) -> Iterator[list[UnitRecord]]:
    """Yield documents of at most `max_records` records in all, from shards in an order set by the seed.

    A document is a run of consecutive records of one recording, or one record if `join` is False; the last one
    may be cut short.
    """
    if max_records <= 0:
        return
    order = rng_for(seed, "audit-shards").permutation(dataset.num_splits)
    quota = -(-max_records // max(1, min(dataset.num_splits, SHARDS_SAMPLED)))
    left = max_records
    for split in order:
        for document in _take(_documents_of(dataset.records(int(split)), join=join), min(quota, left)):
            left -= len(document)
            yield document
        if left <= 0:
            return


def _documents_of(records: Iterator[UnitRecord], *, join: bool) -> Iterator[list[UnitRecord]]:
    document: list[UnitRecord] = []
    for record in records:
        if document and not (join and follows(document[-1], record)):
            yield document
            document = []
        document.append(record)
    if document:
        yield document


def _take(found: Iterator[list[UnitRecord]], limit: int) -> Iterator[list[UnitRecord]]:
    left = limit
    for document in found:
        yield document[:left]
        left -= len(document)
        if left <= 0:
            return


def measure(found: Iterator[list[UnitRecord]], draw: Draw, bounds: Mapping[str, tuple[int, int]]) -> Draws:
    """Draw once from every document and add up what came out."""
    lengths: dict[str, Counter[int]] = {modality: Counter() for modality in MODALITIES}
    final: dict[str, Counter[int]] = {modality: Counter() for modality in MODALITIES}
    words: Counter[str] = Counter(dict.fromkeys(MODALITIES, 0))
    tokens: Counter[str] = Counter(dict.fromkeys(MODALITIES, 0))
    style: defaultdict[str, Counter[int]] = defaultdict(Counter)
    word_shares, token_shares, records = [], [], 0
    for document in found:
        records += len(document)
        for record in document:
            if "style" in record.streams:
                style[record.meta["speaker"]].update(record.streams["style"].tolist())
        here_words, here_tokens = Counter(dict.fromkeys(MODALITIES, 0)), Counter(dict.fromkeys(MODALITIES, 0))
        for span in draw(document).spans:
            (final if span.last else lengths)[span.modality][span.words] += 1
            here_words[span.modality] += span.words
            here_tokens[span.modality] += span.tokens
        words.update(here_words)
        tokens.update(here_tokens)
        word_shares.append(_share(here_words))
        token_shares.append(_share(here_tokens))
    return Draws(
        documents=len(word_shares),
        records=records,
        bounds=bounds,
        lengths={modality: dict(sorted(counts.items())) for modality, counts in lengths.items()},
        final={modality: dict(sorted(counts.items())) for modality, counts in final.items()},
        word_shares=tuple(word_shares),
        token_shares=tuple(token_shares),
        words=dict(words),
        tokens=dict(tokens),
        style={speaker: dict(sorted(counts.items())) for speaker, counts in sorted(style.items())},
    )


def _share(counts: Mapping[str, int]) -> float:
    total = sum(counts.values())
    return counts["speech"] / total if total else 0.0


def load(dataset: Dataset, chosen: Sequence[tuple[str, int, str]], draw: Draw) -> tuple[Example, ...]:
    """Read the chosen (key, split, why), opening each shard once, and draw from each as a document of its own.

    Raises:
        BadDataset: if a chosen key is not in its shard.
    """
    wanted: defaultdict[int, set[str]] = defaultdict(set)
    for key, split, _ in chosen:
        wanted[split].add(key)
    found: dict[str, UnitRecord] = {}
    for split, keys in sorted(wanted.items()):
        missing = set(keys)
        for record in dataset.records(split):
            if record.key in missing:
                found[record.key] = record
                missing.remove(record.key)
            if not missing:
                break
        if missing:
            raise BadDataset(
                f"{dataset.shard(split)} lacks {sorted(missing)}, which its statistics name; delete its commit "
                "record and run the build again"
            )
    return tuple(Example(record=found[key], why=why, drawn=draw([found[key]])) for key, _, why in chosen)
