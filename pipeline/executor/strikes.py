"""Strikes: which records killed their workers. Kept beside the split, so that they survive the worker's own death."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from pipeline.job import Job
from pipeline.storage import join, publish_json, read_json, remove
from schemas.canonical import sha256_hex

DECISIVE = ("record_seconds", "max_rss_bytes", "max_processes", "max_printed_bytes", "device", "compile_models")
"""Limits that decide whether a record kills its worker."""


@dataclass(slots=True, kw_only=True)
class Strikes:
    """The state of blame for one split.

    A death with several records in hand, or beside other work, makes suspects, to be worked on one at a time; a death
    with one record in hand and nothing else going on is a strike against it; at `limit` strikes it is rejected unseen.
    Strikes count only under what they were given under, see `circumstances`: a record may do well once that is mended.
    """

    job: Job
    path: str
    suspects: set[str] = field(default_factory=set)
    strikes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, job: Job, split: int) -> Self:
        path = join(job.root, "work", "strikes", f"{split:06d}.json")
        state = read_json(path)
        if not isinstance(state, dict):
            return cls(job=job, path=path)
        counts = state.get("strikes", {}) if state.get("under") == circumstances(job) else {}
        return cls(job=job, path=path, suspects=set(state.get("suspects", [])), strikes=counts)

    @property
    def limit(self) -> int:
        return self.job.limits.strikes

    @property
    def crashed(self) -> dict[str, int]:
        """Keys to be rejected, with the limit they reached (not the count: it may differ from run to run)."""
        return {key: self.limit for key, count in self.strikes.items() if count >= self.limit}

    def charge(self, keys: Sequence[str], *, certain: bool) -> None:
        """Note that the child died with these keys in its hands.

        Args:
            keys: of this split.
            certain: a single key can be blamed, because nothing else was going on.
        """
        if not keys:
            return
        self.suspects.update(keys)
        if certain and len(keys) == 1:
            self.strikes[keys[0]] = self.strikes.get(keys[0], 0) + 1
        state = {"strikes": self.strikes, "suspects": sorted(self.suspects), "under": circumstances(self.job)}
        publish_json(state, self.path)

    def forget(self) -> None:
        """Remove the file once the split is committed."""
        if self.suspects:
            remove(self.path)


def circumstances(job: Job) -> str:
    """Hash the job, the limits that decide deaths, and what is installed: each may be what killed a worker."""
    limits = [getattr(job.limits, name) for name in DECISIVE]
    return sha256_hex(repr((job.fingerprint, limits, installed())).encode())


@cache
def installed() -> tuple[str, ...]:
    """Return the installed packages, each with its version."""
    return tuple(sorted({path.name for folder in sys.path for path in Path(folder).glob("*.dist-info")}))
