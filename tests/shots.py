"""A test-only stage that is killed as from outside: with little memory, or with much as by the kernel."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class ShotConfig:
    """Passes everything through; on chosen keys the process gets a signal."""

    name: ClassVar[str] = "shot"
    version: ClassVar[int] = 1

    keys: tuple[str, ...] = ()
    number: int = signal.SIGKILL
    memory_bytes: int = 0
    """What it takes, at once, before that."""
    slow: tuple[str, ...] = ()
    """Keys that take 0.4 s."""

    def setup(self) -> "Shot":
        return Shot(self)


class Shot:
    def __init__(self, config: ShotConfig) -> None:
        self._config = config

    def process(self, batch: Sequence[Any]) -> list[Any]:
        for item in batch:
            if item.key in self._config.slow:
                time.sleep(0.4)
            if item.key in self._config.keys:
                held = bytearray(b"x") * self._config.memory_bytes
                os.kill(os.getpid(), self._config.number)
                del held
        return list(batch)
