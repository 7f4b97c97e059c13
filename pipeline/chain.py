"""The chain of stages of each job, and the fingerprint of what decides its bytes."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

from pipeline import backends
from pipeline.features import FeatureSinkConfig
from pipeline.models import Artifacts
from pipeline.shards import ShardSinkConfig
from schemas.canonical import fingerprint
from schemas.contract import UnitContract
from schemas.model_sections import ProsodyKmeansSection
from schemas.recipe import Recipe
from schemas.records import Artifact
from stages.base import StageConfig
from stages.decode import DecodeConfig
from stages.fit_features import FitFeaturesConfig
from stages.style_prosody import ProsodyFeatures

Steps = tuple[StageConfig[Any, Any], ...]


def decode_config(recipe: Recipe) -> DecodeConfig:
    return DecodeConfig(**recipe.decode.model_dump())


def fit_steps(recipe: Recipe, given: Artifacts) -> Steps:
    """Return the stages that extract what is to be trained; empty where every codebook is given."""
    units = backends.units_features(recipe, given)
    pitch = backends.pitch_features(recipe, given)
    style = backends.style_features(recipe, given)
    if units is None and pitch is None and style is None and "tokenizer" in given:
        return ()
    heard = pitch is not None or isinstance(style, ProsodyFeatures)
    f0 = backends.f0_config(recipe) if heard else None
    return (decode_config(recipe), FitFeaturesConfig(f0=f0, units=units, pitch=pitch, style=style))


def fit_sink() -> FeatureSinkConfig:
    return FeatureSinkConfig()


def unit_configs(recipe: Recipe, artifacts: Artifacts) -> list[Any]:
    found = [backends.units_config(recipe, artifacts)]
    found += [backends.pitch_config(recipe, artifacts), backends.style_config(recipe, artifacts)]
    return [config for config in found if config is not None]


def needs_f0(recipe: Recipe) -> bool:
    """Tell whether anything in the records is made from F0."""
    return recipe.pitch is not None or isinstance(recipe.style, ProsodyKmeansSection) or recipe.store.f0


def build_steps(recipe: Recipe, artifacts: Artifacts) -> Steps:
    units, *others = unit_configs(recipe, artifacts)
    return (
        decode_config(recipe),
        backends.normalise_config(recipe),
        backends.align_config(recipe, artifacts),
        backends.qc_config(recipe),
        units,
        *([backends.f0_config(recipe)] if needs_f0(recipe) else []),
        *others,
    )


def contracts(recipe: Recipe, artifacts: Artifacts) -> dict[str, UnitContract]:
    found = [(config, config.contract()) for config in unit_configs(recipe, artifacts)]
    heard = backends.f0_description(recipe)
    return {
        contract.stream: replace(contract, input=heard if isinstance(config, backends.FROM_F0) else "")
        for config, contract in found
    }


def build_sink(recipe: Recipe, artifacts: Artifacts) -> ShardSinkConfig:
    sizes = tuple((name, contract.codebook_size) for name, contract in contracts(recipe, artifacts).items())
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
        inner = {field.name: describe(getattr(value, field.name)) for field in fields(value)}
        return {"": type(value).__name__, **inner}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    return value
