"""The positional convolution of a speech encoder: over all of a clip's frames, with up to 128 taps."""

from typing import Any

from stages.speech_facts import EncoderFacts
from stages.speech_matrices import activate

EPSILON = 1e-5
"""Torch's default for batch norms, which the configuration has no epsilon for."""

SPECTRAL_KERNEL, SPECTRAL_CHANNELS = 32, 16
"""Taps, and channels per group, from which on products of spectra are faster on the CPU."""

BLOCKS = 16
"""Blocks whose spectra are held at once: about 2,000 frames, 50 MB for a base model."""


class Position:
    """The embedding that tells the transformer where a frame stands."""

    def __init__(self, facts: EncoderFacts, tensors: dict[str, Any], dtype: Any, device: Any) -> None:
        import torch

        self._facts = facts
        name = "encoder.pos_conv_embed."
        weight, bias = tensors[f"{name}conv.weight"], tensors[f"{name}conv.bias"]
        channels = facts.width // facts.pos_groups
        spectral = device.type == "cpu" and facts.pos_kernel >= SPECTRAL_KERNEL and channels >= SPECTRAL_CHANNELS
        self._dtype = torch.float32 if spectral else dtype
        kind = SpectralConvolution if spectral else DirectConvolution
        self._convolution = kind(weight.to(device, self._dtype), bias.to(device, self._dtype), facts.pos_groups)
        given = _batch_norm(tensors, f"{name}batch_norm.") if facts.pos_batch_norm else ()
        self._batch_norm = tuple(part.to(device, self._dtype) for part in given)

    def __call__(self, rows: Any) -> Any:
        """Return the embedding of one clip's frames: (num_frames, width) -> (num_frames, width)."""
        hidden = rows.to(self._dtype)
        if self._batch_norm:
            hidden = hidden * self._batch_norm[0] + self._batch_norm[1]
        return activate(self._convolution(hidden.T), self._facts.conv_activation).T.to(rows.dtype)


class DirectConvolution:
    """Torch's own, with half a kernel of zeros around the clip; an even kernel looks one frame less ahead."""

    def __init__(self, weight: Any, bias: Any, groups: int) -> None:
        """Take a weight of shape (width, width / groups, kernel) and a bias of shape (width,)."""
        self._weight, self._bias, self._groups = weight, bias, groups

    def __call__(self, columns: Any) -> Any:
        """Return the convolution of a clip: (width, num_frames) -> (width, num_frames)."""
        from torch.nn.functional import conv1d

        padding = self._weight.shape[2] // 2
        hidden = conv1d(columns[None], self._weight, self._bias, padding=padding, groups=self._groups)
        return hidden[0, :, : columns.shape[1]]


class SpectralConvolution:
    """The same by overlap-save: products of the spectra of blocks twice as long as the kernel, or longer.

    The arithmetic is float32. Spectra of a base model's weights (768 channels, 16 groups, 128 taps) take 38 MB where
    the weights themselves take 19, of a large model's (1,024 channels) 68 MB instead of 34.
    """

    def __init__(self, weight: Any, bias: Any, groups: int) -> None:
        """Take a weight of shape (width, width / groups, kernel) and a bias of shape (width,), float32."""
        import torch

        width, channels, self._kernel = weight.shape
        self._groups = groups
        self._size = 1 << (2 * self._kernel - 1).bit_length()
        self._step = self._size - self._kernel + 1
        # The conjugate, since convolutions of neural networks are correlations. By frequency and group, in by out.
        spectra = torch.fft.rfft(weight, self._size).conj().view(groups, width // groups, channels, -1)
        self._spectra = spectra.permute(3, 0, 2, 1).resolve_conj().contiguous()
        self._bias = bias[:, None]

    def __call__(self, columns: Any) -> Any:
        """Return the convolution of a clip: (width, num_frames) -> (width, num_frames)."""
        import torch

        width, count = columns.shape
        blocks = -(-count // self._step)
        before = self._kernel // 2
        padded = columns.new_zeros((width, blocks * self._step + self._kernel - 1))
        padded[:, before : before + count] = columns
        windows = padded.unfold(1, self._size, self._step)
        joined = torch.empty((width, blocks, self._step))
        for first in range(0, blocks, BLOCKS):
            joined[:, first : first + BLOCKS] = self._convolved(windows[:, first : first + BLOCKS])
        return joined.view(width, -1)[:, :count] + self._bias

    def _convolved(self, windows: Any) -> Any:
        """Return what blocks give where no sum wraps around: (width, blocks, size) -> (width, blocks, step)."""
        import torch

        width, blocks, _ = windows.shape
        heard = torch.fft.rfft(windows.contiguous()).view(self._groups, width // self._groups, blocks, -1)
        given = torch.matmul(heard.permute(3, 0, 2, 1).contiguous(), self._spectra)
        found = torch.fft.irfft(given.permute(1, 3, 2, 0).contiguous(), self._size)
        return found.view(width, blocks, -1)[:, :, : self._step]


def _batch_norm(tensors: dict[str, Any], name: str) -> tuple[Any, Any]:
    """Return batch norm, as used after training, as a factor and a summand per channel."""
    scale = tensors[f"{name}weight"] / (tensors[f"{name}running_var"] + EPSILON).sqrt()
    return scale, tensors[f"{name}bias"] - scale * tensors[f"{name}running_mean"]
