"""What an engine prints, to a bound: Ray's handler of signals, for one, prints without end where memory is short.

Of each start the first `LOG_BYTES` go into `work/logs/engine.log`; what follows is dropped and counted. A log that has
so much already becomes `engine.log.1` first. With an object store nothing is kept but the last lines, in memory.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from pipeline.storage import is_remote
from schemas.urls import without_secrets

LOG_BYTES = 2**23
READ_BYTES, TOLD_LINES, TOLD_CHARS = 2**16, 12, 2000
"""Most of the end that is kept, and shown, where there is no file."""
PIPE_BYTES = 2**20
WAIT_SECONDS = 5.0


class EngineLog:
    """A pipe that is emptied whenever `take` is called; an engine that prints more meanwhile waits.

    Attributes:
        theirs: the writing end, for the engine.
        path: the file, "" with an object store.
    """

    def __init__(self, root: str) -> None:
        """Make the file, for appending.

        Raises:
            OSError: if it cannot be made.
        """
        self.path = "" if is_remote(root) else _made(Path(root) / "work" / "logs" / "engine.log")
        self._ours, self.theirs = os.pipe()
        os.set_blocking(self._ours, False)
        with suppress(OSError):  # a small pipe is slower, no more
            fcntl.fcntl(self._ours, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._left, self._dropped, self._tail, self._cut = LOG_BYTES, 0, b"", False

    def handed_over(self) -> None:
        """Close our copy of the writing end: now the pipe ends with the last process that can write."""
        os.close(self.theirs)

    def take(self) -> bool:
        """Take what is there; return whether more may come."""
        try:
            data = os.read(self._ours, PIPE_BYTES)
        except BlockingIOError:
            return True
        self._cut |= len(self._tail) + len(data) > READ_BYTES
        self._tail = (self._tail + data)[-READ_BYTES:]
        kept = data[: self._left]
        self._left -= len(kept)
        self._dropped += len(data) - len(kept)
        self._write(kept)
        return bool(data)

    def told(self) -> str:
        """Return for the end of a message where the log is, or its last lines without credentials if it is nowhere."""
        if self.path:
            return f"; see {self.path}"
        self.take()
        text = self._tail.decode("utf-8", "replace")
        whole = text.partition("\n")[2] if self._cut else text  # half a line may be half a credential
        lines = [line for line in without_secrets(whole).splitlines() if line.strip()]
        said = " | ".join(lines[-TOLD_LINES:])[-TOLD_CHARS:]
        return f"; its last lines: {said}" if said else "; it said nothing"

    def close(self) -> None:
        """Take the rest, to its end, which comes with the death of all that could write."""
        deadline = time.monotonic() + WAIT_SECONDS
        while self.take() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.close(self._ours)
        if self._dropped:
            self._write(f"\n[{self._dropped:,} bytes more left out]\n".encode())

    def _write(self, data: bytes) -> None:
        if data and self.path:
            with suppress(OSError), open(self.path, "ab", buffering=0) as file:  # a full disk costs lines of the log
                file.write(data)


def _made(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size >= LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    path.touch()
    return str(path)
