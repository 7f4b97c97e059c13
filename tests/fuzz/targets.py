"""The fuzz targets: `example(rng)` draws an input, `check(kind, data)` raises only where the code is wrong."""

import importlib
import random
from typing import Protocol, cast

NAMES = ("alignment", "audio", "manifest", "recipe", "shard", "text")


class Target(Protocol):
    """A module `target_NAME`.

    Attributes:
        KINDS: kinds of input, which are suffixes of files.
    """

    KINDS: tuple[str, ...]

    def example(self, rng: random.Random) -> tuple[str, bytes]:
        """Draw an input: its kind and its bytes."""
        ...

    def check(self, kind: str, data: bytes) -> None:
        """Run the code on an input. Documented errors are caught here; whatever comes out is a finding."""
        ...


def require_line(message: str, most: int = 1000) -> None:
    """Check that a message is one line of valid Unicode that a terminal can take."""
    message.encode()
    assert "\n" not in message
    assert len(message) <= most


def load(name: str) -> Target:
    return cast(Target, importlib.import_module(f"tests.fuzz.target_{name}"))
