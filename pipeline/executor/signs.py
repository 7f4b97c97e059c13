"""Signs of life: what a worker writes so that the driver sees that its child is watched.

That the child makes progress is the worker's to see, which knows how long each step of it may take.
"""

import time
import uuid
from contextlib import suppress

from pipeline.storage import is_remote, join, list_states, publish_bytes, remove
from pipeline.stores import Store

LOCAL_SECONDS = 1.0
REMOTE_SECONDS = 60.0


class Heart:
    """One small file per worker, written again while it waits for its child: each second, on a store each minute."""

    def __init__(self, root: str) -> None:
        self._path = join(root, "work", "alive", uuid.uuid4().hex)
        self._seconds = REMOTE_SECONDS if is_remote(root) else LOCAL_SECONDS
        self._last = 0.0
        self._beats = 0

    def beat(self) -> None:
        now = time.monotonic()
        if now - self._last > self._seconds:
            self._last = now
            self._beats += 1
            with suppress(OSError):  # nothing depends on a single one
                self._publish(str(self._beats).encode())

    def _publish(self, data: bytes) -> None:
        if is_remote(self._path):
            Store(self._path).put_now(data)  # without patience: who beats watches over limits
        else:
            publish_bytes(data, self._path)

    def stop(self) -> None:
        if self._beats:
            with suppress(OSError):
                remove(self._path)


def beats(root: str) -> dict[str, str]:
    """Return the state of every worker's file; it changes with each beat."""
    return list_states(join(root, "work", "alive"))
