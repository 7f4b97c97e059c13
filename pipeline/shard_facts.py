"""What the records of a shard imply: a row of its statistics, and the form of its commit record."""

import re
from collections.abc import Mapping
from typing import Any

from pipeline.shard_without import FACTS
from pipeline.shards import SUMS, num_runs
from schemas.unit_record import STREAMS, UnitRecord

DESCRIBED = ("id", "recording", "index", "speaker", "language", "license", "source")
MEASURED = ("source_rate", "source_channels", "score_all", "score_words", "fallback")
_NUMBERS = ("documents", "inputs", "records", "rejects", "split", *SUMS)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def shard_row(record: UnitRecord, split: int) -> dict[str, Any]:
    """Return the columns of the statistics that follow from a record alone: all but those of tokens and of F0.

    Raises:
        KeyError: if the record lacks a field.
        TypeError: if a field has another type.
    """
    timed = [word for word in record.words if word.start is not None and word.end is not None]
    streams = {name: record.streams.get(name) for name in STREAMS}
    frames = {name: 0 if ids is None else len(ids) for name, ids in streams.items()}
    return {
        **{name: record.meta[name] for name in (*DESCRIBED, *MEASURED)},
        "key": record.key,
        "split": split,
        "num_samples": int(record.num_samples),
        "num_words": len(record.words),
        "num_characters": len(record.text),
        "num_unaligned": len(record.words) - len(timed),
        "num_doubtful": len(record.doubtful),
        "speech_samples": sum(int(word.end or 0) - int(word.start or 0) for word in timed),
        "score_worst": min((word.score for word in timed if word.score is not None), default=None),
        **{f"{name}_frames": count for name, count in frames.items()},
        **{f"{name}_runs": num_runs(streams[name]) for name in ("hubert", "pitch")},
    }


def malformed_commit(record: Any, names: Mapping[str, str]) -> str | None:
    """Return what is wrong with the form of a commit record, None if it can be followed.

    Args:
        record: the parsed JSON.
        names: of the split's files, by what they hold.
    """
    if not isinstance(record, dict):
        return "not a JSON object"
    wanted = {"files", "format", "plan", "split", *FACTS}
    if wrong := sorted(set(record) ^ wanted):
        return f"{', '.join(map(str, wrong))}: missing, or unknown to this version of interloom"
    for name in _NUMBERS:
        if not _is_count(record[name]):
            return f"{name} is not a count"
    if (told := _malformed_files(record["files"], names)) is not None:
        return told
    if not isinstance(record["reasons"], dict) or not all(map(_is_count, record["reasons"].values())):
        return "reasons are not counts"
    counts = record["unit_counts"]
    if not isinstance(counts, dict) or not all(isinstance(found, list) for found in counts.values()):
        return "unit_counts are not lists"
    return None


def _malformed_files(files: Any, names: Mapping[str, str]) -> str | None:
    if not isinstance(files, dict) or set(files) != set(names.values()):
        return "it does not name the four files of its split"
    for name, said in files.items():
        if not isinstance(said, dict) or set(said) != {"bytes", "sha256"} or not _is_count(said["bytes"]):
            return f"it does not give size and sha256 of {name}"
        if not isinstance(said["sha256"], str) or not _SHA256.fullmatch(said["sha256"]):
            return f"it does not give the sha256 of {name}"
    return None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
