"""The feature sink: what a sample of the corpus contributes to the codebooks, as one safetensors file per split."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.job import Outcome
from pipeline.storage import join, read_bytes
from schemas.records import FitFeatures
from schemas.rejects import Reject

PARTS = ("units", "pitch", "style")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSinkConfig:
    """Nothing to configure."""

    def setup(self) -> "FeatureSink":
        return FeatureSink()


class FeatureSink:
    """Writes `features-N.safetensors`: arrays end to end, and their lengths, keys, speakers and texts as JSON bytes."""

    def write(self, split: int, outcomes: Iterable[Outcome], folder: Path) -> dict[str, Any]:
        from safetensors.numpy import save_file

        kept: list[FitFeatures] = []
        reasons: Counter[str] = Counter()
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                reasons[outcome.reason.value] += 1
            else:
                kept.append(outcome)
        index = [[f.key, f.speaker, f.text, *(len(getattr(f, part)) for part in PARTS)] for f in kept]
        tensors = {"index": np.frombuffer(json.dumps(index).encode(), np.uint8).copy()}
        if kept:
            for name in PARTS:
                tensors[name] = np.ascontiguousarray(np.concatenate([getattr(f, name) for f in kept]))
        save_file(tensors, folder / features_name(split))
        rejects = sum(reasons.values())
        return {
            "inputs": len(kept) + rejects,
            "reasons": dict(reasons),
            "records": len(kept),
            "rejects": rejects,
        }


def features_name(split: int) -> str:
    return f"features-{split:06d}.safetensors"


@dataclass(frozen=True, slots=True)
class FeatureFiles:
    """The features of a finished job. Each pass reads one split's file at a time, in order.

    Attributes:
        root: folder of the job.
        splits: how many it has.
    """

    root: str
    splits: int

    def records(self, parts: Sequence[str] = PARTS) -> Iterator[FitFeatures]:
        """Yield every clip's features; parts that were not asked for have no rows."""
        for split in range(self.splits):
            data = read_bytes(join(self.root, "shards", features_name(split)))
            if data is not None:
                yield from read_features(data, parts)

    def rows(self, part: str) -> Iterator[npt.NDArray[np.float32]]:
        """Yield one part's rows, clip by clip."""
        for record in self.records((part,)):
            found: npt.NDArray[np.float32] = getattr(record, part)
            yield found


def read_features(data: bytes, parts: Sequence[str] = PARTS) -> Iterator[FitFeatures]:
    """Yield the features of one file in order."""
    from safetensors.numpy import load

    tensors = load(data)
    at = dict.fromkeys(PARTS, 0)
    for key, speaker, text, *lengths in json.loads(tensors["index"].tobytes()):
        found = {}
        for name, length in zip(PARTS, lengths, strict=True):
            found[name] = tensors[name][at[name] : at[name] + (length if name in parts else 0)]
            at[name] += length
        yield FitFeatures(key=key, speaker=speaker, text=text, **found)
