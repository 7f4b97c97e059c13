"""Temporary folders that know their owner: whoever finds one whose owner is dead may remove it."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "ilw-"
"""Short, because Ray keeps sockets below: the path of a socket may have 107 characters."""
UNBORN = ".ilw-"


class OwnedFolder:
    """A folder in the system's temporary folder. The lock on it ends with us, however we end."""

    def __init__(self) -> None:
        remove_abandoned()
        while not self._born(Path(tempfile.mkdtemp(prefix=UNBORN))):
            pass

    def _born(self, made: Path) -> bool:
        """Lock a new folder and give it its name; return False where another process took it for abandoned before."""
        self.path = made.with_name(made.name.removeprefix("."))
        try:
            self._descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(made, self.path)  # with a lock from its first moment under this name
        except (BlockingIOError, FileNotFoundError):
            os.close(self._descriptor)
            return False
        return True

    def empty(self) -> None:
        """Remove what lies in it."""
        for entry in os.scandir(self.path):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._descriptor)


def remove_abandoned() -> None:
    """Remove folders of ours whose owner is dead."""
    for entry in os.scandir(tempfile.gettempdir()):
        if not entry.name.startswith((PREFIX, UNBORN)):
            continue
        try:
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # no folder, not ours to read, or gone
            continue
        try:
            if os.fstat(descriptor).st_uid == os.getuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(entry.path, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)
