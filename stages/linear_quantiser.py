"""Spirit LM's linear quantiser (arXiv 2402.05755, 3.1): layers over features, trained with CTC, hence a blank."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.checkpoints import BadCheckpoint
from stages.kmeans_quantiser import Assigned, Float32, require_features

KEYS = ("model_weight", "model_state_dict", "state_dict", "model")
LEAK = 0.01
"""Slope of LeakyReLU below 0: PyTorch's default, which the release uses."""

ROWS_AT_ONCE = 4096
"""Two minutes of 25 Hz features: bounds memory to some arrays of 16 MB."""

DOUBTFUL = 1e-4
"""An id with a smaller margin is computed again in float64."""


class LinearQuantiser:
    """Spirit LM's: linear layers with LeakyReLU between them; the best class is the id, and the last class is a blank.

    A blank takes the id of the nearest frame to its left that has one; blanks that open a clip take that of the first
    frame that has one; a clip of nothing but blanks keeps the blank's id. The release wraps around instead, so blanks
    that open a clip take its last id there, and the last id of another clip in a batch.

    The facts (sizes, activation, which class is the blank) are those of facebookresearch/spiritlm, quantizer_model.py.

    Args:
        layers: pairs of a weight, shape (outputs, inputs), and a bias, shape (outputs,).
    """

    def __init__(self, layers: Sequence[tuple[Float32, Float32]]) -> None:
        self._layers = list(layers)

    @property
    def width(self) -> int:
        return int(self._layers[0][0].shape[1])

    @property
    def size(self) -> int:
        return len(self._layers[-1][1])

    def assign(self, features: Float32) -> Assigned:
        require_features(features, self.width)
        parts = [self.classes(features[i : i + ROWS_AT_ONCE]) for i in range(0, max(1, len(features)), ROWS_AT_ONCE)]
        classes = np.concatenate([part.ids for part in parts])
        return Assigned(self.joined(classes), np.concatenate([part.margin for part in parts]))

    def joined(self, classes: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
        return without_blanks(classes, self.size - 1)

    def classes(self, features: Float32) -> Assigned:
        """Return the best class of each row, blanks included, and its margin."""
        best, margin = self._best(features, np.float32)
        doubtful = np.flatnonzero(margin < DOUBTFUL)
        if len(doubtful):
            best[doubtful], margin[doubtful] = self._best(features[doubtful], np.float64)
        return Assigned(best.astype(np.uint16), margin.astype(np.float32))

    def _best(self, features: Float32, dtype: type[np.floating[Any]]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The margin is the gap between the best two classes over the length of its gradient and of the row."""
        layers = [(weight.astype(dtype, copy=False), bias.astype(dtype, copy=False)) for weight, bias in self._layers]
        value, slopes = features.astype(dtype), []
        for weight, bias in layers[:-1]:
            value = value @ weight.T + bias
            slopes.append(np.where(value > 0, dtype(1), dtype(LEAK)))
            value = value * slopes[-1]
        scores = value @ layers[-1][0].T + layers[-1][1]
        rows = np.arange(len(scores))
        best = scores.argmax(axis=1)
        top = scores[rows, best]
        scores[rows, best] = -np.inf
        second = scores.argmax(axis=1)
        gradient = layers[-1][0][best] - layers[-1][0][second]
        for (weight, _), slope in zip(layers[-2::-1], slopes[::-1], strict=True):
            gradient = (gradient * slope) @ weight
        lengths = np.sqrt((gradient**2).sum(axis=1)) * np.sqrt((features.astype(dtype) ** 2).sum(axis=1))
        return best, (top - scores[rows, second]) / np.maximum(lengths, np.finfo(dtype).tiny)


def without_blanks(ids: npt.NDArray[np.uint16], blank: int) -> npt.NDArray[np.uint16]:
    """Replace blanks by the nearest other id to the left, else to the right; nothing but blanks stays as it is."""
    spoken = np.flatnonzero(ids != blank)
    if len(spoken) == 0:
        return ids
    nearest = np.searchsorted(spoken, np.arange(len(ids)), side="right") - 1
    return ids[spoken[np.maximum(nearest, 0)]]


def linear_layers(tensors: dict[str, Any], path: str) -> list[tuple[Float32, Float32]]:
    """Return weights and biases in order from the release's `model_weight`, or from flat tensors.

    Names end in `<number>.weight` and `<number>.bias`, as `torch.nn.Sequential` gives them; a single layer may go
    without a number. Other tensors are an error.

    Raises:
        BadCheckpoint: if layers are missing, mis-shaped or do not fit each other.
    """
    for key in KEYS:
        if isinstance(tensors.get(key), dict):
            tensors = tensors[key]
            break
    found: dict[int, dict[str, npt.NDArray[Any]]] = {}
    for name, tensor in tensors.items():
        *_, number, kind = ("0", *str(name).split("."))
        if kind not in ("weight", "bias") or not hasattr(tensor, "numpy"):
            raise BadCheckpoint(f"{path} is no linear quantiser: it holds {str(name)[:80]!r}, no weight or bias")
        found.setdefault(int(number) if number.isdecimal() else 0, {})[kind] = tensor.float().numpy()
    layers = [(found[n].get("weight"), found[n].get("bias")) for n in sorted(found)]
    width: int | None = None
    good = []
    for weight, bias in layers:
        if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise BadCheckpoint(f"{path} is no linear quantiser: a layer lacks its weight or bias, or they do not fit")
        if width is not None and weight.shape[1] != width:
            raise BadCheckpoint(f"{path}: a layer takes {weight.shape[1]} numbers, the one before it gives {width}")
        if not np.isfinite(weight).all() or not np.isfinite(bias).all():
            raise BadCheckpoint(f"{path} holds numbers that are not finite")
        width = len(bias)
        good.append((weight, bias))
    if not good:
        raise BadCheckpoint(f"{path} holds no layers")
    return good
