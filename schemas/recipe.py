"""The recipe: every setting that decides the bytes of a dataset, validated strictly at the edge.

Batch sizes, devices, workers and time limits are not here: they belong to the run (`RunOptions`), because they must not
change one byte of the output.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.model_sections import (
    AlignSection,
    EnglishSection,
    F0CodebookSection,
    F0Section,
    FcpeSection,
    MfccKmeansSection,
    NormaliseSection,
    PitchSection,
    PocketsphinxSection,
    ProsodyKmeansSection,
    SentencePieceSection,
    StyleSection,
    TranscribeSection,
    UnitsSection,
)
from schemas.sections import Probability, Section
from schemas.sequence import SequenceSection
from schemas.training import TrainSection


class PlanSection(Section):
    """How the manifest is cut into splits."""

    hours_per_shard: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    """Audio per split, hence per shard. `auto`: a sixteenth of the manifest, between 30 s and 1 h."""


class DecodeSection(Section):
    min_seconds: float = 0.1
    max_seconds: float = 120.0
    """Longer clips are rejected as `too_long`, and none weighs more when splits are cut."""
    max_clipped: Probability = 0.02
    """Largest share of samples at full scale."""
    silence_dbfs: float = -60.0
    """A clip whose loudest 20 ms lies below this level is silent."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(f"need 0 < min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}")
        return self


Threshold = float | Literal["auto"]
"""In nats per frame; `auto` is the aligner's own default, since scores of different aligners cannot be compared."""


class QcSection(Section):
    min_score_all: Threshold = "auto"
    """Below it the transcript is taken for wrong. For pocketsphinx -8.7, which lets formant synthesis pass; -6.5 suits
    natural speech."""
    min_silence_score: Threshold = "auto"
    """The same for half a second or more taken for silence: below it, it holds speech that the text lacks."""
    doubtful_score: Threshold = "auto"
    """Words below it are flagged and never carry a modality switch."""
    max_doubtful_share: Probability = 0.6


class FitSection(Section):
    max_hours: Annotated[float, Field(gt=0)] = 2.0
    """Codebooks and the tokenizer are trained on at most this much audio, chosen by the hash of the key."""


class StoreSection(Section):
    audio: bool = True
    """Keep each clip as FLAC in the shard."""
    f0: bool = True
    """Keep each F0 track in the shard."""


class Recipe(Section):
    """A whole run. `embedded` (the defaults) downloads nothing."""

    name: str
    seed: Annotated[int, Field(ge=0)] = 0
    accept_noncommercial: bool = False
    """Weights whose licence forbids commercial use are refused without it."""
    max_reject_rate: Probability = 0.5
    """A build that rejects a larger share of its inputs ends with exit code 1; its shards are kept."""
    plan: PlanSection = PlanSection()
    decode: DecodeSection = DecodeSection()
    transcribe: TranscribeSection | None = None
    normalise: NormaliseSection = EnglishSection()
    align: AlignSection = PocketsphinxSection()
    qc: QcSection = QcSection()
    units: UnitsSection = MfccKmeansSection()
    f0: F0Section = FcpeSection()
    pitch: PitchSection | None = F0CodebookSection()
    style: StyleSection | None = ProsodyKmeansSection()
    text: SentencePieceSection = SentencePieceSection()
    fit: FitSection = FitSection()
    store: StoreSection = StoreSection()
    sequence: SequenceSection = SequenceSection()
    train: TrainSection = TrainSection()

    @model_validator(mode="after")
    def _streams_fit(self) -> Self:
        if self.sequence.stream == "expressive" and (self.pitch is None or self.style is None):
            raise ValueError("sequence.stream is expressive, which needs pitch and style; set it to base")
        return self
