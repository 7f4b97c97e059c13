"""Open a reader: datasets or a mixture of sources by path, for one rank of a training run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset
from pipeline.reader.baked_source import BakedSource, baked_vocabulary
from pipeline.reader.sequence_reader import SequenceReader
from pipeline.reader.shard_cache import ShardCache
from pipeline.reader.source import JoinedSource, Source
from pipeline.reader.text_source import TextSource
from pipeline.reader.units_source import Prepare, UnitsSource
from pipeline.reader.vocabularies import common_contracts, open_vocabulary
from schemas import sequence as sections
from schemas.sequence import Mixture, SequenceSection
from stages.interleave import STREAM_SLOTS
from stages.vocabulary import Vocabulary

Datasets = str | Path | Dataset | Sequence[str | Path | Dataset]


def open_reader(
    datasets: Datasets | Mixture,
    sequence: SequenceSection,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    streams: int | None = None,
    vocabulary: Vocabulary | None = None,
    like: Dataset | None = None,
    prepare: Prepare | None = None,
    cache: ShardCache | None = None,
    verify: bool = False,
    **options: Any,
) -> SequenceReader:
    """Open a reader for one rank.

    Args:
        datasets: one units dataset, or several that are read as one; or a mixture.
        sequence: policy, streams and context.
        seed: of the order and of the draws.
        rank: of this reader, from 0.
        world_size: number of readers that share the items.
        streams: among how many streams the items are divided, at least the world size; None: the world size. The
            number of blocks in a global batch makes the batches the same on any world size that divides it.
        vocabulary: replaces the one that `sequence.vocabulary` and the datasets give.
        like: a dataset whose units all sources must have, where `vocabulary` is its own.
        prepare: applied to each document of a units source before its draw; None leaves the document out.
        cache: where remote shards are kept; None: one of the default size.
        verify: hash every shard as it is opened; shards from object stores always are.
        options: `epochs`, `last`, `shuffle_shards`, `on_corrupt`, see `SequenceReader`.

    Raises:
        BadDataset: if a folder is no finished dataset.
        ContractMismatch: if two datasets do not agree.
        ValueError: if the rank lies outside the world, or a dataset lacks a stream that `sequence` needs.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    streams = world_size if streams is None else streams
    if streams < world_size:
        raise ValueError(f"{world_size} ranks need at least as many streams, got {streams}")
    sources, shares, vocabulary = open_sources(
        datasets, sequence, seed=seed, vocabulary=vocabulary, like=like, prepare=prepare, cache=cache, verify=verify
    )
    return SequenceReader(
        sources,
        vocabulary,
        context=sequence.context,
        seed=seed,
        shares=shares,
        streams=streams,
        serve=range(rank, streams, world_size),
        **options,
    )


def open_sources(
    datasets: Datasets | Mixture,
    sequence: SequenceSection,
    *,
    seed: int,
    vocabulary: Vocabulary | None = None,
    like: Dataset | None = None,
    prepare: Prepare | None = None,
    cache: ShardCache | None = None,
    verify: bool = False,
) -> tuple[list[Source], list[float], Vocabulary]:
    """Return the sources, their shares and their vocabulary; several plain datasets make one source.

    Raises:
        BadDataset: if a folder is no finished dataset.
        ContractMismatch: if two datasets do not agree.
        ValueError: if a dataset lacks a stream that `sequence` needs, or a mixture without one names no tokenizer.
    """
    opened = _datasets(datasets)
    common_contracts([*([like] if like is not None else []), *opened])
    require_streams(opened, sequence)
    vocabulary = vocabulary or _vocabulary(datasets, opened, sequence)
    units = partial(UnitsSource, seed=seed, prepare=prepare, verify=verify, cache=cache)
    if not isinstance(datasets, Mixture):
        each = [units(dataset, sequence, vocabulary) for dataset in opened]
        return [each[0] if len(each) == 1 else JoinedSource(each)], [1.0], vocabulary
    left = iter(opened)
    sources: list[Source] = []
    for section in datasets.sources:
        match section:
            case sections.UnitsSource():
                sources.append(units(next(left), sequence, vocabulary, policy=section.policy))
            case sections.TextSource():
                sources.append(TextSource(section.path, vocabulary, field=section.field))
            case sections.BakedSource():
                baked = BakedSource(section.path, vocabulary, context=sequence.context, cache=cache, verify=verify)
                _require_same_units([like] if like is not None else opened[:1], baked)
                sources.append(baked)
    return sources, [section.share for section in datasets.sources], vocabulary


def _require_same_units(datasets: Sequence[Dataset], baked: BakedSource) -> None:
    """Check that a bake's units are those of some datasets."""
    for dataset in datasets:
        for slot in sorted(set(baked.contracts) & set(dataset.contracts)):
            dataset.contracts[slot].require_same(baked.contracts[slot], here=dataset.root, there=baked.name)


def _vocabulary(datasets: Datasets | Mixture, opened: Sequence[Dataset], sequence: SequenceSection) -> Vocabulary:
    """Return the vocabulary of the units datasets; where there is none, that of the first baked source."""
    if isinstance(datasets, Mixture) and not opened and not sequence.vocabulary.tokenizer:
        baked = [source.path for source in datasets.sources if isinstance(source, sections.BakedSource)]
        if baked:
            return baked_vocabulary(baked[0])
    return open_vocabulary(opened, sequence.vocabulary)


def _datasets(datasets: Datasets | Mixture) -> list[Dataset]:
    """Return the units datasets, opened."""
    if isinstance(datasets, Mixture):
        given: list[str | Path | Dataset] = [s.path for s in datasets.sources if isinstance(s, sections.UnitsSource)]
    else:
        given = [datasets] if isinstance(datasets, str | Path | Dataset) else list(datasets)
        if not given:
            raise ValueError("no dataset was given")
    return [item if isinstance(item, Dataset) else Dataset.open(str(item)) for item in given]


def require_streams(datasets: Sequence[Dataset], sequence: SequenceSection) -> None:
    """Check that datasets have the unit streams that a sequence section wants.

    Raises:
        ValueError: if one lacks a stream.
    """
    for dataset in datasets:
        if missing := sorted(set(STREAM_SLOTS[sequence.stream]) - set(dataset.contracts)):
            raise ValueError(
                f"stream {sequence.stream!r} needs {missing}; {dataset.root} has {sorted(dataset.contracts)}"
            )
