"""The contract of a unit stream: everything a reader must know before it may use the ids."""

from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any, Self

from schemas.clock import FrameGrid, Samples


class ContractMismatch(ValueError):
    """Two unit streams that were to be used together were made differently."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitContract:
    """How a stream of unit ids was made. Stored once per dataset.

    Attributes:
        stream: slot of the stream in a record: `hubert`, `pitch` or `style`. The slot says which tokens the ids
            become ([Hu], [Pi], [St]); `extractor` says what really made them.
        extractor: name of the backend, e.g. `mfcc-kmeans`.
        version: its version.
        model_sha256: of the model's weights, or "" where there is none.
        layer: layer of the model that was read, or None.
        codebook_sha256: of the codebook.
        codebook_size: ids lie in [0, codebook_size).
        frame_rate: exact ratio, e.g. "25/1".
        hop: samples at 16 kHz between frames.
        offset: the sample at 16 kHz that frame 0 stands for.
        chunking: how long audio was divided, e.g. "none".
        precision: in which the model computed.
        input: what the extractor was given beside the audio, such as the F0 extractor and its settings; "" for nothing.
        deduplicated: always False in stored streams.
    """

    stream: str
    extractor: str
    version: int
    model_sha256: str
    layer: int | None
    codebook_sha256: str
    codebook_size: int
    frame_rate: str
    hop: int
    offset: int
    chunking: str = "none"
    precision: str = "float32"
    input: str = ""
    deduplicated: bool = False

    @property
    def grid(self) -> FrameGrid:
        return FrameGrid(hop=Samples(self.hop), offset=Samples(self.offset))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(value) - known):
            raise ContractMismatch(f"unit contract has unknown fields {unknown}; it was written by a newer version")
        return cls(**value)

    def require_same(self, other: "UnitContract", *, here: str, there: str) -> None:
        """Raise ContractMismatch naming both sides and every field that differs."""
        mine, theirs = self.to_json(), other.to_json()
        differs = [f"{k}: {mine[k]!r} in {here}, {theirs[k]!r} in {there}" for k in mine if mine[k] != theirs[k]]
        if differs:
            raise ContractMismatch(f"stream '{self.stream}' differs: " + "; ".join(differs))


@lru_cache(maxsize=256)
def _grid(hop: int, offset: int) -> FrameGrid:
    """Return the one grid of these numbers: a reader asks for it with each document."""
    return FrameGrid(hop=Samples(hop), offset=Samples(offset))
