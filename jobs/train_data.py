"""What training reads: held-out documents, the shuffled control, blocks for evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import ValidationError

from pipeline.dataset import BadDataset, Dataset
from pipeline.reader import IGNORED, Block, block_of, draw_sequence
from pipeline.reader.packing import Packer
from schemas.canonical import rng_for
from schemas.sequence import Mixture, SequenceSection
from stages.documents import Document, documents_from
from stages.vocabulary import Vocabulary

HELD_OUT_POOL = 20
"""Held-out documents are a fifth of the first so many, at least one."""

EVALUATION_DRAWS = 4
MAX_EVALUATION_BLOCKS = 64


def hold_out(
    dataset: Dataset, sequence: SequenceSection, seed: int, *, on_corrupt: Literal["raise", "skip"] = "raise"
) -> list[Document]:
    """Return the documents that are kept from training: the fifth of the first shards' with the lowest hashes.

    A dataset of a single document has none to spare. With `skip` a shard gives the documents before its first damage.

    Raises:
        BadDataset: naming the shard, if one of them is damaged or missing.
    """
    pool: list[Document] = []
    for split in range(dataset.num_splits):
        if len(pool) >= HELD_OUT_POOL:
            break
        found = documents_from(dataset.records(split), dataset.contracts, join=sequence.join_recordings)
        try:
            for document in islice((document for document in found if document.words), HELD_OUT_POOL - len(pool)):
                pool.append(document)
        except (ValueError, FileNotFoundError) as error:
            if on_corrupt == "raise":
                what = "is missing" if isinstance(error, FileNotFoundError) else f"is damaged ({error})"
                raise BadDataset(f"{dataset.shard(split)} {what}; copy the shard again") from error
    if len(pool) < 2:
        return []
    ranked = sorted(pool, key=lambda document: float(rng_for(seed, "held-out", document.key).random()))
    return ranked[: max(1, len(pool) // 5)]


def prepare(document: Document, epoch: int, *, held_out: frozenset[str], seed: int, shuffle: bool) -> Document | None:
    """Leave out what is held out, and destroy the order of units if asked to; see `SequenceReader`."""
    if document.key in held_out:
        return None
    return shuffled(document, seed, epoch) if shuffle else document


def shuffled(document: Document, seed: int, epoch: int) -> Document:
    """Return a document whose HuBERT and pitch runs are permuted within each utterance, each by itself.

    Runs and not frames are permuted, so deduplicated sequences keep their lengths and their counts of each id (save
    where two equal runs meet): what is lost is order alone. Another epoch has another order, so there is none to learn
    by heart.
    """
    segments = []
    for segment in document.segments:
        rng = rng_for(seed, "shuffle", epoch, segment.key)
        changed = {slot: _permuted_runs(ids, rng) for slot, ids in segment.streams.items() if slot != "style"}
        segments.append(replace(segment, streams={**segment.streams, **changed}))
    return replace(document, segments=tuple(segments))


def evaluation_blocks(
    documents: Sequence[Document], sequence: SequenceSection, vocabulary: Vocabulary, seed: int
) -> list[Block]:
    """Return the blocks of a few draws of some documents, the same for every run with these arguments."""
    packer = Packer(sequence.context, vocabulary)
    blocks: list[Block] = []
    for draw in range(EVALUATION_DRAWS):
        for document in documents:
            tokens = draw_sequence(document, sequence, vocabulary, seed=seed, epoch=draw)
            at = packer.add(tokens, 0)
            while at < len(tokens.ids):
                if len(blocks) == MAX_EVALUATION_BLOCKS:
                    return blocks
                blocks.append(block_of(packer.take(), sequence.context))
                at = packer.add(tokens, at)
    if packer.used:
        blocks.append(block_of(packer.take(), sequence.context))
    return blocks[:MAX_EVALUATION_BLOCKS]


def blank(block: Block) -> Block:
    """Return a block that adds nothing to a loss, for a process that would otherwise have one fewer."""
    return {**block, "labels": np.full_like(block["labels"], IGNORED)}


def _permuted_runs(ids: npt.NDArray[np.uint16], rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    runs = np.split(ids, np.flatnonzero(np.diff(ids)) + 1)
    return np.concatenate([runs[i] for i in rng.permutation(len(runs))])


def load_mixture(path: Path) -> Mixture:
    """Read a mixture: a YAML list of sources.

    Raises:
        ValueError: in one line, if the file is missing or no mixture.
    """
    try:
        return Mixture.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; a mixture is a YAML list of sources") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {where}: {first['msg']}") from None
