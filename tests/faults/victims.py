"""Who can be hit: the processes of a build by the part they play, found from outside."""

import resource
import signal
from contextlib import suppress
from random import Random

import psutil

TARGETS = ("driver", "engine", "worker", "child", "node")
WORKERS = ("apache_beam.runners.worker.sdk_worker_main", "ray::", "default_worker.py")


def part_of(process: psutil.Process, driver: int) -> str | None:
    """Return the part that a process plays in the build of a driver."""
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return None
    if process.pid == driver:
        return "driver"
    for word, part in (
        ("pipeline.engines.serve", "engine"),
        ("pipeline.executor.child", "child"),
        ("raylet/raylet", "node"),
    ):
        if word in line:
            return part
    if "Agent" in line:  # of a Ray node, which ends itself with its agents: no worker
        return None
    return "worker" if any(word in line for word in WORKERS) else None


def find(driver: int, wanted: str, rng: Random, extra: tuple[int, ...] = ()) -> psutil.Process | None:
    """Return one process that plays a part, None where there is none just now.

    Args:
        driver: the driver's process id.
        wanted: one of `TARGETS`.
        rng: chooses among several.
        extra: roots of other process trees that belong to the build, such as the nodes of a cluster.
    """
    found: list[psutil.Process] = []
    for root in (driver, *extra):
        with suppress(psutil.Error):
            process = psutil.Process(root)
            found += [process, *process.children(recursive=True)]
    chosen = sorted({p.pid for p in found if part_of(p, driver) == wanted})
    with suppress(psutil.Error):
        return psutil.Process(rng.choice(chosen)) if chosen else None
    return None


def starve(process: psutil.Process) -> None:
    """Leave a process no memory beyond what it has: its next allocation of any size fails."""
    size = process.memory_info().vms
    resource.prlimit(process.pid, resource.RLIMIT_AS, (size, size))


def hit(process: psutil.Process, fault: str) -> bool:
    """Do a fault to a process; return whether it was still there."""
    try:
        if fault == "kill":
            process.send_signal(signal.SIGKILL)
        elif fault == "stop":
            process.send_signal(signal.SIGSTOP)
        else:
            starve(process)
    except (psutil.Error, ProcessLookupError):
        return False
    return True


def release(process: psutil.Process) -> None:
    """Let a stopped process go on."""
    with suppress(psutil.Error):
        process.send_signal(signal.SIGCONT)
