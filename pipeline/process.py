"""Start our own Python processes: with an inherited pipe, our import path, and a promise to die with us."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

PR_SET_PDEATHSIG = 1

WORKER_ENV = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # Without these glibc returns and refetches memory at every numpy temporary: half of the CPU time of audio work.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "67108864",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of every process that works on records; it must be set before the process starts."""

# PR_SET_PDEATHSIG fires when the *thread* that forked ends. Engines run us on threads that come and go, so that all
# children are born on this one, which lives as long as the process.
_SPAWNER = ThreadPoolExecutor(1, thread_name_prefix="interloom-spawner")


def import_path() -> str:
    """Return a PYTHONPATH that finds everything this process finds."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)


def spawn(
    module: str,
    *arguments: str,
    log: IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    session: bool = False,
) -> tuple[subprocess.Popen[bytes], Connection]:
    """Run `module.main(connection, *arguments)` in a new Python process; return it and our end of the pipe.

    Args:
        module: dotted name of a module of ours with a function `main(pipe, parent, *arguments)`.
        arguments: strings for it.
        log: receives its standard output and error; inherited where None.
        env: added to the environment.
        session: start a session of its own, so that the whole group can be killed.
    """
    ours, theirs = Pipe()
    code = f"import sys; from {module} import main; main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])"
    command = [sys.executable, "-c", code, str(theirs.fileno()), str(os.getpid()), *arguments]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **WORKER_ENV, "PYTHONPATH": import_path(), **(env or {})},
            start_new_session=session,
        )

    child = _SPAWNER.submit(start).result()
    theirs.close()
    return child, ours


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)
