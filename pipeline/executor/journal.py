"""The journal: which keys a child has in its hands, readable after it was killed.

One small file, rewritten in place with a single pwrite, never fsynced: it lives in the page cache and so survives the
death of the process (not of the machine, which loses the worker too).
"""

import json
import os
import threading
from pathlib import Path
from typing import NamedTuple


class InFlight(NamedTuple):
    """Attributes: a number that grows with every entry, and the keys being worked on, by split."""

    sequence: int
    keys: dict[int, tuple[str, ...]]

    @property
    def total(self) -> int:
        return sum(map(len, self.keys.values()))


class Journal:
    """The child's side. Several threads share it; each is a hand that holds keys of one split."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._owner = os.getpid()
        self._sequence = self._written = 0
        self._hands: dict[str, tuple[int, list[str]]] = {}
        self._lock = threading.Lock()

    def enter(self, split: int, keys: list[str], hand: str) -> None:
        """Note what one thread is about to work on; an empty list says that it has nothing, and is a sign of life.

        A process that a record forked ends here: it must not go on with our work beside us.
        """
        if os.getpid() != self._owner:
            os._exit(1)
        with self._lock:
            self._sequence += 1
            self._hands[hand] = (split, keys)
            held = [self._hands[hand] for hand in sorted(self._hands) if self._hands[hand][1]]
            body = json.dumps([self._sequence, held]).encode()
            self._written = max(self._written, len(body))
            os.pwrite(self._descriptor, body.ljust(self._written), 0)


def read_journal(path: Path) -> InFlight:
    """The parent's side: what was last noted, or nothing."""
    try:
        sequence, held = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return InFlight(0, {})
    keys: dict[int, tuple[str, ...]] = {}
    for split, names in held:
        keys[split] = keys.get(split, ()) + tuple(names)
    return InFlight(sequence, keys)
