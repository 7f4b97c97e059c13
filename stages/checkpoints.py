"""Checkpoints: model files on this machine, pinned by sha256 before a run and checked again wherever they are loaded.

A checkpoint is a file, or a folder in Hugging Face's layout. A folder's sha256 is that of the list of its model files
(name, sha256), so a README may change and weights may not. Tensors are read from safetensors, or from PyTorch files
with `weights_only`; nothing is unpickled.
"""

import atexit
import hashlib
import json
import tempfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from schemas.canonical import canonical_json, sha256_hex
from schemas.records import Artifact

MODEL_SUFFIXES = {".bin", ".json", ".model", ".npy", ".onnx", ".pt", ".pth", ".safetensors", ".txt", ".yaml"}
SMALL = 1 << 26
"""Bytes up to which a .safetensors file is read whole; a larger one is mapped, so that it is in memory once."""
_BLOCK = 1 << 22


class BadCheckpoint(ValueError):
    """A checkpoint is missing, damaged or of another kind; the message names the file and the fix."""


def checkpoint_of(path: str, wanted: str = "", hint: str = "") -> Artifact:
    """Return the checkpoint that lies at a path now, hashing its files (about 1 s per 1.5 GB).

    Args:
        path: local file or folder.
        wanted: sha256 that it must have, or "" for any.
        hint: where to get it; added to the message where it is missing.

    Raises:
        BadCheckpoint: if it is missing, holds no model files, or has another sha256.
    """
    found = _sha256(path, hint)
    if wanted and found != wanted:
        raise BadCheckpoint(
            f"{path} has sha256 {found}, but {wanted} was asked for: the files were replaced or damaged; restore them, "
            "or correct the sha256 in the recipe"
        )
    return Artifact(path=str(path), sha256=found)


def verified_path(checkpoint: Artifact) -> Path:
    """Return the local path of a checkpoint after checking that its files still have the pinned sha256.

    What a run trained may lie in an object store with its dataset; it is then copied here, once per process.

    Raises:
        BadCheckpoint: if not.
    """
    path = _localised(checkpoint.path) if "://" in checkpoint.path else checkpoint.path
    checkpoint_of(path, checkpoint.sha256)
    return Path(path)


@lru_cache(maxsize=16)
def _localised(url: str) -> str:
    import fsspec

    folder = tempfile.TemporaryDirectory(prefix="interloom-models-")
    atexit.register(folder.cleanup)
    files, root = fsspec.core.url_to_fs(url)
    name = Path(folder.name) / PurePosixPath(root).name
    try:
        files.get(root, str(name), recursive=files.isdir(root))
    except FileNotFoundError:
        raise BadCheckpoint(f"{url} is missing: run `interloom fit` again") from None
    return str(name)


def model_files(folder: Path) -> list[Path]:
    """Return the files of a folder that decide a model, sorted by name."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in MODEL_SUFFIXES and p.name[0] != ".")


def read_json_file(path: Path) -> dict[str, Any]:
    """Read a JSON object such as `config.json`.

    Raises:
        BadCheckpoint: if it is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise BadCheckpoint(f"{path} is missing: is {path.parent} a complete checkpoint folder?") from None
    except (ValueError, RecursionError):
        raise BadCheckpoint(f"{path} is no JSON file") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} must hold a JSON object, it holds a {type(value).__name__}")
    return value


def folder_weights(folder: Path) -> dict[str, Any]:
    """Return the tensors of a Hugging Face folder by name: `model.safetensors`, else `pytorch_model.bin`.

    Raises:
        BadCheckpoint: if there is neither, or the file cannot be read as tensors.
    """
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return read_tensors(folder / name)
    if list(folder.glob("*.index.json")):
        raise BadCheckpoint(f"{folder} holds sharded weights; merge them into one model.safetensors")
    raise BadCheckpoint(f"{folder} holds neither model.safetensors nor pytorch_model.bin")


def read_tensors(path: Path) -> dict[str, Any]:
    """Return the tensors of a .safetensors file, or of a PyTorch file, by name (or its nested dict), on the CPU.

    Tensors of a large .safetensors file are the file itself, mapped into memory: copy those that are to stay.

    Raises:
        BadCheckpoint: if the file is missing, truncated, or holds a pickle of anything but tensors.
    """
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    if not path.is_file():
        raise BadCheckpoint(f"{path} is missing")
    try:
        if path.suffix == ".safetensors":
            return dict(load(path.read_bytes()) if path.stat().st_size < SMALL else load_file(path))
        value = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise BadCheckpoint(f"{path} is damaged or no safetensors file: {' '.join(str(error).split())[:200]}") from None
    except UnpicklingError:
        raise BadCheckpoint(
            f"{path} is no file of tensors: it is damaged, or a pickle of other objects, which is never executed; "
            "convert it to safetensors"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        told = " ".join(str(error).split())[:200]
        raise BadCheckpoint(f"{path} is damaged or no PyTorch file: {type(error).__name__}: {told}") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} must hold a dict of tensors, it holds a {type(value).__name__}")
    return value


def _sha256(path: str, hint: str) -> str:
    place = Path(path)
    if place.is_dir():
        files = model_files(place)
        if not files:
            raise BadCheckpoint(f"{path} holds no model files")
        return sha256_hex(canonical_json([[file.name, _file_sha256(file)] for file in files]).encode())
    if not place.is_file():
        raise BadCheckpoint(f"{path} is missing" + (f"; {hint}" if hint else ": correct the path in the recipe"))
    return _file_sha256(place)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
