"""The reader as a torch IterableDataset. The only module of the reader that needs torch."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.reader.sequence_reader import STATE_FORMAT, ReaderState, SequenceReader

Tensors = dict[str, torch.Tensor]


class OpenReader(Protocol):
    """Opens the reader of one rank; `functools.partial(open_reader, path, sequence, seed=0)` is one."""

    def __call__(self, *, rank: int, world_size: int, streams: int) -> SequenceReader: ...


class TorchSequences(IterableDataset[Tensors]):
    """Blocks as tensors; `collate` makes batches of them.

    A rank's streams are divided among the workers of its loader, so that the loader, which takes from its workers in
    turn, gives the blocks in the order in which one process would, with `batch_size=None`; make batches outside of it,
    or let the loader make them with `collate`, of the blocks of one worker each.

    One iteration of a loader is the whole run: with workers, iterating again begins where the first iteration began,
    because each iteration starts workers of its own. `state_dict` here is that of the reader in this process, which
    under a loader with workers reads nothing: save the loader's (torchdata's StatefulDataLoader with
    `snapshot_every_n_steps=1`), in which `reader_states` finds the workers'.
    """

    def __init__(
        self, open_reader: OpenReader, *, rank: int = 0, world_size: int = 1, streams: int | None = None
    ) -> None:
        """Set up; nothing is opened before the first block.

        Args:
            open_reader: see `OpenReader`.
            rank: of this process in training.
            world_size: processes in training.
            streams: see `SequenceReader`; None: one for each worker of each rank. With several workers a multiple of
                all workers of all ranks.
        """
        self._open, self._rank, self._world_size, self._streams = open_reader, rank, world_size, streams
        self._reader: SequenceReader | None = None
        self._given: Sequence[ReaderState] | None = None
        self._worker: tuple[int, int, int] | None = None

    def __iter__(self) -> Iterator[Tensors]:
        for block in self._here():
            yield {name: torch.from_numpy(array) for name, array in block.items()}

    def state_dict(self) -> ReaderState:
        return self._here().state_dict()

    def load_state_dict(self, state: ReaderState | Sequence[ReaderState]) -> None:
        """See `SequenceReader.load_state_dict`; call it before iteration begins, so that workers get it."""
        self._given = [state] if isinstance(state, Mapping) else list(state)
        if self._reader is not None:
            self._reader.load_state_dict(self._given)

    def _here(self) -> SequenceReader:
        worker = get_worker_info()
        here = None if worker is None else (worker.id, worker.num_workers, worker.seed)
        if here != self._worker:
            # A worker inherits this object as it was in its parent, whose streams are not its own.
            self._reader, self._worker = None, here
        if self._reader is None:
            workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
            consumers = self._world_size * workers
            streams = consumers if self._streams is None else self._streams
            if streams % consumers and workers > 1:
                raise ValueError(
                    f"streams must be a multiple of {self._world_size} ranks x {workers} workers, got {streams}"
                )
            # Worker j of rank r: the j-th of every `workers` streams of its rank.
            self._reader = self._open(
                rank=self._rank + number * self._world_size, world_size=consumers, streams=streams
            )
            if self._given is not None:
                self._reader.load_state_dict(self._given)
        return self._reader


def collate(blocks: Sequence[Mapping[str, torch.Tensor]]) -> Tensors:
    """Stack blocks to (batch, context); `cu_seqlens` becomes that of the batch laid end to end."""
    context = len(blocks[0]["input_ids"])
    batch = {name: torch.stack([block[name] for block in blocks]) for name in blocks[0] if name != "cu_seqlens"}
    edges = [block["cu_seqlens"][int(i > 0) :] + i * context for i, block in enumerate(blocks)]
    return {**batch, "cu_seqlens": torch.cat(edges)}


def reader_states(saved: Any) -> list[ReaderState]:
    """Return the reader states inside anything that a loader or a trainer saved, in order.

    Raises:
        ValueError: if a loader's snapshot is older than the blocks it gave.
    """
    if isinstance(saved, Mapping):
        if saved.get("_steps_since_snapshot"):
            raise ValueError("the loader's snapshot is older than its last block; use snapshot_every_n_steps=1")
        if saved.get("format") == STATE_FORMAT:
            return [dict(saved)]
        return [state for value in saved.values() for state in reader_states(value)]
    if isinstance(saved, list | tuple):
        return [state for value in saved for state in reader_states(value)]
    return []
