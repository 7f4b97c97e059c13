"""The list of what was taken down: `removed.jsonl` in the dataset's folder.

A list of removals must not itself keep what was removed, and an id may name a person: it holds the sha256 of each id or
recording, not the name. Whoever knows an id can find it in the list; whoever can guess ids can test the guesses.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.storage import join, publish_bytes, read_bytes
from schemas.canonical import canonical_json, sha256_hex
from schemas.records import Utterance
from schemas.rejects import Reason, Reject

LIST = "removed.jsonl"
DETAIL = "taken down; see removed.jsonl"
KINDS = ("id", "recording")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BadRemovedList(ValueError):
    """`removed.jsonl` cannot be read; nothing is built without it, because removed rows would come back."""


def digest(name: str) -> str:
    """Return what stands in the list for an id or a recording; `printf %s NAME | sha256sum` gives the same."""
    return sha256_hex(name.encode("utf-8", "replace"))


def removed_id(row_id: str) -> str:
    """Return what a removed row has in place of its id."""
    return f"sha256:{digest(row_id)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What must not be in a dataset.

    Attributes:
        ids: sha256 of an id to the reason that was given for its removal, possibly empty.
        recordings: the same for whole recordings.
    """

    ids: Mapping[str, str]
    recordings: Mapping[str, str]

    @classmethod
    def of(cls, ids: Mapping[str, str] | None = None, recordings: Mapping[str, str] | None = None) -> Self:
        return cls(ids=ids or {}, recordings=recordings or {})

    def __bool__(self) -> bool:
        return bool(self.ids or self.recordings)

    def covers(self, row_id: str, recording: str) -> bool:
        """Tell whether an id or its recording is on the list; a row without a recording is covered by its id alone."""
        if self.ids and digest(row_id) in self.ids:
            return True
        return bool(self.recordings and recording) and digest(recording) in self.recordings

    def apply(self, row: Utterance | Reject) -> Utterance | Reject:
        """Return the row, or where it is on the list the reject that stands for it. Applying it twice changes nothing.

        The reject names neither the id nor the file; its key keeps the row's place in the manifest.
        """
        if not self.covers(row.id, row.recording if isinstance(row, Utterance) else ""):
            return row
        place = str(row.index) if isinstance(row, Utterance) else row.key.rpartition("~")[2]
        key = f"removed-{digest(row.id)[:12]}~{place}"
        return Reject(key=key, id=removed_id(row.id), stage="plan", reason=Reason.REMOVED, detail=DETAIL)

    def with_more(self, more: "Removed") -> "Removed":
        """Return both lists as one; what was listed first keeps its reason."""
        return Removed(ids={**more.ids, **self.ids}, recordings={**more.recordings, **self.recordings})

    def to_bytes(self) -> bytes:
        """Return the file's content: one JSON object per line, sorted, whatever the order of removals was."""
        kinds = {"id": self.ids, "recording": self.recordings}
        lines = [
            {"kind": kind, "reason": listed[name], "sha256": name}
            for kind, listed in kinds.items()
            for name in sorted(listed)
        ]
        return "".join(canonical_json(line) + "\n" for line in lines).encode()


def is_removed(row: Utterance | Reject) -> bool:
    return isinstance(row, Reject) and row.reason is Reason.REMOVED


def read_removed(root: str, *, damaged: bool = False) -> Removed:
    """Read the list of a dataset's folder; empty where there is none.

    Args:
        root: the folder.
        damaged: leave out lines that cannot be read.

    Raises:
        BadRemovedList: if it is damaged.
    """
    path = join(root, LIST)
    data = read_bytes(path)
    found: dict[str, dict[str, str]] = {kind: {} for kind in KINDS}
    for number, line in enumerate((data or b"").splitlines(), 1):
        entry = _entry(line)
        if entry is not None:
            found[entry["kind"]][entry["sha256"]] = entry["reason"]
        elif not damaged:
            raise BadRemovedList(
                f"{path}:{number} is damaged; run `interloom repair {root}`, or restore it from a copy"
            )
    return Removed(ids=found["id"], recordings=found["recording"])


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or set(entry) != {"kind", "reason", "sha256"}:
        return None
    if not all(isinstance(value, str) for value in entry.values()) or entry["kind"] not in KINDS:
        return None
    return entry if _SHA256.fullmatch(entry["sha256"]) else None


def write_removed(root: str, removed: Removed) -> None:
    publish_bytes(removed.to_bytes(), join(root, LIST))


def root_of_rows(rows_path: str) -> str:
    """Return the folder whose list applies to a plan's rows: the one above the plan's own."""
    return rows_path.rsplit("/", 2)[0]
