"""Strikes: which records killed their workers. Kept beside the split, so that they survive the worker's own death."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from pipeline.storage import join, publish_json, read_json, remove


@dataclass(slots=True, kw_only=True)
class Strikes:
    """The state of blame for one split.

    A death with several records in hand, or beside other work, makes suspects, to be worked on one at a time; a death
    with one record in hand and nothing else going on is a strike against it; at `limit` strikes it is rejected unseen.
    """

    path: str
    limit: int
    suspects: set[str] = field(default_factory=set)
    strikes: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, root: str, split: int, limit: int) -> Self:
        path = join(root, "work", "strikes", f"{split:06d}.json")
        state = read_json(path) or {}
        return cls(path=path, limit=limit, suspects=set(state.get("suspects", [])), strikes=state.get("strikes", {}))

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
        publish_json({"strikes": self.strikes, "suspects": sorted(self.suspects)}, self.path)

    def forget(self) -> None:
        """Remove the file once the split is committed."""
        if self.suspects:
            remove(self.path)
