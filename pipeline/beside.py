"""Temporary files beside their final names: whoever finds one whose writer is dead may remove it.

Its writer holds a lock on it from its first byte to its final name; the kernel releases it with the writer.
"""

import fcntl
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_FORM = re.compile(r".\.tmp-[0-9a-f]{32}")
_TRIES = 10
_WAIT_SECONDS = 0.05
"""A writer that was killed loses its locks a moment after it is gone from sight."""


@contextmanager
def beside(final: str) -> Iterator[IO[bytes]]:
    """Give a file to write; it appears under its local final name, whole and synced, unless the body raises."""
    path, descriptor = _made_and_locked(final)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
            os.replace(path, final)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    sync_folder(os.path.dirname(final))


def sync_folder(path: str) -> None:
    """Let the names in a folder outlive a loss of power."""
    descriptor = os.open(path or ".", os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _made_and_locked(final: str) -> tuple[Path, int]:
    while True:
        path = Path(f"{final}.tmp-{uuid.uuid4().hex}")
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: then nobody else can take it either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return path, descriptor
        os.close(descriptor)  # somebody took it for abandoned before it had its lock


def remove_abandoned_files(root: str) -> None:
    """Remove temporary files of the dead from a local dataset folder, its folders and those of `work/`."""
    top = Path(root)
    for folder in (top, *_folders(top), *_folders(top / "work")):
        for path in folder.glob("*.tmp-*"):
            if _FORM.search(path.name[-38:]):
                _remove_unless_held(path)


def _folders(top: Path) -> list[Path]:
    try:
        with os.scandir(top) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _remove_unless_held(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone under its final name, or another user's
        return
    try:
        for _ in range(_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_WAIT_SECONDS)
                continue
            with suppress(FileNotFoundError):  # it was published just now, and the lock with it
                path.unlink()
            return
    except OSError:  # no locks here
        return
    finally:
        os.close(descriptor)
