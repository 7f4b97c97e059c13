"""The front end of a speech encoder over given tensors: from samples to the transformer's input.

Written over plain tensors because transformers' own forward cannot take a clip's statistics from elsewhere, which
windows of long audio need, and holds the first convolution's output of a whole clip: 6.5 MB per second.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.speech_facts import ConvShape, EncoderFacts
from stages.speech_layers import EPSILON, linear_of, norm_of, normed
from stages.speech_matrices import Linear, activate

BLOCK = 100
"""Frames computed at once; the first convolution has 64 times as many rows of 512 channels."""

CUDA_BLOCK = 1500
"""The same where short kernels would cost more than memory does: 500 MB for the first convolution and its copy."""

FASTEST = 2
"""Convolutions after the first that take oneDNN's product in float32 too: three quarters of the work. Its rounding
errors in all six would bring features within a few percent of 1e-5 of what transformers gives."""

ROWS = 1 << 16
"""Rows at once in the statistics of the first convolution."""

_FIRST = ("conv.weight", "conv.bias", "layer_norm.weight", "layer_norm.bias")


class Wave(NamedTuple):
    """A clip and the first convolution made for it.

    Attributes:
        samples: float32 tensor, shape (num_samples,), on the CPU: the clip as it came.
        offset: what is taken from each sample, as it is used.
        first: from `kernel` samples to channels, in float32; the clip's normalisation and a group norm are part of it.
    """

    samples: Any
    offset: float
    first: Linear


class FrontEnd:
    """Waveform to frames: the convolutions, and the projection to the transformer's width."""

    def __init__(self, facts: EncoderFacts, tensors: dict[str, Any], dtype: Any, device: Any) -> None:
        self._facts, self._dtype, self._device = facts, dtype, device
        names = [f"feature_extractor.conv_layers.{i}." for i in range(len(facts.conv))]
        self._first: dict[str, Any] = {key: tensors.get(names[0] + key) for key in _FIRST}
        # A layer norm stands between a convolution and its activation.
        self._activation = "" if facts.conv_norm == "layer" else facts.conv_activation
        self._rest = [self._convolution(tensors, names[i], i) for i in range(1, len(names))]
        self._norms = [norm_of(tensors, f"{name}layer_norm", device, dtype) for name in names]
        self._norm = norm_of(tensors, "feature_projection.layer_norm", device, dtype)
        self._projection = linear_of(tensors, "feature_projection.projection", device, dtype)

    def _convolution(self, tensors: dict[str, Any], name: str, index: int) -> Linear:
        """Return a convolution as a map of its taps' channels laid end to end."""
        import torch

        weight = tensors[f"{name}conv.weight"].to(self._device, self._dtype)
        bias = _to(tensors.get(f"{name}conv.bias"), self._device, self._dtype)
        weight = weight.transpose(1, 2).reshape(len(weight), -1)
        laid_out = index <= FASTEST or self._dtype != torch.float32
        return Linear(weight, bias, self._activation, laid_out)

    def prepare(self, samples: npt.NDArray[np.float32]) -> Wave:
        """Return a clip with whatever depends on all of it: its normalisation, and the group norm's statistics.

        The mean and variance of the first convolution's output follow from those of its input and of the products of
        neighbouring samples. They are summed in float64 over the whole clip and worked into the convolution's weights;
        so windows of a clip use the very numbers that the whole clip does, and the samples are not copied.
        """
        import torch

        facts, device = self._facts, self._device
        offset, scale = 0.0, 1.0
        if facts.wave_epsilon is not None or facts.conv_norm == "group":
            mean, variance = _moments(samples, 1, 1, 0.0)
            offset = float(np.float32(mean[0]))
            if facts.wave_epsilon is not None:
                scale = 1 / math.sqrt(variance[0, 0] + facts.wave_epsilon)
        weight, bias = self._first["conv.weight"], self._first["conv.bias"]
        if facts.conv_norm == "group":
            weight, bias = self._group_normed(samples, offset, scale)
        elif facts.wave_epsilon is not None:
            weight = (weight.double() * scale).float()
        first = Linear(weight[:, 0].to(device), _to(bias, device, None), self._activation)
        return Wave(torch.from_numpy(samples), offset, first)

    def _group_normed(self, samples: npt.NDArray[np.float32], offset: float, scale: float) -> tuple[Any, Any]:
        """Return weight and bias of the first convolution and its group norm over (samples - offset) * scale."""
        import torch

        _, kernel, stride = self._facts.conv[0]
        mean, covariance = _moments(samples, kernel, stride, offset)
        plain = self._first["conv.weight"][:, 0].double().numpy() * scale
        variance = np.einsum("ck,kl,cl->c", plain, covariance, plain)
        factor = self._first["layer_norm.weight"].double().numpy() / np.sqrt(variance + EPSILON)
        shift = self._first["layer_norm.bias"].double().numpy() - factor * (plain @ mean)
        weight = torch.from_numpy((plain * factor[:, None]).astype(np.float32))[:, None]
        return weight, torch.from_numpy(shift.astype(np.float32))

    def frames(self, wave: Wave, first: int, end: int) -> Any:
        """Return the transformer's input for frames [first, end): tensor of shape (end - first, width)."""
        import torch

        hop, receptive = self._facts.hop, self._facts.receptive
        heard = _sent(wave.samples[first * hop : (end - 1) * hop + receptive], self._device)
        rows = torch.empty((end - first, self._facts.conv[-1].channels), dtype=self._dtype, device=self._device)
        block = BLOCK if self._device.type == "cpu" else CUDA_BLOCK
        for start in range(0, end - first, block):
            stop = min(start + block, end - first)
            piece = heard[start * hop : (stop - 1) * hop + receptive] - wave.offset
            rows[start:stop] = self._convolved(piece, wave.first)
        if self._norm is not None:
            rows = normed(rows, self._norm, self._facts.epsilon)
        return self._projection(rows)

    def _convolved(self, piece: Any, first: Linear) -> Any:
        """Return the convolutions of some samples: (frames, channels)."""
        shapes = self._facts.conv
        rows = self._finish(first(_windows(piece[:, None], shapes[0])).to(self._dtype), 0)
        for i, convolution in enumerate(self._rest, 1):
            rows = self._finish(convolution(_windows(rows, shapes[i])), i)
        return rows

    def _finish(self, rows: Any, layer: int) -> Any:
        if self._facts.conv_norm != "layer":
            return rows
        return activate(normed(rows, self._norms[layer], EPSILON), self._facts.conv_activation)


def _windows(rows: Any, shape: ConvShape) -> Any:
    """Return what each position of a convolution sees: (rows, channels) -> (positions, kernel * channels)."""
    channels = rows.shape[1]
    positions = (len(rows) - shape.kernel) // shape.stride + 1
    seen = rows.as_strided((positions, shape.kernel, channels), (shape.stride * channels, channels, 1))
    return seen.reshape(positions, -1)


def _moments(samples: npt.NDArray[np.float32], kernel: int, stride: int, offset: float) -> tuple[Any, Any]:
    """Return the mean and the covariance of a convolution's inputs, less an offset, over its positions.

    Returns:
        float64, shapes (kernel,) and (kernel, kernel).
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, kernel)[::stride]
    total, products = np.zeros(kernel), np.zeros((kernel, kernel))
    for start in range(0, len(windows), ROWS):
        rows = windows[start : start + ROWS].astype(np.float64) - offset
        total += rows.sum(axis=0)
        products += rows.T @ rows
    mean = total / len(windows)
    return mean, products / len(windows) - np.outer(mean, mean)


def _sent(samples: Any, device: Any) -> Any:
    return samples.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else samples


def _to(tensor: Any, device: Any, dtype: Any) -> Any:
    return None if tensor is None else tensor.to(device, dtype or tensor.dtype)
