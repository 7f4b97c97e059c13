"""The feature sink: what a sample of the corpus contributes to the codebooks, as one safetensors file per split."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.job import Outcome
from schemas.records import FitFeatures
from schemas.rejects import Reject


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
        index = [[f.key, f.speaker, f.text, len(f.units), len(f.pitch), len(f.style)] for f in kept]
        tensors = {"index": np.frombuffer(json.dumps(index).encode(), np.uint8).copy()}
        if kept:
            for name in ("units", "pitch", "style"):
                tensors[name] = np.ascontiguousarray(np.concatenate([getattr(f, name) for f in kept]))
        save_file(tensors, folder / f"features-{split:06d}.safetensors")
        rejects = sum(reasons.values())
        return {
            "inputs": len(kept) + rejects,
            "reasons": dict(reasons),
            "records": len(kept),
            "rejects": rejects,
        }


def read_features(data: bytes) -> Iterator[FitFeatures]:
    """Yield the features of one file in order."""
    from safetensors.numpy import load

    tensors = load(data)
    at = {"units": 0, "pitch": 0, "style": 0}
    for key, speaker, text, *lengths in json.loads(tensors["index"].tobytes()):
        parts = {}
        for name, length in zip(("units", "pitch", "style"), lengths, strict=True):
            parts[name] = tensors[name][at[name] : at[name] + length]
            at[name] += length
        yield FitFeatures(key=key, speaker=speaker, text=text, **parts)
