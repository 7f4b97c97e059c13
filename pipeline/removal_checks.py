"""What must hold before anything is removed: which splits are done, which are sound."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.commit import commit_path, valid_commit
from pipeline.commit_form import malformed_commit
from pipeline.split_files import sha256_of
from pipeline.storage import join
from schemas.rejects import Reason


class RemoveFailed(RuntimeError):
    """Nothing can be removed from the dataset as it is; the message names the file and the fix."""


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
            raise RemoveFailed(
                f"{commit_path(self.root, split)} does not hold ({told}); run `interloom repair {self.root}` first"
            )
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
                raise RemoveFailed(
                    f"{self.root}/shards/{name} is damaged; run `interloom repair {self.root}`, then remove again"
                )
