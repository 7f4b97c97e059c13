"""From a recipe to stages: the only place that knows which recipe section configures which stage."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pipeline.features import FeatureSinkConfig
from pipeline.shards import ShardSinkConfig
from schemas.canonical import fingerprint
from schemas.contract import UnitContract
from schemas.recipe import Recipe
from schemas.records import Artifact
from stages.align_pocketsphinx import PocketsphinxConfig
from stages.base import StageConfig
from stages.decode import DecodeConfig
from stages.f0_fcpe import FcpeConfig
from stages.fit_features import FitFeaturesConfig
from stages.normalise import NormaliseConfig
from stages.pitch_codebook import PitchCodebookConfig
from stages.qc import QcConfig
from stages.style_prosody import ProsodyStyleConfig
from stages.units_mfcc import MfccUnitsConfig

Steps = tuple[StageConfig[Any, Any], ...]
Artifacts = Mapping[str, Artifact]


def decode_config(recipe: Recipe) -> DecodeConfig:
    return DecodeConfig(**recipe.decode.model_dump())


def f0_config(recipe: Recipe) -> FcpeConfig:
    return FcpeConfig(**recipe.f0.model_dump(exclude={"backend", "hop"}))


def fit_steps(recipe: Recipe) -> Steps:
    return (decode_config(recipe), FitFeaturesConfig(f0=f0_config(recipe)))


def fit_sink() -> FeatureSinkConfig:
    return FeatureSinkConfig()


def align_config(recipe: Recipe) -> PocketsphinxConfig:
    return PocketsphinxConfig(**recipe.align.model_dump(exclude={"backend"}))


QC_DEFAULTS: dict[str, dict[str, float]] = {
    "pocketsphinx": {"min_score_all": -8.7, "min_silence_score": -5.5, "doubtful_score": -9.0},
}
"""Thresholds of each aligner; scores of different aligners cannot be compared."""


def qc_config(recipe: Recipe) -> QcConfig:
    chosen = {name: value for name, value in recipe.qc.model_dump().items() if value != "auto"}
    return QcConfig(**{**QC_DEFAULTS[recipe.align.backend], **chosen})


def unit_configs(artifacts: Artifacts) -> tuple[MfccUnitsConfig, PitchCodebookConfig, ProsodyStyleConfig]:
    return (
        MfccUnitsConfig(codebook=artifacts["units"]),
        PitchCodebookConfig(codebook=artifacts["pitch"]),
        ProsodyStyleConfig(codebook=artifacts["style"], speakers=artifacts["style_speakers"]),
    )


def build_steps(recipe: Recipe, artifacts: Artifacts) -> Steps:
    units, pitch, style = unit_configs(artifacts)
    return (
        decode_config(recipe),
        NormaliseConfig(**recipe.normalise.model_dump(exclude={"backend"})),
        align_config(recipe),
        qc_config(recipe),
        units,
        f0_config(recipe),
        pitch,
        style,
    )


def contracts(artifacts: Artifacts) -> dict[str, UnitContract]:
    found = [config.contract() for config in unit_configs(artifacts)]
    return {contract.stream: contract for contract in found}


def build_sink(recipe: Recipe, artifacts: Artifacts) -> ShardSinkConfig:
    sizes = tuple((name, contract.codebook_size) for name, contract in contracts(artifacts).items())
    return ShardSinkConfig(
        store_audio=recipe.store.audio,
        store_f0=recipe.store.f0,
        tokenizer=artifacts["tokenizer"],
        codebook_sizes=sizes,
    )


def job_fingerprint(plan_fingerprint: str, steps: Steps, sink: Any, *more: Any) -> str:
    """Hash everything that decides the bytes of a job's output; where artifacts lie does not."""
    described = [[type(step).__name__, step.name, step.version, describe(step)] for step in steps]
    return fingerprint([plan_fingerprint, described, type(sink).__name__, describe(sink), *more])


def describe(value: Any) -> Any:
    """Return a config as plain JSON values; an artifact is its sha256."""
    if isinstance(value, Artifact):
        return value.sha256
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    return value
