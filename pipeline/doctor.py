"""What a recipe needs and whether it is there: `interloom doctor`."""

from pathlib import Path
from typing import NamedTuple

from pipeline.backends import PACKAGES
from pipeline.chain import needs_f0
from pipeline.models import ModelRef, absolute, pin_one, referenced, refusal
from pipeline.preflight import preflight
from schemas.recipe import Recipe
from stages.checkpoints import model_files

RUNTIME_BYTES = 500 * 2**20
"""A worker with torch loaded and no model, measured on Linux with torch 2.8."""


class Finding(NamedTuple):
    """One file that a recipe names.

    Attributes:
        problem: what is wrong with it, or "".
        bytes: size of its model files.
    """

    ref: ModelRef
    problem: str
    sha256: str
    bytes: int


class Part(NamedTuple):
    """One stage: what it is, and what it would run on."""

    section: str
    backend: str
    device: str
    memory_bytes: int


class Diagnosis(NamedTuple):
    """What `examine` found; `problem` is the first thing that would stop a run, or ""."""

    files: list[Finding]
    parts: list[Part]
    packages: list[tuple[str, str]]
    problem: str


def examine(recipe: Recipe, device: str = "auto") -> Diagnosis:
    """Look at everything and raise nothing."""
    files = [_finding(recipe, ref) for ref in referenced(recipe)]
    problem = next((f"{found.ref.where}: {found.problem}" for found in files if found.problem), "")
    if not problem:
        try:
            preflight(recipe, transcribe=True)
        except (ValueError, ImportError, OSError) as error:
            problem = " ".join(str(error).split())
    return Diagnosis(files, _parts(recipe, files, device), missing_packages(recipe), problem)


def missing_packages(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (package, extra that brings it) for every package that the recipe's backends need and that is not here."""
    from importlib.util import find_spec

    wanted = [need for section, backend in _backends(recipe) for need in PACKAGES.get((section, backend), ())]
    return sorted({(package, extra) for package, extra in wanted if find_spec(package) is None})


def _backends(recipe: Recipe) -> list[tuple[str, str]]:
    sections = ("transcribe", "normalise", "align", "units", "f0", "pitch", "style", "text")
    found = [(name, getattr(recipe, name)) for name in sections if name != "f0" or needs_f0(recipe)]
    return [(name, section.backend) for name, section in found if section is not None]


def _finding(recipe: Recipe, ref: ModelRef) -> Finding:
    size = _size(ref.path)
    try:
        sha256 = pin_one(ref).sha256
    except (ValueError, OSError) as error:
        return Finding(ref, " ".join(str(error).split()), "", size)
    return Finding(ref, refusal(recipe, ref), sha256, size)


def _size(path: str) -> int:
    place = Path(absolute(path))
    if place.is_dir():
        return sum(file.stat().st_size for file in model_files(place))
    return place.stat().st_size if place.is_file() else 0


def _parts(recipe: Recipe, files: list[Finding], device: str) -> list[Part]:
    sizes = {found.ref.name.removesuffix("_model"): found.bytes for found in files if not found.ref.kept}
    return [
        Part(section, backend, _device_of(section, backend, device), _memory(recipe, section, sizes.get(section, 0)))
        for section, backend in _backends(recipe)
    ]


def _device_of(section: str, backend: str, device: str) -> str:
    """Return where a stage would run; models with a checkpoint follow `--device`, the rest is for the CPU."""
    if backend not in ("ctc", "hubert", "whisperx", "wav2vec2", "wav2vec2-kmeans"):
        return "cpu"
    if device != "auto":
        return device
    from importlib.util import find_spec

    if find_spec("torch") is None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _memory(recipe: Recipe, section: str, weights: int) -> int:
    """Return a rough upper figure: weights in the chosen precision, and the activations of one window."""
    if not weights:
        return EMBEDDED_BYTES.get(getattr(recipe, section).backend, 0)
    chosen = getattr(recipe, section)
    half = getattr(chosen, "precision", "float32") != "float32"
    seconds = min(getattr(chosen, "window_seconds", 30.0), recipe.decode.max_seconds)
    return int(weights * (0.5 if half else 1.0) + seconds * ACTIVATION_BYTES_PER_SECOND)


EMBEDDED_BYTES = {"pocketsphinx": 150 * 2**20, "fcpe": 250 * 2**20}

ACTIVATION_BYTES_PER_SECOND = 8 * 2**20
"""Of a base-sized encoder in float32; see `docs/models.md`."""
