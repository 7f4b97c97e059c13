"""Units datasets as a source: documents by random access, drawn and encoded as they are read."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.dataset import BadDataset, Dataset
from pipeline.reader.draw import draw_document
from pipeline.reader.shard_cache import Committed, ShardCache, open_committed
from pipeline.reader.shard_file import ShardFile, committed, damaged, whole
from pipeline.reader.source import BadShard, Deferred, Outcome
from pipeline.storage import is_remote
from schemas.contract import UnitContract
from schemas.sequence import Policy, SequenceSection
from schemas.unit_record import UnitRecord
from stages.documents import Document, document_from
from stages.encode import Encoder
from stages.interleave import STREAM_SLOTS, Span
from stages.vocabulary import Vocabulary

Prepare = Callable[[Document, int], Document | None]
"""Applied to each document of an epoch before its draw; None leaves the document out."""

Drawn = tuple["UnitsShard", Document, Sequence[Span]]
"""A document of a shard, and its spans."""

FILES = (".tar", ".tar.idx", ".stats.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How records become tokens.

    Attributes:
        contracts: of the streams that the sequence section needs.
        wanted: extensions of the members that are read.
    """

    sequence: SequenceSection
    contracts: Mapping[str, UnitContract]
    wanted: frozenset[str]
    encoder: Encoder
    seed: int
    prepare: Prepare | None

    def finish(self, drawn: Sequence[Drawn]) -> list[Outcome]:
        """Encode documents together; where one of them is damaged, one by one."""
        try:
            return list(self.encoder.encode_all([(document, spans) for _, document, spans in drawn]))
        except ValueError as error:
            if len(drawn) == 1:
                return [drawn[0][0].damaged(error)]
        return [outcome for one in drawn for outcome in self.finish([one])]


class UnitsSource:
    """The documents of a units dataset: recordings, or utterances where `join_recordings` is off.

    Only the JSON members and the streams that the sequence section needs are read; F0 and audio are passed over.
    """

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
        cache: ShardCache | None = None,
    ) -> None:
        """Set up; no shard is opened.

        Args:
            dataset: what is read.
            sequence: how.
            vocabulary: with the dataset's codebooks.
            seed: of the draws.
            policy: in place of the sequence section's.
            prepare: see `Prepare`.
            verify: hash each shard as it is opened, which reads it once; those from object stores always are.
            cache: where files of an object store are kept; None: the default one.
        """
        self._dataset, self._vocabulary, self._verify = dataset, vocabulary, verify
        self._sequence = sequence if policy is None else sequence.model_copy(update={"policy": policy})
        self._cache = (cache or ShardCache()) if is_remote(dataset.root) else None
        slots = STREAM_SLOTS[sequence.stream]
        self._how = _How(
            sequence=self._sequence,
            contracts={slot: dataset.contracts[slot] for slot in slots},
            wanted=frozenset({"json", *(f"{slot}.npy" for slot in slots)}),
            encoder=Encoder(self._sequence, vocabulary),
            seed=seed,
            prepare=prepare,
        )

    @property
    def name(self) -> str:
        return self._dataset.root

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Documents of each shard."""
        column = "documents" if self._sequence.join_recordings else "records"
        return np.asarray(self._dataset.shard_table[column].to_numpy(), dtype=np.int64)

    def identity(self) -> dict[str, Any]:
        """Return what decides the documents and their draws, save the seed; no path is part of it."""
        return {
            "fingerprint": self._dataset.info["fingerprint"],
            "shards": self._dataset.info["shards"]["sha256"],  # which the removal of utterances changes
            "splits": self._dataset.num_splits,
            "sequence": self._sequence.model_dump(mode="json", exclude={"context", "vocabulary"}),
            "vocabulary": self._vocabulary.describe(),
        }

    def open(self, shard: int) -> "UnitsShard":
        """Open a shard.

        Raises:
            BadShard: if a file of it is missing or is not what its commit record says.
            OSError: if an object store failed.
        """
        if self._cache is not None:
            self._cache.take(self._dataset.shard(shard))
        commit, (tar, index, stats) = self._committed(shard)
        with open_committed(tar, self._cache) as file:
            data = ShardFile.open(tar.url, file, self._whole(index), commit, verify=self._verify)
        try:
            if self._sequence.join_recordings:
                starts = _starts(stats, self._whole(stats), len(data), int(self.sizes[shard]))
            elif len(data) != int(self.sizes[shard]):
                raise damaged(tar.url, f"it holds {len(data)} records, shards.parquet says {int(self.sizes[shard])}")
            else:
                starts = list(range(len(data) + 1))
        except BaseException:
            data.close()
            raise
        return UnitsShard(tar.url, data, starts, self._how)

    def expect(self, shards: Sequence[int]) -> None:
        """Fetch shards of an object store ahead."""
        if self._cache is not None:
            self._cache.expect([(self._dataset.shard(n), partial(self._files, n)) for n in shards])

    def _files(self, shard: int) -> list[Committed]:
        return self._committed(shard)[1]

    def _committed(self, shard: int) -> tuple[dict[str, Any], list[Committed]]:
        """Return a shard's commit record, and its tar, index and statistics."""
        stem = self._dataset.shard(shard).removesuffix(".tar")
        try:
            commit = self._dataset.commit(shard)
        except BadDataset as error:
            raise BadShard(str(error)) from error
        return commit, [committed(commit, stem + extension) for extension in FILES]

    def _whole(self, file: Committed) -> bytes:
        with open_committed(file, self._cache) as opened:
            return whole(file, opened.read())


class UnitsShard:
    """An open shard of a units dataset.

    `starts` are the first record of each document, and the number of records.
    """

    def __init__(self, url: str, data: ShardFile, starts: Sequence[int], how: _How) -> None:
        self._url, self._data, self._starts, self._how = url, data, starts, how

    def item(self, index: int, epoch: int) -> Deferred | None:
        """Return a document that is to be encoded; None if it has no words or is left out.

        Raises:
            BadShard: naming the record, if it is damaged.
        """
        how, records = self._how, range(self._starts[index], self._starts[index + 1])
        try:
            found = [UnitRecord.from_members(*self._data.members(i, how.wanted)) for i in records]
            document: Document | None = document_from(found, how.contracts)
        except BadShard:
            raise
        except ValueError as error:
            raise self.damaged(error) from error
        if document is not None and document.words and how.prepare is not None:
            document = how.prepare(document, epoch)
        if document is None or not document.words:
            return None
        spans = draw_document(document, how.sequence, seed=how.seed, epoch=epoch)
        return Deferred((self, document, spans), how.finish)

    def close(self) -> None:
        self._data.close()

    def damaged(self, error: ValueError) -> BadShard:
        return BadShard(
            f"{self._url}: {error}; copy the shard again, or delete its commit record and run the build again"
        )


def _starts(stats: Committed, data: bytes, records: int, documents: int) -> list[int]:
    """Return the first record of each document of a shard, and the number of records."""
    try:
        table = pq.read_table(io.BytesIO(data), columns=["recording", "index"], use_threads=False)
        starts = document_starts(table["recording"].to_pylist(), table["index"].to_numpy())
    except (pa.ArrowException, KeyError) as error:
        raise damaged(stats.url, "it is no Parquet file with the columns recording and index") from error
    if starts[-1] != records or len(starts) - 1 != documents:
        found = f"{starts[-1]} records in {len(starts) - 1} documents"
        raise damaged(stats.url, f"it tells of {found}, the dataset of {records} in {documents}")
    return starts


def document_starts(recordings: Sequence[str], indices: npt.NDArray[np.int64]) -> list[int]:
    """Return where consecutive manifest rows of one recording begin, and the number of rows."""
    names = np.array(recordings, dtype=object)
    begins = np.ones(len(names) + 1, dtype=np.bool_)
    begins[1:-1] = (names[1:] != names[:-1]) | (indices[1:] != indices[:-1] + 1)
    return begins.nonzero()[0].tolist()
