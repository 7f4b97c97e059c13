"""The journal: which keys a child has in its hands, readable after it was killed.

One small file, rewritten in place with a single pwrite, never fsynced: it lives in the page cache and so survives the
death of the process (not of the machine, which loses the worker too).
"""

import json
import os
import threading
from pathlib import Path
from typing import NamedTuple

SIZE = 65_536


class InFlight(NamedTuple):
    """Attributes: a number that grows with every entry, and the keys being worked on."""

    sequence: int
    keys: tuple[str, ...]


class Journal:
    """The child's side."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._sequence = 0
        self._hands: dict[str, list[str]] = {}
        self._lock = threading.Lock()

    def enter(self, keys: list[str], hand: str = "main") -> None:
        """Note what one thread (`hand`) is about to work on; an empty list says that it has nothing."""
        with self._lock:
            self._sequence += 1
            self._hands[hand] = keys
            held = [key for hand in sorted(self._hands) for key in self._hands[hand]]
            body = json.dumps([self._sequence, held]).encode()
            if len(body) > SIZE:
                body = json.dumps([self._sequence, held[:1]]).encode()
            os.pwrite(self._descriptor, body.ljust(SIZE), 0)


def read_journal(path: Path) -> InFlight:
    """The parent's side: what was last noted, or nothing."""
    try:
        sequence, keys = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return InFlight(0, ())
    return InFlight(sequence, tuple(keys))
