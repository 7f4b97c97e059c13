"""Whose turn a split is: the largest first, and each worker's next one known while it works on the last."""

from collections import deque
from collections.abc import Hashable, Iterable


class Turns:
    """Hands splits to workers. Not thread-safe.

    A worker's next split is kept for it while there are others; at the end whoever is idle takes it.
    """

    def __init__(self, splits: Iterable[int]) -> None:
        self._waiting = deque(splits)
        self._kept: dict[Hashable, int] = {}

    def take(self, worker: Hashable) -> tuple[int, int | None] | None:
        """Return the split that a worker is to run and the one that is kept for it; None where nothing is left."""
        split = self._kept.pop(worker, None)
        if split is None:
            if self._waiting:
                split = self._waiting.popleft()
            elif self._kept:
                split = self._kept.pop(next(iter(self._kept)))
            else:
                return None
        if self._waiting:
            self._kept[worker] = self._waiting.popleft()
        return split, self._kept.get(worker)

    def put_back(self, split: int) -> None:
        """Give back a split that was lost; it comes last."""
        self._waiting.append(split)

    def __bool__(self) -> bool:
        return bool(self._waiting or self._kept)
