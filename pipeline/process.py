"""Our own processes: started with a pipe and our import path, marked, measured, ended with all they left.

Every process that we start carries a mark in its environment, which whatever it starts inherits. So nothing escapes:
neither by a session of its own nor by losing its parent.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path, PurePosixPath
from typing import IO

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PAGE = os.sysconf("SC_PAGE_SIZE")
MAX_SWEEPS = 50

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
    log: IO[bytes] | int | None = None,
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

    # The main thread lives as long as the process too, and where memory is short no other may start.
    child = start() if threading.current_thread() is threading.main_thread() else _SPAWNER.submit(start).result()
    theirs.close()
    return child, ours


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when the parent ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def adopt_orphans() -> None:
    """Ask the kernel that descendants which lose their parent become our children, so that they are counted."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def family(pid: int) -> list[int]:
    """Return a process and its descendants, as far as they can be seen."""
    found, todo = [], [pid]
    while todo:
        one = todo.pop()
        found.append(one)
        todo += _children(one)
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                text = file.read()
        except OSError:
            continue
        yield from map(int, text.split())


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def memory_bytes(cgroups: str = "/sys/fs/cgroup", ours: str = "/proc/self/cgroup") -> int:
    """Return the memory that this process could have at most: the machine's, or what its cgroups allow."""
    found = [os.sysconf("SC_PHYS_PAGES") * PAGE]
    with suppress(OSError):
        for line in Path(ours).read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds and "memory" not in kinds.split(","):
                continue
            top, name = (f"{cgroups}/memory", "memory.limit_in_bytes") if kinds else (cgroups, "memory.max")
            for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
                with suppress(OSError, ValueError):  # ValueError: `max`
                    found.append(int(Path(f"{top}{folder}/{name}").read_text()))
    return min(found)


def ended(child: "subprocess.Popen[bytes]") -> bool:
    """Whether a child of ours has ended; unlike `poll` it leaves the facts to `reap`."""
    if child.returncode is not None:
        return True
    try:
        return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # somebody else has asked for its end
        return child.poll() is not None


def reap(child: "subprocess.Popen[bytes]") -> tuple[int, int]:
    """Wait for a child's end; return its exit status, minus the signal if one ended it, and its peak memory in bytes.

    The kernel counts the peak, of the child and of the descendants that it waited for; 0 where nobody can tell it.
    """
    if child.returncode is None:
        try:
            _, status, used = os.wait4(child.pid, 0)
        except ChildProcessError:
            return child.wait(), 0
        child.returncode = os.waitstatus_to_exitcode(status)
        return child.returncode, used.ru_maxrss * 1024
    return child.returncode, 0


def marked(variable: str, prefix: str) -> list[int]:
    """Return the processes, this one left out, that were started with a variable whose value begins so."""
    wanted = f"{variable}={prefix}".encode()
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _carries(pid, wanted)]


def _carries(pid: int, wanted: bytes) -> bool:
    if pid == os.getpid():
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return any(entry.startswith(wanted) for entry in file.read().split(b"\0"))
    except OSError:
        return False


def kill_marked(variable: str, prefix: str) -> None:
    """End all processes that carry a mark, and those that they start meanwhile."""
    clean = 0
    for sweep in range(MAX_SWEEPS):
        found = marked(variable, prefix)
        clean = 0 if found else clean + 1
        if clean == 2:  # one look may miss who was born during it
            return
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if found:
            time.sleep(0.01 * sweep)
