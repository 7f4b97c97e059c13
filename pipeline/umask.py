"""What we write is never writable by everybody, whatever umask we were started with."""

import os
from pathlib import Path

WORLD_WRITABLE = 0o002


def keep_world_from_writing() -> None:
    """Add write permission for others to what this process and those that it starts take from the modes of new files.

    Everything else of the umask stays: groups that share a folder go on sharing it.
    """
    now = _umask()
    if not now & WORLD_WRITABLE:
        os.umask(now | WORLD_WRITABLE)


def _umask() -> int:
    """Return the umask; the call that returns it would change it, for the files of other threads too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    now = os.umask(0o077)
    os.umask(now)
    return now
