"""One process at a time works in a dataset's folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.drive import FolderInUse
from pipeline.storage import is_remote


@contextmanager
def locked(root: str) -> Iterator[None]:
    """Hold the lock that a build holds too; the kernel releases it when we end. An object store has no locks.

    Raises:
        FolderInUse: if another process works in the folder.
    """
    if is_remote(root):
        yield
        return
    folder = Path(root) / "work"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(f"{root} is in use by another run; wait for it to end") from None
        yield
