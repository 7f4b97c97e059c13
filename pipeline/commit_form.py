"""The form of a shard's commit record, and the names of the files that it describes."""

import re
from typing import Any

SUMS = ("num_samples", "num_words", "text_tokens", "hubert_runs", "pitch_runs", "style_frames")
"""Columns of the statistics whose sums a commit record holds."""
FACTS = ("documents", "inputs", *SUMS, "reasons", "records", "rejects", "unit_counts")
"""What the shard sink says of a split in its commit record."""
_NUMBERS = ("documents", "inputs", "records", "rejects", "split", *SUMS)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def commit_name(split: int) -> str:
    """Return the name of a split's commit record."""
    return f"shard-{split:06d}.commit.json"


def shard_names(split: int) -> dict[str, str]:
    """Return the names of a split's files by what they hold."""
    return {
        "tar": f"shard-{split:06d}.tar",
        "index": f"shard-{split:06d}.tar.idx",
        "stats": f"shard-{split:06d}.stats.parquet",
        "rejects": f"rejects-{split:06d}.jsonl",
    }


def malformed_commit(record: Any, split: int, *, counted: bool = True) -> str | None:
    """Return what is wrong with the form of a split's commit record, None if it can be followed.

    Args:
        record: the parsed JSON.
        split: its number.
        counted: whether it comes with its counts of units.
    """
    if not isinstance(record, dict):
        return "not a JSON object"
    wanted = {"files", "format", "plan", "split", *FACTS} - (set() if counted else {"unit_counts"})
    if wrong := sorted(set(record) ^ wanted, key=str):
        return f"{', '.join(map(str, wrong))}: missing, or unknown to this version of interloom"
    for name in _NUMBERS:
        if not _is_count(record[name]):
            return f"{name} is not a count"
    if (told := _malformed_files(record["files"], split)) is not None:
        return told
    if not isinstance(record["reasons"], dict) or not all(map(_is_count, record["reasons"].values())):
        return "reasons are not counts"
    if counted and not _are_lists_of_counts(record["unit_counts"]):
        return "unit_counts are not lists of counts"
    return None


def _malformed_files(files: Any, split: int) -> str | None:
    if not isinstance(files, dict) or set(files) != set(shard_names(split).values()):
        return "it does not name the four files of its split"
    for name, said in files.items():
        if not isinstance(said, dict) or set(said) != {"bytes", "sha256"} or not _is_count(said["bytes"]):
            return f"it does not give size and sha256 of {name}"
        if not isinstance(said["sha256"], str) or not _SHA256.fullmatch(said["sha256"]):
            return f"it does not give the sha256 of {name}"
    return None


def _are_lists_of_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(found, list) and all(map(_is_count, found)) for found in value.values()
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
