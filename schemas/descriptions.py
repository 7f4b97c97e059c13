"""The form of the JSON files that describe a plan and a dataset: who reads one follows it only if it has this form."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Description(BaseModel):
    """Strict about types; what it does not know is left alone."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class PlanDescription(_Description):
    """`plan/plan.json`; see `pipeline.plan.Plan`."""

    format: Literal["interloom-plan/1"]
    base: str
    fingerprint: str
    inputs: tuple[Count, ...]
    sizes: tuple[Seconds, ...]
    max_seconds: Seconds | None = None
    unknown_seconds: Seconds = 0.0

    @model_validator(mode="after")
    def _one_size_a_split(self) -> Self:
        if len(self.inputs) != len(self.sizes):
            raise ValueError(f"{len(self.inputs)} inputs and {len(self.sizes)} sizes")
        return self


class KeptFile(_Description):
    """A file, with the hash of its bytes."""

    sha256: str


class KeptArtifact(KeptFile):
    """A model or codebook; `path` starts from the dataset's folder."""

    path: str


class StreamDescription(_Description):
    """A unit contract; see `schemas.contract.UnitContract`."""

    stream: str
    extractor: str
    version: int
    model_sha256: str
    layer: int | None
    codebook_sha256: str
    codebook_size: Annotated[int, Field(ge=1, le=65_536)]
    frame_rate: str
    hop: Annotated[int, Field(ge=1, le=2**31)]
    offset: Annotated[int, Field(ge=-(2**31), le=2**31)]
    chunking: str = ""
    precision: str = ""
    input: str = ""
    deduplicated: bool = False


class DatasetDescription(_Description):
    """`dataset.json`; see `pipeline.finish`."""

    format: Literal["interloom-units/1"]
    aligner: dict[str, Any]
    artifacts: dict[str, KeptArtifact]
    code_version: str
    fingerprint: str
    inputs: Count
    name: str
    num_samples: Count
    plan: str
    reasons: dict[str, Count]
    recipe: dict[str, Any]
    records: Count
    rejects: Count
    shards: KeptFile
    splits: Count
    streams: dict[str, StreamDescription]
    transcription: dict[str, Any] | None = None


class VocabularyDescription(_Description):
    """See `stages.vocabulary.Vocabulary.describe`, which says more."""

    size: Annotated[int, Field(ge=1, le=2**31)]
    tokenizer_sha256: str
    blocks: dict[str, tuple[Count, Count]]


class BakedSequence(_Description):
    vocabulary: dict[str, Any]


class BakedDescription(_Description):
    """`baked.json`; see `pipeline.bake`."""

    format: Literal["interloom-baked/2"]
    context: Annotated[int, Field(ge=1, le=2**31)]
    fingerprint: str
    sequence: BakedSequence
    shards: tuple[tuple[Annotated[str, Field(pattern=r"^baked-[0-9]{6,18}-[0-9]{6,18}\.tar$")], Count], ...]
    tokenizer: str
    unit_contracts: dict[str, StreamDescription]
    vocabulary: VocabularyDescription


def what_is_wrong(error: ValidationError) -> str:
    """Return in a few words where a file has another form, and how."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return ": ".join(filter(None, (place, first["msg"])))
