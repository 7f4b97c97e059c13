"""Which sockets a family of processes listens on, as /proc tells it, whatever library opened them."""

import ipaddress
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

LISTENING = "0A"


class Listener(NamedTuple):
    """A listening TCP socket and the name of the process that holds it."""

    address: str
    port: int
    process: str

    @property
    def loopback(self) -> bool:
        found = ipaddress.ip_address(self.address)
        mapped = getattr(found, "ipv4_mapped", None)
        return (mapped or found).is_loopback


def carriers(mark: str) -> list[int]:
    """Return the processes in whose environment, as they were started, a text stands."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(int(pid))
    return found


def listeners(pids: list[int]) -> set[Listener]:
    """Return what some processes listen on."""
    sockets = _sockets()
    return {Listener(*sockets[inode], _name(pid)) for pid in pids for inode in _inodes(pid) if inode in sockets}


@contextmanager
def watched(mark: str) -> Iterator[set[Listener]]:
    """Collect all that the processes with a mark listen on while the block runs."""
    found: set[Listener] = set()
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            found.update(listeners(carriers(mark)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _sockets() -> dict[str, tuple[str, int]]:
    """Return address and port of each listening socket by its inode."""
    found = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENING:
                    address, port = fields[1].split(":")
                    found[fields[9]] = (_address(address), int(port, 16))
    return found


def _address(text: str) -> str:
    """Undo the kernel's spelling: words of 4 bytes in the order of the host."""
    raw = b"".join(bytes.fromhex(text[i : i + 8])[::-1] for i in range(0, len(text), 8))
    return str(ipaddress.ip_address(raw))


def _inodes(pid: int) -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in os.scandir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                target = os.readlink(entry.path)
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "gone"
