"""The files that a recipe names: where they are, their licence, and their sha256, pinned before any work starts."""

import os
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from schemas.model_sections import (
    HubertSection,
    ImportedSection,
    KmeansQuantiser,
    LinearQuantiser,
    ModelSection,
    SentencePieceSection,
    VqvaeSection,
    Wav2Vec2KmeansStyleSection,
)
from schemas.recipe import Recipe
from schemas.records import Artifact
from stages.align_imported import alignment_source
from stages.checkpoints import BadCheckpoint, checkpoint_of

Artifacts = Mapping[str, Artifact]


NONCOMMERCIAL = (
    "noncommercial",
    "non commercial",
    "not for commercial",
    "no commercial",
    "research only",
    "research use",
)


class LicenceError(ValueError):
    """Weights that forbid commercial use were not opted in to."""


class ModelRef(NamedTuple):
    """A file or folder that a recipe names.

    Attributes:
        name: of the artifact that it becomes.
        where: section of the recipe.
        kept: copied into the dataset's artifacts (codebooks and tokenizers), so that a dataset is complete.
    """

    name: str
    where: str
    path: str
    sha256: str
    licence: str
    origin: str
    kept: bool = False

    @property
    def noncommercial(self) -> bool:
        words = re.split(r"[^a-z]+", self.licence.lower())
        told = " ".join(words)
        return "nc" in words or any(phrase in told for phrase in NONCOMMERCIAL)

    @property
    def hint(self) -> str:
        told = f"get it from {self.origin}" if self.origin else f"correct {self.where} in the recipe"
        return told + (f" (licence {self.licence})" if self.licence else "")


def referenced(recipe: Recipe) -> list[ModelRef]:
    """Return the files that a recipe names, in the order of its sections."""
    found: list[ModelRef] = []
    for where in ("transcribe", "align", "units", "style"):
        section = getattr(recipe, where)
        if isinstance(section, ModelSection):
            found.append(_model(f"{where}_model", f"{where}.checkpoint", section))
        if isinstance(section, HubertSection | Wav2Vec2KmeansStyleSection) and section.quantiser.path:
            found.append(_quantiser(where, section.quantiser))
    if isinstance(recipe.align, ImportedSection):
        found.append(ModelRef("alignments", "align.path", recipe.align.path, recipe.align.sha256, "", ""))
    if isinstance(recipe.pitch, VqvaeSection) and recipe.pitch.checkpoint:
        found.append(_model("pitch", "pitch.checkpoint", recipe.pitch))
    if isinstance(recipe.text, SentencePieceSection) and recipe.text.path:
        text = recipe.text
        found.append(ModelRef("tokenizer", "text.path", text.path, text.sha256, text.licence, text.origin, True))
    return found


def _model(name: str, where: str, section: ModelSection | VqvaeSection) -> ModelRef:
    return ModelRef(name, where, section.checkpoint, section.sha256, section.licence, section.origin)


def _quantiser(where: str, section: KmeansQuantiser | LinearQuantiser) -> ModelRef:
    return ModelRef(
        where, f"{where}.quantiser.path", section.path, section.sha256, section.licence, section.origin, True
    )


def require_licences(recipe: Recipe) -> None:
    """Check that non-commercial weights were opted in to.

    Raises:
        LicenceError: naming the first that was not.
    """
    for ref in referenced(recipe):
        if told := refusal(recipe, ref):
            raise LicenceError(f"{ref.where}: {told}")


def refusal(recipe: Recipe, ref: ModelRef) -> str:
    """Return why a file may not be used, or ""."""
    if not ref.noncommercial or recipe.accept_noncommercial:
        return ""
    return (
        f"{ref.path} is under {ref.licence}, which forbids commercial use; if that is fine for you, say so with "
        "accept_noncommercial: true in the recipe or --set accept_noncommercial=true"
    )


def pin(recipe: Recipe, *, transcribe: bool = False) -> dict[str, Artifact]:
    """Return every file that a recipe names, hashed, by artifact name; that of the transcriber only where asked for.

    Raises:
        BadCheckpoint: if one is missing or is not what the recipe's sha256 says.
    """
    wanted = [ref for ref in referenced(recipe) if transcribe or ref.name != "transcribe_model"]
    return {ref.name: pin_one(ref) for ref in wanted}


def pinned(recipe: Recipe) -> dict[str, Artifact] | None:
    """Return what `pin` does by the recipe's own word, without a look at the files; None where it gives no sha256."""
    named = [ref for ref in referenced(recipe) if ref.name != "transcribe_model"]
    given = {ref.name: Artifact(path=ref.path, sha256=ref.sha256) for ref in named}
    return given if all(ref.sha256 for ref in named) else None


def pin_one(ref: ModelRef) -> Artifact:
    """Return one file, hashed."""
    if "://" in ref.path:
        raise BadCheckpoint(f"{ref.where}: {ref.path} is remote; models are read from a local disk, copy it first")
    path = absolute(ref.path)
    if ref.name == "alignments":
        return alignment_source(path, ref.sha256)
    if ref.kept and os.path.isdir(path):
        raise BadCheckpoint(f"{path} is a folder, {ref.where} is a file")
    return _hashed(path, ref.sha256, ref.hint, _stamp(path))


def absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def resolved(recipe: Recipe) -> Recipe:
    """Return a recipe whose files are named by absolute paths and pinned by sha256, so that it means the same anywhere.

    The transcriber's files are not hashed: once the transcripts are made they are not needed.
    """
    values = recipe.model_dump()
    for ref in referenced(recipe):
        node, key = _node(values, ref)
        node[key] = absolute(ref.path)
        if ref.name != "transcribe_model":
            node["sha256"] = pin_one(ref).sha256
    return Recipe.model_validate(values)


def _node(values: dict[str, Any], ref: ModelRef) -> tuple[dict[str, Any], str]:
    """Return the plain section that names a file, and the key."""
    *sections, key = ref.where.split(".")
    for section in sections:
        values = values[section]
    return values, key


def portable(recipe: Recipe) -> Recipe:
    """Return a recipe that names files by their last part only: what a dataset says, wherever it was made."""
    values = recipe.model_dump()
    for ref in referenced(recipe):
        node, key = _node(values, ref)
        node[key] = os.path.basename(ref.path)
    return Recipe.model_validate(values)


@lru_cache(maxsize=64)
def _hashed(path: str, wanted: str, hint: str, stamp: tuple[tuple[str, int, int], ...]) -> Artifact:
    """Hash once per process and state of the files."""
    del stamp
    return checkpoint_of(path, wanted, hint)


def _stamp(path: str) -> tuple[tuple[str, int, int], ...]:
    try:
        entries = list(os.scandir(path)) if os.path.isdir(path) else []
        facts = [(entry.name, entry.stat()) for entry in entries] or [(path, os.stat(path))]
    except OSError:
        return ()
    return tuple(sorted((name, found.st_size, found.st_mtime_ns) for name, found in facts))
