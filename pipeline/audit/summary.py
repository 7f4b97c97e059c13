"""What an audit finds: plain values that the terminal tables and the report are both made from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from schemas.clock import seconds_from_samples
from schemas.contract import UnitContract
from schemas.unit_record import UnitRecord

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all records. `num_samples` and `speech_samples` are at 16 kHz; speech tokens are deduplicated."""

    utterances: int
    num_samples: int
    speech_samples: int
    words: int
    unaligned: int
    doubtful: int
    fallback: int
    recordings: int
    speakers: int
    text_tokens: int
    speech_tokens: int

    @property
    def hours(self) -> float:
        return seconds_from_samples(self.num_samples) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """One row of a breakdown; `value` is what the manifest gave, possibly empty."""

    value: str
    utterances: int
    num_samples: int
    words: int
    text_tokens: int
    speech_tokens: int

    @property
    def hours(self) -> float:
        return seconds_from_samples(self.num_samples) / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """Totals by the values of one column, most audio first. `distinct` counts all values, also those left out."""

    column: str
    groups: tuple[Group, ...]
    distinct: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A distribution over records.

    Attributes:
        edges: ascending, one more than `counts`.
        clamped: values beyond the edges, counted in the first or the last bin.
        quantiles: at `QUANTILES`; NaN where there are no values.
    """

    name: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    clamped: int
    mean: float
    quantiles: tuple[float, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerPitch:
    """Median F0 of a speaker's utterances, in Hz, at `QUANTILES` over utterances; `voiced` is a share of the frames."""

    speaker: str
    utterances: int
    voiced: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitUsage:
    """How often each id of a stream is used over all frames; `counts[i]` belongs to id i."""

    contract: UnitContract
    counts: tuple[int, ...]

    @property
    def frames(self) -> int:
        return sum(self.counts)

    @property
    def entropy_bits(self) -> float:
        total = self.frames
        return math.fsum(-n / total * math.log2(n / total) for n in self.counts if n) if total else 0.0

    @property
    def max_bits(self) -> float:
        return math.log2(self.contract.codebook_size)

    @property
    def dead(self) -> int:
        return sum(n == 0 for n in self.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejects:
    """Inputs without a record: counts by reason (most first) and the first ones in full."""

    inputs: int
    count: int
    reasons: tuple[tuple[str, int], ...]
    first: tuple[Mapping[str, str], ...]

    @property
    def rate(self) -> float:
        return self.count / self.inputs if self.inputs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnSpan:
    """One span of a draw. `content` is the span's text or its unit string, without the modality token.

    Attributes:
        modality: `text` or `speech`.
        words: how many words it covers.
        tokens: how many tokens it becomes, the modality token included.
        last: True for the last span of its document, which may be shorter than the policy's minimum.
    """

    modality: str
    words: int
    tokens: int
    content: str
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnExample:
    """One draw of the dataset's own interleaving policy over a document."""

    spans: tuple[DrawnSpan, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Interleaved draws over sampled documents.

    Attributes:
        bounds: modality to the policy's (minimum, maximum) in words; empty if it sets none.
        lengths: modality to {words: number of spans}, spans that end a document left out.
        final: the same for the spans that end a document.
        word_shares: speech share of the words, per document.
        token_shares: speech share of the tokens, per document.
        words: modality to words; tokens: modality to tokens; both over all documents.
        style: speaker to {style id: frames}, over the sampled records.
    """

    documents: int
    records: int
    bounds: Mapping[str, tuple[int, int]]
    lengths: Mapping[str, Mapping[int, int]]
    final: Mapping[str, Mapping[int, int]]
    word_shares: tuple[float, ...]
    token_shares: tuple[float, ...]
    words: Mapping[str, int]
    tokens: Mapping[str, int]
    style: Mapping[str, Mapping[int, int]]

    def within_bounds(self, modality: str) -> float:
        """Return the share of a modality's inner spans whose length the policy allows."""
        low, high = self.bounds[modality]
        spans = self.lengths[modality]
        total = sum(spans.values())
        return sum(n for words, n in spans.items() if low <= words <= high) / total if total else 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Example:
    """An utterance to look at and listen to, and why it was chosen."""

    record: UnitRecord
    why: str
    drawn: DrawnExample


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A count that two places must agree on."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditSummary:
    """Everything an audit found; `info` is the dataset's own description."""

    info: Mapping[str, Any]
    contracts: Mapping[str, UnitContract]
    thresholds: Mapping[str, float]
    seed: int
    checks: tuple[Check, ...]
    totals: Totals
    breakdowns: tuple[Breakdown, ...]
    histograms: Mapping[str, Histogram]
    pitch: tuple[SpeakerPitch, ...]
    units: tuple[UnitUsage, ...]
    rejects: Rejects
    draws: Draws
    worst: tuple[Example, ...]
    random: tuple[Example, ...]

    @property
    def name(self) -> str:
        return str(self.info["name"])

    @property
    def fingerprint(self) -> str:
        return str(self.info["fingerprint"])

    @property
    def aligner(self) -> str:
        return str(self.info["aligner"].get("name", "unknown"))
