"""Interim source of units datasets: whole shards, decoded."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pipeline.dataset import Dataset
from pipeline.reader.draw import draw_sequence
from pipeline.reader.source import Shard
from schemas.sequence import Policy, SequenceSection
from stages.documents import Document, documents_from
from stages.vocabulary import TokenSequence, Vocabulary

Prepare = Callable[[Document, int], Document | None]


class UnitsSource:
    def __init__(
        self,
        dataset: Dataset,
        sequence: SequenceSection,
        vocabulary: Vocabulary,
        *,
        seed: int,
        policy: Policy | None = None,
        prepare: Prepare | None = None,
        verify: bool = False,
        cache: Any = None,
    ) -> None:
        self.dataset, self.vocabulary, self.seed, self.prepare = dataset, vocabulary, seed, prepare
        self.sequence = sequence if policy is None else sequence.model_copy(update={"policy": policy})

    @property
    def name(self) -> str:
        return self.dataset.root

    @property
    def sizes(self) -> Any:
        column = "documents" if self.sequence.join_recordings else "records"
        return self.dataset.shard_table[column].to_numpy().astype(np.int64)

    def identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.dataset.info["fingerprint"],
            "splits": self.dataset.num_splits,
            "sequence": self.sequence.model_dump(mode="json", exclude={"context"}),
        }

    def open(self, shard: int) -> Shard:
        return _Shard(self, shard)

    def expect(self, shards: Sequence[int]) -> None:
        pass


class _Shard:
    def __init__(self, source: UnitsSource, shard: int) -> None:
        records = source.dataset.records(shard)
        self.documents = list(documents_from(records, source.dataset.contracts, join=source.sequence.join_recordings))
        self.source = source

    def item(self, index: int, epoch: int) -> TokenSequence | None:
        source, document = self.source, self.documents[index]
        if not document.words:
            return None
        if source.prepare is not None:
            prepared = source.prepare(document, epoch)
            if prepared is None:
                return None
            document = prepared
        return draw_sequence(document, source.sequence, source.vocabulary, seed=source.seed, epoch=epoch)

    def close(self) -> None:
        pass
