"""Quantisers: from a feature vector to a unit id, by k-means or by Spirit LM's linear layers.

Each id comes with a margin: how little the features would have to change, relative to their length, for another id.
Features that differ by rounding alone (about 1e-6 in float32) keep an id whose margin is well above that.
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from schemas.records import Artifact
from stages.artifacts import verified_bytes
from stages.checkpoints import BadCheckpoint, read_tensors, verified_path
from stages.joblib_arrays import MAX_BYTES, read_centroids
from stages.kmeans_quantiser import Assigned, Float32, KmeansQuantiser
from stages.linear_quantiser import LinearQuantiser, linear_layers

__all__ = ["Assigned", "KmeansQuantiser", "LinearQuantiser", "Quantiser", "QuantiserConfig"]

KMEANS_KEYS = ("cluster_centers_", "cluster_centers", "centroids")


class Quantiser(Protocol):
    """Live; `width` is that of a feature vector, ids lie in [0, size)."""

    @property
    def width(self) -> int: ...

    @property
    def size(self) -> int: ...

    def assign(self, features: Float32) -> Assigned:
        """Quantise the features of one clip: finite float32, shape (n, width).

        Raises:
            ValueError: if the width is another, or a feature is not finite.
        """

    def classes(self, features: Float32) -> Assigned:
        """Return what a row gives by itself; `joined` makes a clip's ids of it."""

    def joined(self, classes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        """Return the ids of a clip from those of its rows, which may have been found part by part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiserConfig:
    """Which codebook.

    Attributes:
        kind: `kmeans`: .npy, .safetensors, .pt, or scikit-learn's joblib file (the km.bin of HuBERT's and TWIST's
            releases). `linear`: Spirit LM's release, or its tensors as .safetensors.
        codebook: the file.
        clusters: how many units it must hold; for `linear` without the blank.
        trained: the file was trained by `fit`, and may hold fewer centroids: a small sample has few distinct rows.
    """

    kind: Literal["kmeans", "linear"]
    codebook: Artifact
    clusters: int
    trained: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("kmeans", "linear"):
            raise ValueError(f"a quantiser is kmeans or linear, not {self.kind!r}")
        if not 1 <= self.clusters <= (1 << 16) - (self.kind == "linear"):
            raise ValueError(f"clusters must lie in 1 .. 65536, ids being uint16; got {self.clusters}")

    @property
    def size(self) -> int:
        """Ids lie in [0, size): Spirit LM's vocabulary has a token for the blank too, hence 501 for 500 units.

        Reads the codebook if it was trained here.
        """
        return self.load().size if self.trained else self.clusters + (self.kind == "linear")

    def check(self, width: int) -> None:
        """Read the codebook, and require the width of the features that it is for.

        Raises:
            BadCheckpoint: if it is missing, changed, damaged, or of another size or width.
        """
        found = self.load().width
        if found != width:
            raise BadCheckpoint(
                f"{self.codebook.path} is for features {found} wide, but the layer's features are {width} wide: "
                "it belongs to another model"
            )

    def load(self) -> Quantiser:
        """Read the codebook.

        Raises:
            BadCheckpoint: if it is missing, changed, damaged, or of another size.
        """
        if self.kind == "linear":
            layers = linear_layers(read_tensors(verified_path(self.codebook)), self.codebook.path)
            self._require_size("classes", len(layers[-1][1]), self.clusters + 1)
            return LinearQuantiser(layers)
        centroids = _centroids(self.codebook)
        self._require_size("centroids", len(centroids), self.clusters)
        return KmeansQuantiser(centroids)

    def _require_size(self, what: str, found: int, wanted: int) -> None:
        if found == wanted or (self.trained and found < wanted):
            return
        means = f"{self.clusters} clusters" + (f", hence {wanted} with the blank" if wanted != self.clusters else "")
        raise BadCheckpoint(
            f"{self.codebook.path} has {found} {what}, the recipe says {means}: correct `clusters` or the path"
        )


def _centroids(codebook: Artifact) -> Float32:
    """Return the centroids of a file: float32, shape (clusters, width)."""
    path = Path(codebook.path)
    if path.suffix in (".safetensors", ".pt", ".pth"):
        centroids = _tensor(read_tensors(verified_path(codebook)), codebook.path)
    else:
        centroids = _array(_bytes(codebook), codebook.path)
    if centroids.ndim != 2 or centroids.dtype.kind != "f" or centroids.size == 0:
        raise BadCheckpoint(f"{path} must hold centroids, shape (clusters, width); found {_kind(centroids)}")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(centroids, np.float32)
    if not np.isfinite(rows).all():
        raise BadCheckpoint(f"{path} holds centroids that are not finite")
    return rows


def _tensor(tensors: dict[str, Any], path: str) -> npt.NDArray[Any]:
    names = [key for key in KMEANS_KEYS if key in tensors] or list(tensors)
    if not names or not hasattr(tensors[names[0]], "numpy") or (len(names) > 1 and names[0] not in KMEANS_KEYS):
        raise BadCheckpoint(f"{path} holds {len(names)} tensors, none of them named {' or '.join(KMEANS_KEYS)}")
    array: npt.NDArray[Any] = tensors[names[0]].float().numpy()
    return array


def _array(data: bytes, path: str) -> npt.NDArray[Any]:
    if not data.startswith(b"\x93NUMPY"):
        return read_centroids(data, path)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OverflowError, MemoryError):
        raise BadCheckpoint(f"{path} is damaged, or an .npy file of objects, which is never unpickled") from None
    return np.asarray(array)


def _bytes(codebook: Artifact) -> bytes:
    place = Path(codebook.path)
    if place.is_file() and place.stat().st_size > MAX_BYTES:
        raise BadCheckpoint(f"{place} is larger than {MAX_BYTES // 1_000_000} MB, too large for a codebook")
    try:
        return verified_bytes(codebook)
    except ValueError as error:
        raise BadCheckpoint(str(error)) from None


def _kind(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype}{list(array.shape)}"
