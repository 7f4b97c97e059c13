"""One process at a time works in a dataset's folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pipeline.beside import remove_abandoned_files
from pipeline.storage import is_remote

_HELD: ContextVar[frozenset[str]] = ContextVar("_HELD", default=frozenset())


class FolderInUse(RuntimeError):
    """Another run works in the same folder."""


@contextmanager
def locked(root: str) -> Iterator[None]:
    """Hold the folder's lock; the kernel releases it when we end, however we end. An object store has no locks.

    Who holds it takes it again for free, as a command does for each of its steps; another thread is somebody else.
    Temporary files that the dead left beside final names are removed first.

    Raises:
        FolderInUse: if another process works in the folder.
    """
    if is_remote(root) or (real := os.path.realpath(root)) in _HELD.get():
        yield
        return
    folder = Path(root) / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"{root} is in use by another run; wait for it to end") from None
        remove_abandoned_files(root)
        before = _HELD.set(_HELD.get() | {real})
        try:
            yield
        finally:
            _HELD.reset(before)
