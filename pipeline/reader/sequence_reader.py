"""The reader: shards to packed token blocks, drawn anew each epoch, resumable at any block."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.dataset import Dataset
from pipeline.reader.draw import draw_sequence
from pipeline.reader.packing import Block, Packer
from schemas.canonical import rng_for
from schemas.contract import UnitContract
from schemas.records import Artifact
from schemas.sequence import SequenceSection
from stages.documents import Document, documents_from
from stages.interleave import STREAM_SLOTS
from stages.tokenizer import load_sentencepiece
from stages.vocabulary import Vocabulary

STATE_VERSION = 1

Prepare = Callable[[Document, int], Document | None]
"""Applied to each document of an epoch before its draw; None leaves the document out."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next block begins: epoch, place in its order of shards, place in that shard's order, token."""

    epoch: int = 0
    shard: int = 0
    document: int = 0
    token: int = 0


class SequenceReader:
    """Packed blocks of one or several datasets for one rank.

    The order of shards and of the documents within a shard is shuffled by (seed, epoch); a draw depends on (seed,
    epoch, key of the document) alone. The document at place j of the shard at place s of the epoch belongs to rank
    (s + j) mod world_size: any world size divides the documents without overlap or hole. Each rank reads every shard;
    that is the price until shards carry an index of documents.

    Iterating goes on from where the reader stands. At every block the partial block is empty, so the whole state is
    four integers, and resuming reads one shard and redraws one document.
    """

    def __init__(
        self,
        datasets: str | Path | Dataset | Sequence[str | Path | Dataset],
        sequence: SequenceSection,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        epochs: int | None = None,
        last: Literal["pad", "drop"] = "pad",
        vocabulary: Vocabulary | None = None,
        prepare: Prepare | None = None,
    ) -> None:
        """Open the datasets.

        Args:
            datasets: one or several; all must have been made with the same unit contracts and tokenizer.
            sequence: policy, streams and context.
            seed: of the order and of the draws.
            rank: of this reader, from 0.
            world_size: number of readers that share the documents.
            epochs: stop after this many; None goes on for ever. Blocks run on from one epoch into the next.
            last: what becomes of the last block, if it is not full.
            vocabulary: replaces the one that the dataset's tokenizer gives.
            prepare: see `Prepare`.

        Raises:
            BadDataset: if a folder is no finished dataset.
            ContractMismatch: if two datasets do not agree.
            ValueError: if the rank lies outside the world, or the datasets lack a stream that `sequence` needs.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
        given = [datasets] if isinstance(datasets, str | Path | Dataset) else list(datasets)
        self._datasets = [item if isinstance(item, Dataset) else Dataset.open(str(item)) for item in given]
        self._contracts = _common_contracts(self._datasets)
        if missing := sorted(set(STREAM_SLOTS[sequence.stream]) - set(self._contracts)):
            raise ValueError(f"stream {sequence.stream!r} needs {missing}; the dataset has {sorted(self._contracts)}")
        self._shards = [(dataset, split) for dataset in self._datasets for split in range(dataset.num_splits)]
        self._sequence, self._seed, self._rank, self._world_size = sequence, seed, rank, world_size
        self._epochs, self._last, self._prepare = epochs, last, prepare
        self._vocabulary = vocabulary or vocabulary_of(self._datasets[0])
        self._cursor = Cursor()

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    @property
    def epoch(self) -> int:
        """The epoch in which the next block begins."""
        return self._cursor.epoch

    def __iter__(self) -> Iterator[Block]:
        packer = Packer(self._sequence.context, self._vocabulary)
        for cursor, document in self._documents(self._cursor):
            tokens = draw_sequence(document, self._sequence, self._vocabulary, seed=self._seed, epoch=cursor.epoch)
            token = packer.add(tokens, cursor.token)
            while token < len(tokens.ids):
                self._cursor = Cursor(cursor.epoch, cursor.shard, cursor.document, token)
                yield packer.take()
                token = packer.add(tokens, token)
        if packer.used and (self._last == "pad" or packer.room == 0):
            self._cursor = Cursor(self._epochs or 0)
            yield packer.take()

    def documents(self, epoch: int) -> Iterator[Document]:
        """Yield this rank's documents of an epoch, in order."""
        for place in range(len(self._shards)):
            for _, document in self._shard_documents(epoch, place):
                yield document

    def state_dict(self) -> dict[str, Any]:
        """Return where the reader stands, after the last block it gave, as plain JSON values."""
        return {"version": STATE_VERSION, "cursor": asdict(self._cursor), "of": self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where another reader of the same data, settings and rank stood.

        Raises:
            ValueError: naming each setting that differs.
        """
        if state["version"] != STATE_VERSION:
            raise ValueError(f"reader state of version {state['version']}, expected {STATE_VERSION}")
        mine, theirs = self._identity(), state["of"]
        if differs := [f"{k}: {theirs.get(k)!r} then, {mine[k]!r} now" for k in mine if mine[k] != theirs.get(k)]:
            raise ValueError("the reader's state belongs to another run: " + "; ".join(differs))
        self._cursor = Cursor(**state["cursor"])

    def _identity(self) -> dict[str, Any]:
        return {
            "datasets": [dataset.info.get("fingerprint", "") for dataset in self._datasets],
            "splits": [dataset.num_splits for dataset in self._datasets],
            "sequence": self._sequence.model_dump(mode="json"),
            "seed": self._seed,
            "rank": self._rank,
            "world_size": self._world_size,
        }

    def _documents(self, start: Cursor) -> Iterator[tuple[Cursor, Document]]:
        """Yield this rank's documents from a cursor on, each with its own; only the first has a token other than 0."""
        while self._epochs is None or start.epoch < self._epochs:
            found = (start.shard, start.document) != (0, 0)
            for place in range(start.shard, len(self._shards)):
                first = start.document if place == start.shard else 0
                for j, document in self._shard_documents(start.epoch, place, first):
                    found = True
                    here = (place, j) == (start.shard, start.document)
                    yield Cursor(start.epoch, place, j, start.token if here else 0), document
            if not found and self._epochs is None:
                raise ValueError(f"rank {self._rank} of {self._world_size} gets no document: too few documents")
            start = Cursor(start.epoch + 1)

    def _shard_documents(self, epoch: int, place: int, first: int = 0) -> Iterator[tuple[int, Document]]:
        number = int(rng_for(self._seed, "shards", epoch).permutation(len(self._shards))[place])
        dataset, split = self._shards[number]
        documents = list(documents_from(dataset.records(split), self._contracts, join=self._sequence.join_recordings))
        order = rng_for(self._seed, "documents", epoch, number).permutation(len(documents))
        for j in range(first, len(documents)):
            if (place + j) % self._world_size != self._rank:
                continue
            document: Document | None = documents[order[j]]
            if self._prepare is not None and document is not None:
                document = self._prepare(document, epoch)
            if document is not None:
                yield j, document


def vocabulary_of(dataset: Dataset) -> Vocabulary:
    """Return the vocabulary that a dataset's tokenizer and unit contracts give.

    Raises:
        ValueError: if the tokenizer's file is not the one that the dataset was built with.
    """
    artifact = Artifact(path=dataset.artifact("tokenizer"), sha256=dataset.info["artifacts"]["tokenizer"]["sha256"])
    return Vocabulary.from_contracts(load_sentencepiece(artifact), dataset.contracts)


def _common_contracts(datasets: Sequence[Dataset]) -> dict[str, UnitContract]:
    if not datasets:
        raise ValueError("no dataset was given")
    first = datasets[0]
    for other in datasets[1:]:
        if set(first.contracts) != set(other.contracts):
            raise ValueError(
                f"{first.root} has the streams {sorted(first.contracts)}, {other.root} has {sorted(other.contracts)}"
            )
        for slot, contract in first.contracts.items():
            contract.require_same(other.contracts[slot], here=first.root, there=other.root)
        ours, theirs = (item.info["artifacts"]["tokenizer"]["sha256"] for item in (first, other))
        if ours != theirs:
            raise ValueError(f"{first.root} and {other.root} have different tokenizers")
    return first.contracts
