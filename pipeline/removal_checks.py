"""What must hold before anything is removed: which splits are done, which are sound."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.commit import commit_path, valid_commit
from pipeline.commit_form import malformed_commit
from pipeline.split_files import sha256_of
from pipeline.storage import join, list_names
from schemas.rejects import Reason

JOURNAL = "removing"


class RemoveFailed(RuntimeError):
    """Nothing can be removed from the dataset as it is; the message names the file and the fix."""


def unfinished(root: str) -> bool:
    """Tell whether a removal was begun and not ended."""
    return bool(list_names(join(root, JOURNAL)))


def way_out(root: str) -> str:
    """Return what to do where a removal meets a damaged file.

    One that was begun is given up: `repair` then builds its splits again without the rows, from their audio.
    """
    if not unfinished(root):
        return f"run `interloom repair {root}`, then remove again"
    return (
        f"delete the folder {join(root, JOURNAL)}, run `interloom repair {root}`, for which the audio must be there, "
        "then `interloom remove` with the same ids"
    )


@dataclass(frozen=True, slots=True)
class Commits:
    """The commit records of a dataset, and how many removed rows each must count."""

    root: str
    fingerprint: str
    covered: Mapping[int, int]

    def read(self, split: int) -> dict[str, Any] | None:
        """Return a split's commit record, None if it does not count or cannot be followed."""
        record = valid_commit(self.root, self.fingerprint, split)
        return None if malformed_commit(record, split) else record

    def done(self, split: int) -> bool:
        record = self.read(split)
        return record is not None and record["reasons"].get(Reason.REMOVED.value, 0) == self.covered.get(split, 0)

    def require(self, split: int, *, sound: bool) -> None:
        """Check that a split counts, and with `sound` that its files are those of its commit record.

        Raises:
            RemoveFailed: if not.
        """
        record = self.read(split)
        if record is None:
            told = malformed_commit(valid_commit(self.root, self.fingerprint, split), split)
            raise RemoveFailed(f"{commit_path(self.root, split)} does not hold ({told}); {way_out(self.root)}")
        if record["reasons"].get(Reason.REMOVED.value, 0) > self.covered.get(split, 0):
            raise RemoveFailed(
                f"{self.root}/removed.jsonl lacks rows that were removed from split {split}; "
                f"run `interloom repair {self.root}` first"
            )
        if not sound:
            return
        self.require_files(record)

    def require_files(self, record: Mapping[str, Any]) -> None:
        """Check that the files of a split are those of a commit record.

        Raises:
            RemoveFailed: if not.
        """
        for name, file in record["files"].items():
            if sha256_of(join(self.root, "shards", name)) != file["sha256"]:
                raise RemoveFailed(f"{self.root}/shards/{name} is damaged; {way_out(self.root)}")
