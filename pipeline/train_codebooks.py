"""Train the codebooks and the tokenizer: a pure function of the features, their order and the recipe.

Cost on a sample of h hours: the embedded codebooks take seconds; k-means on HuBERT features passes over the files a few
times and holds one batch of frames; the VQ-VAE takes `pitch.steps` steps.
"""

from pipeline.features import FeatureFiles
from pipeline.models import Artifacts
from schemas.canonical import canonical_json
from schemas.model_sections import (
    F0CodebookSection,
    HubertSection,
    MfccKmeansSection,
    ProsodyKmeansSection,
    VqvaeSection,
    Wav2Vec2KmeansStyleSection,
)
from schemas.recipe import Recipe
from schemas.unit_record import npy_bytes

Files = dict[str, bytes]


def train(features: FeatureFiles, recipe: Recipe, given: Artifacts) -> dict[str, Files]:
    """Return the files of every artifact that is not given, by artifact name."""
    found = _train_units(features, recipe, given)
    found |= _train_pitch(features, recipe, given)
    found |= _train_style(features, recipe, given)
    if "tokenizer" not in given:
        from stages.tokenizer import fit_sentencepiece

        texts = [record.text for record in features.records(())]
        found["tokenizer"] = {"tokenizer.model": fit_sentencepiece(texts, recipe.text.vocab_size)}
    return found


def _train_units(features: FeatureFiles, recipe: Recipe, given: Artifacts) -> dict[str, Files]:
    from stages.codebooks import fit_units_codebook
    from stages.kmeans_stream import fit_kmeans_stream

    match recipe.units:
        case MfccKmeansSection() as section:
            codebook = fit_units_codebook(list(features.records(("units",))), section.clusters, recipe.seed)
        case HubertSection() as section if "units" not in given:
            codebook = fit_kmeans_stream(lambda: features.rows("units"), section.quantiser.clusters, recipe.seed)
        case _:
            return {}
    return {"units": {"units.npy": npy_bytes(codebook)}}


def _train_pitch(features: FeatureFiles, recipe: Recipe, given: Artifacts) -> dict[str, Files]:
    match recipe.pitch:
        case F0CodebookSection() as section:
            from stages.codebooks import fit_pitch_codebook

            codebook = fit_pitch_codebook(list(features.records(("pitch",))), section.clusters, recipe.seed)
            return {"pitch": {"pitch.npy": npy_bytes(codebook)}}
        case VqvaeSection() as section if "pitch" not in given:
            from stages.vqvae_fit import fit_vqvae

            files = fit_vqvae(lambda: features.rows("pitch"), section.clusters, section.steps, recipe.seed)
            return {"pitch": {f"pitch/{name}": data for name, data in files.items()}}
    return {}


def _train_style(features: FeatureFiles, recipe: Recipe, given: Artifacts) -> dict[str, Files]:
    match recipe.style:
        case ProsodyKmeansSection() as section:
            from stages.codebooks import fit_style

            style, speakers = fit_style(list(features.records(("style",))), section.clusters, recipe.seed)
            norms = {"style_speakers": {"style_speakers.json": canonical_json(speakers).encode()}}
            return {"style": {"style.npy": npy_bytes(style)}, **norms}
        case Wav2Vec2KmeansStyleSection() as section if "style" not in given:
            from stages.kmeans_stream import fit_kmeans_stream

            rows = fit_kmeans_stream(lambda: features.rows("style"), section.quantiser.clusters, recipe.seed)
            return {"style": {"style.npy": npy_bytes(rows)}}
    return {}
