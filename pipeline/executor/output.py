"""What a child prints: read by its worker, so that gigabytes go nowhere, and the last lines can be shown."""

import fcntl
import os
import threading
from contextlib import suppress

KEPT_BYTES = 2**14
CHUNK = 2**20


class Output:
    """A pipe and the thread that empties it. It is left to fill up, and the child to wait, once too much came.

    Attributes:
        theirs: the writing end, for the child.
    """

    def __init__(self, max_bytes: int) -> None:
        self._ours, self.theirs = os.pipe()
        with suppress(OSError):  # a small pipe is slower, no more: an ordinary user may have 64 large ones in all
            fcntl.fcntl(self._ours, fcntl.F_SETPIPE_SZ, CHUNK)
        self._max, self._count, self._tail = max_bytes, 0, b""
        self._go_on = threading.Event()
        self._thread = threading.Thread(target=self._read, name="output", daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """Close our copy of the writing end: now the pipe ends with the child."""
        os.close(self.theirs)

    @property
    def too_much(self) -> bool:
        return self._count > self._max

    def forget(self) -> None:
        """Count from zero again."""
        self._count = 0
        self._go_on.set()

    def tail(self) -> str:
        """Return the last lines, in one line."""
        return " | ".join(self._tail[-2000:].decode("utf-8", "replace").split("\n")[-12:])

    def close(self) -> None:
        """Wait for the end, which comes with the death of all that could write."""
        self._max = 2**63
        self._go_on.set()
        self._thread.join(timeout=5)

    def _read(self) -> None:
        while data := os.read(self._ours, CHUNK):
            self._tail = (self._tail + data)[-KEPT_BYTES:]
            self._count += len(data)
            while self.too_much:
                self._go_on.wait()
                self._go_on.clear()
        os.close(self._ours)
