"""The reader as a torch IterableDataset. The only module of the reader that needs torch."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.reader.sequence_reader import SequenceReader


class OpenReader(Protocol):
    """Opens the reader of one rank; `functools.partial(SequenceReader, path, sequence, seed=0)` is one."""

    def __call__(self, *, rank: int, world_size: int) -> SequenceReader: ...


class TorchSequences(IterableDataset[dict[str, torch.Tensor]]):
    """Blocks as tensors. Loader workers divide the rank's share further, so no document comes twice.

    `state_dict` and `load_state_dict` are those of the reader in this process: with loader workers each worker's copy
    has a state of its own, which a loader that saves worker states (torchdata's StatefulDataLoader) keeps.
    """

    def __init__(self, open_reader: OpenReader, *, rank: int = 0, world_size: int = 1) -> None:
        self._open, self._rank, self._world_size = open_reader, rank, world_size
        self._reader: SequenceReader | None = None

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for block in self._here():
            yield {name: torch.from_numpy(array) for name, array in block.items()}

    def state_dict(self) -> dict[str, Any]:
        return self._here().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._here().load_state_dict(state)

    def _here(self) -> SequenceReader:
        if self._reader is None:
            worker = get_worker_info()
            workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
            self._reader = self._open(rank=self._rank * workers + number, world_size=self._world_size * workers)
        return self._reader
