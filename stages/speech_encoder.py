"""Speech encoders (HuBERT, wav2vec 2.0, WavLM): features of clips, each exactly as if it were alone.

Padding is what makes a clip's features depend on its batch-mates: a group norm over time, the positional convolution
and attention all see it. Nothing is padded here. On the CPU clips pass one by one: matrices of 100 frames already run
at the processor's full rate, so larger ones gain nothing. On CUDA the frames of several clips are one matrix (`pack`),
and convolutions and attention see each clip alone; other matrix sizes may change the last bits there, which the units
stage guards against.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples
from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, verified_path
from stages.compute import compiled, device, dtype_of
from stages.speech_facts import HUGGINGFACE, EncoderFacts, encoder_facts
from stages.speech_front import FrontEnd, Wave
from stages.speech_layers import Layer, norm_of, normed, relative_bias
from stages.speech_models import encoder_tensors
from stages.speech_position import Position

__all__ = ["EncoderFacts", "SpeechEncoder", "check_encoder", "encoder_facts", "load_encoder"]

PACK = Samples(60 * SAMPLE_RATE)
"""Samples of the clips that share a matrix on CUDA."""

Features = npt.NDArray[np.float32]


class SpeechEncoder:
    """A live encoder.

    Attributes:
        facts: its shape.
        grid: where frames lie.
        width: numbers per frame.
        receptive: samples that one frame of the front end sees.
        pack: samples of the clips that are computed together; 0: each alone, and then its features are the same to
            the last bit in any batch.
    """

    def __init__(self, facts: EncoderFacts, tensors: dict[str, Any], layer: int | None, precision: str) -> None:
        self.facts, self.grid = facts, facts.grid
        self.width, self.receptive = facts.width, int(facts.receptive)
        where, dtype = device(), dtype_of(precision)
        self.pack = PACK if where.type == "cuda" and precision == "float32" else Samples(0)
        self._front = FrontEnd(facts, tensors, dtype, where)
        self._position = Position(facts, tensors, dtype, where)
        depth = facts.num_layers if layer is None else layer
        self._layers = [compiled(Layer(facts, tensors, i, dtype, where)) for i in range(depth)]
        self._whole = depth == facts.num_layers
        self._norm = norm_of(tensors, "encoder.layer_norm", where, dtype)
        bias = "encoder.layers.0.attention.rel_attn_embed.weight"
        self._bias = tensors[bias].to(where, dtype) if facts.buckets else None

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip of so many samples; 0 if it is shorter than `receptive`."""
        return self.facts.num_frames(num_samples)

    def encode(self, waves: Sequence[Features]) -> list[Any]:
        """Return the features of clips: float32 tensors on the CPU, shape (num_frames, width), in order.

        Args:
            waves: float32 in [-1, 1], mono, 16 kHz, any lengths from `receptive` on.

        Raises:
            ValueError: if a clip is shorter than `receptive` or no float32 vector.
            MemoryError: if the device's memory does not suffice.
        """
        for wave in waves:
            self._require(wave)
        found: list[Any] = []
        for group in self._groups(waves):
            found += self._encode([(self._front.prepare(wave), 0, self.num_frames(len(wave))) for wave in group])
        return found

    def encode_long(self, wave: Features, window: Samples, context: Samples) -> Any:
        """Return the features of a clip that passes in windows: as many and at the same times as of `encode`.

        Raises:
            ValueError: as for `encode`, or if the window is shorter than a hop.
            MemoryError: if the device's memory does not suffice.
        """
        import torch

        joined, start = torch.empty((self.num_frames(len(wave)), self.width)), 0
        for part in self.windows(wave, window, context):
            joined[start : start + len(part)] = part
            start += len(part)
        return joined

    def windows(self, wave: Features, window: Samples, context: Samples) -> Iterator[Any]:
        """Yield the features of a clip's windows, which follow each other.

        Windows start at multiples of the hop and see `context` samples of their neighbours; what the clip as a whole
        decides (its normalisation, the group norm) is the same in each window, and so is the output of the front end.
        Only the transformer sees less. A clip that fits in one window gives what `encode` does. Memory is that of
        one window: about 200 MB for a base model and 100 s.

        Raises:
            ValueError: as for `encode`, or if the window is shorter than a hop.
            MemoryError: if the device's memory does not suffice.
        """
        self._require(wave)
        count, size, margin = self.num_frames(len(wave)), window // self.grid.hop, context // self.grid.hop
        if size < 1:
            raise ValueError(f"a window of {window} samples is shorter than a hop of {self.grid.hop}")
        whole = self._front.prepare(wave)
        for start in range(0, count, size):
            end = min(start + size, count)
            first, last = max(0, start - margin), min(end + margin, count)
            (part,) = self._encode([(whole, first, last)])
            yield part[start - first : end - first]

    def _require(self, wave: Features) -> None:
        if wave.dtype != np.float32 or wave.ndim != 1 or len(wave) < self.receptive:
            raise ValueError(
                f"a clip must be float32 of shape (at least {self.receptive},), got {wave.dtype}{list(wave.shape)}"
            )

    def _groups(self, waves: Sequence[Features]) -> Iterator[list[Features]]:
        """Yield the clips in order, as many at once as fit in `pack` samples, at least one."""
        group: list[Features] = []
        for wave in waves:
            if group and sum(map(len, group)) + len(wave) > self.pack:
                yield group
                group = []
            group.append(wave)
        if group:
            yield group

    def _encode(self, pieces: Sequence[tuple[Wave, int, int]]) -> list[Any]:
        """Return the features of frames [first, end) of each clip, seeing nothing outside of them."""
        import torch

        # Otherwise cuDNN may convolve float32 in TF32, and choose algorithms by timing them.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        try:
            with exact, torch.inference_mode():
                return [part.float().cpu() for part in self._forward(pieces)]
        except torch.OutOfMemoryError:
            raise MemoryError(
                f"{sum(end - first for _, first, end in pieces)} frames do not fit on the device"
            ) from None

    def _forward(self, pieces: Sequence[tuple[Wave, int, int]]) -> Sequence[Any]:
        import torch

        lengths = [end - first for _, first, end in pieces]
        placed = []
        for wave, first, end in pieces:
            rows = self._front.frames(wave, first, end)
            placed.append(rows + self._position(rows))
        rows = torch.cat(placed)
        if not self.facts.norm_first:
            rows = normed(rows, self._norm, self.facts.epsilon)
        bias = None if self._bias is None else [relative_bias(self._bias, n, self.facts) for n in lengths]
        for layer in self._layers:
            rows = layer(rows, lengths, bias)
        if self.facts.norm_first and self._whole:
            rows = normed(rows, self._norm, self.facts.epsilon)
        return torch.split(rows, lengths)


def load_encoder(
    checkpoint: Artifact, *, model: str = HUGGINGFACE, layer: int | None, precision: str = "float32"
) -> SpeechEncoder:
    """Load a checkpoint from this machine; nothing is downloaded, nothing unpickled.

    Args:
        checkpoint: a Hugging Face folder, or the weight file of a torchaudio bundle.
        model: `huggingface`, or the name of the bundle.
        layer: hidden state after this many transformer layers (transformers' `hidden_states[layer]`; 0: the first one's
            input); later layers are not computed. None: the model's output, which heads read.
        precision: of weights and arithmetic but the first convolution; features come as float32.

    Raises:
        BadCheckpoint: if the files changed, or do not hold such a model.
    """
    import torch

    facts = check_layer(encoder_facts(checkpoint, model), checkpoint, layer)
    verified_path(checkpoint)
    with torch.inference_mode():
        return SpeechEncoder(facts, encoder_tensors(checkpoint, model, facts), layer, precision)


def check_encoder(checkpoint: Artifact, *, model: str = HUGGINGFACE, layer: int | None) -> EncoderFacts:
    """Return the shape of a checkpoint after checking files, configuration, layer and every tensor's name and shape.

    Raises:
        BadCheckpoint: naming the file and the first fault.
    """
    facts = check_layer(encoder_facts(checkpoint, model), checkpoint, layer)
    verified_path(checkpoint)
    encoder_tensors(checkpoint, model, facts)
    return facts


def check_layer(facts: EncoderFacts, checkpoint: Artifact, layer: int | None) -> EncoderFacts:
    """Return the facts if the model has such a layer.

    Raises:
        BadCheckpoint: if not.
    """
    if layer is not None and not 0 <= layer <= facts.num_layers:
        raise BadCheckpoint(f"{checkpoint.path} has layers 0 to {facts.num_layers}, layer {layer} was asked for")
    return facts
