"""From a recipe's sections to stage configs: the only place that knows which backend is which class."""

from typing import Any

from pydantic import BaseModel

from pipeline.models import Artifacts
from schemas.canonical import canonical_json
from schemas.model_sections import (
    CtcSection,
    F0CodebookSection,
    FcpeSection,
    HubertSection,
    ImportedSection,
    KmeansQuantiser,
    LinearQuantiser,
    MfccKmeansSection,
    PocketsphinxSection,
    ProsodyKmeansSection,
    UromanSection,
    VqvaeSection,
    Wav2Vec2KmeansStyleSection,
    Wav2Vec2StyleSection,
    WhisperxAlignSection,
    YaaptSection,
)
from schemas.recipe import Recipe
from stages.align_ctc import CtcConfig
from stages.align_imported import ImportedConfig
from stages.align_pocketsphinx import PocketsphinxConfig
from stages.align_whisperx import WhisperxAlignConfig
from stages.base import FeatureConfig
from stages.f0_fcpe import WEIGHTS_SHA256, FcpeConfig
from stages.f0_yaapt import YaaptConfig
from stages.normalise import NormaliseConfig
from stages.normalise_uroman import UromanConfig
from stages.pitch_codebook import CodebookPitchFeatures, PitchCodebookConfig
from stages.pitch_vqvae import VqvaeFeatures, VqvaePitchConfig
from stages.qc import QcConfig
from stages.quantisers import QuantiserConfig
from stages.style_prosody import ProsodyFeatures, ProsodyStyleConfig
from stages.style_wav2vec2 import Wav2Vec2KmeansStyleConfig, Wav2Vec2StyleConfig, Wav2Vec2StyleFeatures
from stages.transcribe_whisperx import WhisperxTranscribeConfig
from stages.units_hubert import HubertFeatures, HubertUnitsConfig
from stages.units_mfcc import MfccFeatures, MfccUnitsConfig

NOT_SETTINGS = {"backend", "checkpoint", "licence", "origin", "path", "sha256"}
"""Keys that say where a model comes from; what it is, is the artifact's sha256."""

QC_DEFAULTS: dict[str, dict[str, float]] = {
    "pocketsphinx": {"min_score_all": -8.7, "min_silence_score": -5.5, "doubtful_score": -9.0},
    "ctc": {"min_score_all": -1.3, "min_silence_score": -0.3, "doubtful_score": -3.5},
    "whisperx": {"doubtful_score": -0.8},
    "imported": {"doubtful_score": -3.0},
}
"""Thresholds of each aligner; scores of different aligners cannot be compared. Those of `ctc` and whisperX were chosen
with the tiny model of the tests and are mild; of imported words those below 5 % are doubtful."""

WITHOUT_CLIP_SCORES = ("whisperx", "imported")
"""Aligners that score words only: nothing tells that a transcript lacks what is spoken between them."""


PACKAGES: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("align", "pocketsphinx"): (("pocketsphinx", "build"),),
    ("align", "ctc"): (("torchaudio", "build"),),
    ("align", "whisperx"): (("whisperx", "whisperx"),),
    ("transcribe", "whisperx"): (("whisperx", "whisperx"), ("faster_whisper", "whisperx")),
    ("normalise", "english"): (("num2words", "build"), ("pocketsphinx", "build")),
    ("normalise", "uroman"): (("uroman", "models"), ("num2words", "build")),
    ("units", "hubert"): (("torchaudio", "build"),),
    ("f0", "fcpe"): (("torchfcpe", "build"),),
    ("f0", "yaapt"): (("amfm_decompy", "models"),),
    ("pitch", "vqvae"): (("torch", "build"),),
    ("style", "wav2vec2"): (("torch", "build"),),
    ("style", "wav2vec2-kmeans"): (("torch", "build"),),
}
"""(package, the extra of ours that brings it) by section and backend."""


def settings(section: BaseModel, *more: str) -> dict[str, Any]:
    """Return what a section decides, without where its files lie."""
    return section.model_dump(exclude=NOT_SETTINGS | set(more))


def settings_tree(value: Any) -> Any:
    """Return a dumped recipe without where files lie, at every depth."""
    if isinstance(value, dict):
        return {k: settings_tree(v) for k, v in value.items() if k not in NOT_SETTINGS or k == "backend"}
    return value


def normalise_config(recipe: Recipe) -> Any:
    section = recipe.normalise
    if isinstance(section, UromanSection):
        return UromanConfig(language=section.language)
    return NormaliseConfig(language=section.language)


def align_config(recipe: Recipe, artifacts: Artifacts) -> Any:
    match recipe.align:
        case PocketsphinxSection() as section:
            return PocketsphinxConfig(**settings(section))
        case CtcSection() as section:
            return CtcConfig(checkpoint=artifacts["align_model"], **settings(section))
        case WhisperxAlignSection() as section:
            return WhisperxAlignConfig(checkpoint=artifacts["align_model"], **settings(section))
        case ImportedSection() as section:
            return ImportedConfig(source=artifacts["alignments"], **settings(section))


def qc_config(recipe: Recipe) -> QcConfig:
    chosen = {name: value for name, value in recipe.qc.model_dump().items() if value != "auto"}
    return QcConfig(**{**QC_DEFAULTS[recipe.align.backend], **chosen})


def require_qc_fits(recipe: Recipe) -> None:
    """Check that the thresholds set in a recipe are of scores that its aligner gives.

    Raises:
        ValueError: naming the first that would decide nothing.
    """
    if recipe.align.backend not in WITHOUT_CLIP_SCORES:
        return
    for name in ("min_score_all", "min_silence_score"):
        if getattr(recipe.qc, name) != "auto":
            raise ValueError(f"qc.{name} decides nothing: the {recipe.align.backend} aligner scores words only")


def quantiser_config(section: KmeansQuantiser | LinearQuantiser, name: str, artifacts: Artifacts) -> Any:
    return QuantiserConfig(
        kind=section.kind,
        codebook=artifacts[name],
        clusters=section.clusters,
        trained=not section.path,
    )


def units_config(recipe: Recipe, artifacts: Artifacts) -> Any:
    match recipe.units:
        case MfccKmeansSection():
            return MfccUnitsConfig(codebook=artifacts["units"])
        case HubertSection() as section:
            quantiser = quantiser_config(section.quantiser, "units", artifacts)
            return HubertUnitsConfig(
                checkpoint=artifacts["units_model"], quantiser=quantiser, **settings(section, "quantiser")
            )


def transcribe_config(recipe: Recipe, artifacts: Artifacts) -> Any:
    section = recipe.transcribe
    if section is None or "transcribe_model" not in artifacts:
        return None
    return WhisperxTranscribeConfig(checkpoint=artifacts["transcribe_model"], **settings(section, "max_seconds"))


def f0_config(recipe: Recipe) -> Any:
    match recipe.f0:
        case FcpeSection() as section:
            return FcpeConfig(**settings(section))
        case YaaptSection() as section:
            return YaaptConfig(**settings(section))


FROM_F0 = (PitchCodebookConfig, VqvaePitchConfig, ProsodyStyleConfig)
"""Unit streams that depend on the F0 extractor."""


def f0_description(recipe: Recipe) -> str:
    """Return what a contract says about the F0 behind a stream."""
    config = f0_config(recipe)
    weights = {"weights": WEIGHTS_SHA256} if isinstance(config, FcpeConfig) else {}
    told = {"backend": recipe.f0.backend, "version": config.version, **settings(recipe.f0), **weights}
    return f"f0 {canonical_json(told)}"


def pitch_config(recipe: Recipe, artifacts: Artifacts) -> Any:
    match recipe.pitch:
        case F0CodebookSection():
            return PitchCodebookConfig(codebook=artifacts["pitch"])
        case VqvaeSection() as section:
            return VqvaePitchConfig(checkpoint=artifacts["pitch"], clusters=section.clusters)
        case None:
            return None


def style_config(recipe: Recipe, artifacts: Artifacts) -> Any:
    match recipe.style:
        case ProsodyKmeansSection():
            return ProsodyStyleConfig(codebook=artifacts["style"], speakers=artifacts["style_speakers"])
        case Wav2Vec2StyleSection() as section:
            return Wav2Vec2StyleConfig(checkpoint=artifacts["style_model"], **settings(section))
        case Wav2Vec2KmeansStyleSection() as section:
            quantiser = quantiser_config(section.quantiser, "style", artifacts)
            return Wav2Vec2KmeansStyleConfig(
                checkpoint=artifacts["style_model"], quantiser=quantiser, **settings(section, "quantiser")
            )
        case None:
            return None


def units_features(recipe: Recipe, artifacts: Artifacts) -> FeatureConfig | None:
    """Return what the unit codebook is trained on, or None where it is given."""
    match recipe.units:
        case MfccKmeansSection():
            return MfccFeatures()
        case HubertSection() as section if "units" not in artifacts:
            return HubertFeatures(checkpoint=artifacts["units_model"], **settings(section, "quantiser"))
    return None


def pitch_features(recipe: Recipe, artifacts: Artifacts) -> FeatureConfig | None:
    match recipe.pitch:
        case F0CodebookSection():
            return CodebookPitchFeatures()
        case VqvaeSection() if "pitch" not in artifacts:
            return VqvaeFeatures()
    return None


def style_features(recipe: Recipe, artifacts: Artifacts) -> FeatureConfig | None:
    match recipe.style:
        case ProsodyKmeansSection():
            return ProsodyFeatures()
        case Wav2Vec2KmeansStyleSection() as section if "style" not in artifacts:
            return Wav2Vec2StyleFeatures(checkpoint=artifacts["style_model"], **settings(section, "quantiser"))
    return None
