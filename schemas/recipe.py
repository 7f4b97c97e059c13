"""The recipe: every setting that decides the bytes of a dataset, validated strictly at the edge.

Batch sizes, devices, workers and time limits are not here: they belong to the run (`RunOptions`), because they must not
change one byte of the output.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]
Clusters = Annotated[int, Field(ge=2, le=65_536)]
"""Sizes of codebooks; ids are stored as uint16."""


class Section(BaseModel):
    """Frozen, strict about keys; numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PlanSection(Section):
    """How the manifest is cut into splits."""

    hours_per_shard: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Audio per split, hence per shard. `auto`: a sixteenth of the manifest, between 30 s and 1 h."""


class DecodeSection(Section):
    min_seconds: float = 0.1
    max_seconds: float = 120.0
    max_clipped: Probability = 0.02
    """Largest share of samples at full scale."""
    silence_dbfs: float = -60.0
    """A clip whose loudest 20 ms lies below this level is silent."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(f"need 0 < min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}")
        return self


class NormaliseSection(Section):
    language: Literal["en"] = "en"


class PocketsphinxSection(Section):
    backend: Literal["pocketsphinx"] = "pocketsphinx"
    full_search_seconds: Annotated[float, Field(ge=0)] = 60.0
    """Longest clip on which the unpruned search may be tried; its memory is quadratic."""
    max_words_per_second: Annotated[float, Field(gt=0)] = 12.0


class QcSection(Section):
    """Thresholds in nats per frame, for scores over all senones."""

    min_score_all: float = -8.7
    """Below it the transcript is taken for wrong. -8.7 lets formant synthesis pass; -6.5 suits natural speech."""
    min_silence_score: float = -5.5
    """The same for half a second or more taken for silence: below it, it holds speech that the text lacks."""
    doubtful_score: float = -9.0
    """Words below it are flagged and never carry a modality switch."""
    max_doubtful_share: Probability = 0.6


class MfccKmeansSection(Section):
    backend: Literal["mfcc-kmeans"] = "mfcc-kmeans"
    clusters: Clusters = 100


class FcpeSection(Section):
    backend: Literal["fcpe"] = "fcpe"
    threshold: Probability = 0.05
    min_hz: Annotated[float, Field(gt=0)] = 50.0
    max_hz: Annotated[float, Field(gt=0)] = 1100.0


class F0CodebookSection(Section):
    backend: Literal["f0-codebook"] = "f0-codebook"
    clusters: Clusters = 64


class ProsodyKmeansSection(Section):
    backend: Literal["prosody-kmeans"] = "prosody-kmeans"
    clusters: Clusters = 16


class SentencePieceSection(Section):
    backend: Literal["sentencepiece"] = "sentencepiece"
    vocab_size: Annotated[int, Field(ge=300, le=1_000_000)] = 500
    """At least the 256 bytes that spell what no piece covers, and some pieces."""


class FitSection(Section):
    max_hours: Annotated[float, Field(gt=0)] = 2.0
    """Codebooks and the tokenizer are trained on at most this much audio, chosen by the hash of the key."""


class StoreSection(Section):
    audio: bool = True
    """Keep each clip as FLAC in the shard."""
    f0: bool = True
    """Keep each F0 track in the shard."""


class SpiritLmPolicy(Section):
    """Spirit LM's sampling (arXiv 2402.05755, App. A): alternate text and speech spans with uniform lengths."""

    name: Literal["spiritlm"] = "spiritlm"
    text_words: tuple[Positive, Positive] = (10, 30)
    speech_words: tuple[Positive, Positive] = (5, 15)
    start: Literal["random", "text", "speech"] = "random"
    """Modality of a document's first span; the paper does not state it."""
    remainder: Literal["keep", "merge"] = "keep"
    """A last span shorter than its minimum: kept short, or merged into the span before it."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, (least, most) in (("text_words", self.text_words), ("speech_words", self.speech_words)):
            if least > most:
                raise ValueError(f"{name} is [least, most], got [{least}, {most}]")
        return self


class SequenceSection(Section):
    """How the reader turns records into token sequences. It does not change the shards."""

    policy: SpiritLmPolicy = SpiritLmPolicy()
    stream: Literal["base", "expressive"] = "expressive"
    gap: Literal["midpoint", "left", "right"] = "midpoint"
    """Which side of a switch the silence between two words goes to; midpoint shares it."""
    context: Annotated[int, Field(ge=8)] = 512
    join_recordings: bool = True
    """Join the utterances of a recording, in order, into one document."""


class TrainSection(Section):
    hidden_size: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    batch_size: Positive = 8
    steps: Positive = 200
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    warmup: Annotated[int, Field(ge=0)] = 20


class Recipe(Section):
    """A whole run. `embedded` (the defaults) downloads nothing."""

    name: str
    seed: Annotated[int, Field(ge=0)] = 0
    max_reject_rate: Probability = 0.5
    """A build that rejects a larger share of its inputs ends with exit code 1; its shards are kept."""
    plan: PlanSection = PlanSection()
    decode: DecodeSection = DecodeSection()
    normalise: NormaliseSection = NormaliseSection()
    align: PocketsphinxSection = PocketsphinxSection()
    qc: QcSection = QcSection()
    units: MfccKmeansSection = MfccKmeansSection()
    f0: FcpeSection = FcpeSection()
    pitch: F0CodebookSection = F0CodebookSection()
    style: ProsodyKmeansSection = ProsodyKmeansSection()
    text: SentencePieceSection = SentencePieceSection()
    fit: FitSection = FitSection()
    store: StoreSection = StoreSection()
    sequence: SequenceSection = SequenceSection()
    train: TrainSection = TrainSection()
