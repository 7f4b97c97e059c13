"""What a repair sets aside, and what it promises: both outlive a repair that is killed.

Files go to `work/damaged/`. From before the first is moved until the repair has ended, `unfinished.json` there tells
which. Until then what lies there under their names is the original and is never replaced; what lies in its place is a
leftover.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pipeline.commit_form import commit_name, shard_names
from pipeline.inside import is_inside
from pipeline.storage import file_size, is_remote, join, move, publish_json, read_json, remove

ASIDE = "work/damaged"
UNFINISHED = f"{ASIDE}/unfinished.json"
PROMISED = ("files", "plan", "reasons")
"""What is kept of a commit record."""

Promise = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """What a repair has begun and not ended.

    Attributes:
        artifacts: files that are made again; they come back unless the same artifacts come out.
        promised: the splits that are built again, each with `PROMISED` of its commit record, None if that is damaged.
    """

    artifacts: frozenset[str] = frozenset()
    promised: Mapping[int, Promise] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """The files that are, or will be, set aside."""
        return {*self.artifacts, *(name for split in self.promised for name in names_of(split))}


def names_of(split: int) -> list[str]:
    """Return the files of a split from the dataset's folder, its commit record first."""
    return [f"shards/{commit_name(split)}", *(f"shards/{name}" for name in shard_names(split).values())]


def read_unfinished(root: str) -> Unfinished:
    said = read_json(join(root, UNFINISHED))
    if not isinstance(said, dict):
        return Unfinished()
    artifacts = frozenset(name for name in said["artifacts"] if is_inside(name) and name.startswith("artifacts/"))
    return Unfinished(artifacts=artifacts, promised={int(split): told for split, told in said["promised"].items()})


def begin(root: str, *, artifacts: Iterable[str] = (), promised: Mapping[int, Promise] | None = None) -> None:
    """Note what will be set aside; what is noted already stays, and what a finished repair left in its way goes."""
    before = read_unfinished(root)
    now = Unfinished(artifacts=before.artifacts.union(artifacts), promised={**(promised or {}), **before.promised})
    for name in sorted(now.names - before.names):
        remove(join(root, ASIDE, name))
    _note(root, now)


def set_aside(root: str, names: Iterable[str]) -> list[str]:
    """Move files to `work/damaged/`, or remove the leftovers in their place; return which were moved."""
    begun, moved = read_unfinished(root).names, []
    for name in names:
        if file_size(join(root, name)) is None:
            continue
        if name in begun and file_size(join(root, ASIDE, name)) is not None:
            remove(join(root, name))
        else:
            move(join(root, name), join(root, ASIDE, name))
            moved.append(name)
    return moved


def clear_way(root: str, names: Iterable[str]) -> list[str]:
    """Move what lies where a file should be and is none: a folder, or a loop of links; return which were moved.

    Artifacts may be folders, and are left alone.
    """
    moved = []
    for name in () if is_remote(root) else sorted(set(names)):
        path = join(root, name).removeprefix("file://")
        if name.startswith("artifacts/") or not os.path.lexists(path) or os.path.isfile(path):
            continue
        aside = join(root, ASIDE, f"{name}-{uuid4().hex[:8]}").removeprefix("file://")
        os.makedirs(os.path.dirname(aside), exist_ok=True)
        os.replace(path, aside)
        moved.append(name)
    return moved


def original(root: str, name: str) -> str:
    """Return where a file lies as it was before the repair began."""
    aside = join(root, ASIDE, name)
    return aside if name in read_unfinished(root).names and file_size(aside) is not None else join(root, name)


def put_artifacts_back(root: str) -> None:
    """Put back the artifacts that were set aside, over what was made in their place."""
    for name in sorted(read_unfinished(root).artifacts):
        if file_size(join(root, ASIDE, name)) is not None:
            move(join(root, ASIDE, name), join(root, name))
    keep_artifacts(root)


def keep_artifacts(root: str) -> None:
    """Note that the artifacts are right as they are."""
    _note(root, Unfinished(promised=read_unfinished(root).promised))


def end(root: str) -> None:
    _note(root, Unfinished())


def _note(root: str, now: Unfinished) -> None:
    if now.names:
        publish_json({"artifacts": sorted(now.artifacts), "promised": now.promised}, join(root, UNFINISHED))
    else:
        remove(join(root, UNFINISHED))
