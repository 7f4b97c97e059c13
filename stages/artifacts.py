"""Artifacts: files that decide results, read whole and checked against their sha256 each time."""

import io
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from schemas.canonical import sha256_hex
from schemas.records import Artifact


def artifact_of(path: str) -> Artifact:
    """Return the artifact that a file is now, hashing its bytes.

    Args:
        path: local path or fsspec URL.

    Raises:
        ValueError: if the file is missing.
    """
    return Artifact(path=str(path), sha256=sha256_hex(_read(str(path))))


def verified_bytes(artifact: Artifact) -> bytes:
    """Return a file's bytes.

    Raises:
        ValueError: if the file is missing, or its sha256 is another; the message names the file, both hashes and
            the fix.
    """
    data = _read(artifact.path)
    found = sha256_hex(data)
    if found != artifact.sha256:
        raise ValueError(
            f"{artifact.path} has sha256 {found}, but {artifact.sha256} was asked for: the file was replaced or "
            "damaged; restore it, or run `interloom fit` again and build into a new folder"
        )
    return data


def load_npy(artifact: Artifact, ndim: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Read an .npy file without pickle.

    Raises:
        ValueError: if the file is missing, changed, no .npy file, or of another rank or dtype.
    """
    data = verified_bytes(artifact)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{artifact.path} is no .npy file that can be read without pickle: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != ndim or array.dtype != dtype:
        found = f"{array.dtype}{list(array.shape)}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{artifact.path} must hold a {np.dtype(dtype)} array of rank {ndim}, found {found}")
    return array


def _read(path: str) -> bytes:
    try:
        with fsspec.open(path, "rb") as file:
            data: bytes = file.read()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: run `interloom fit`, or correct the path in the recipe") from None
    return data
