"""What the records of a shard imply: a row of its statistics."""

from typing import Any

from pipeline.shards import num_runs
from schemas.unit_record import STREAMS, UnitRecord

DESCRIBED = ("id", "recording", "index", "speaker", "language", "license", "source")
MEASURED = ("source_rate", "source_channels", "score_all", "score_words", "fallback")


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
