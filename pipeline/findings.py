"""What can be wrong with a dataset: a closed list, a finding, and the findings of a split."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Problem(StrEnum):
    """What is wrong with a file."""

    MISSING = "missing"
    SIZE = "size"
    """It has another size than its commit record says."""
    HASH = "hash"
    """It has another sha256 than its commit record, or the description of the dataset, says."""
    UNREADABLE = "unreadable"
    """Its hash holds, or nothing gives one, and it is not what such a file must be."""
    FORGED = "forged"
    """A commit record says what its files, the plan or the dataset contradict."""
    UNPLANNED = "unplanned"
    """It belongs to a split that is not in the plan."""
    UNNAMED = "unnamed"
    """No commit record names it."""
    INDEX = "index"
    """It disagrees with its tar."""
    STATS = "stats"
    """Its rows disagree with the records of the shard."""
    TOTALS = "totals"
    """It disagrees with the commit records."""
    REMOVED = "removed"
    """It holds a row that `removed.jsonl` lists, or a removal was begun and not ended."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        path: the file, from the dataset's folder.
        problem: from the closed list.
        detail: one line for a person.
        split: the split that has to be redone, or None.
    """

    path: str
    problem: Problem
    detail: str
    split: int | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.problem.value}: {self.detail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a split is held against. Travels to worker processes.

    Attributes:
        root: the dataset's folder.
        fingerprint: that commit records must carry; None where `dataset.json` cannot tell.
        codebooks: stream to number of ids; None where `dataset.json` cannot tell.
        rows_path: the plan's rows; None where the dataset came without its plan.
        base: of the plan.
        only: the splits whose files are read; of others the commit record's word counts. None for all.
    """

    root: str
    fingerprint: str | None
    codebooks: Mapping[str, int] | None
    rows_path: str | None
    base: str = ""
    only: frozenset[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """What was found in one split.

    Attributes:
        split: its number.
        findings: everything that is wrong.
        files: files that were hashed.
        records: records that were parsed.
        commit: the commit record as far as it can be read, without unit counts; None where it cannot.
        listed: rows of the plan that `removed.jsonl` lists; None where the plan or the list was not read.
        lost: rows that were removed and are not on that list; None where nothing in `shards/` can tell.
    """

    split: int
    findings: tuple[Finding, ...]
    files: int = 0
    records: int = 0
    commit: dict[str, Any] | None = None
    listed: int | None = None
    lost: int | None = None
