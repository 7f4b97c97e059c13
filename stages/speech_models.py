"""Tensors of speech encoders, under the names that transformers gives them inside its base models.

Which tensors a checkpoint must have, and their shapes, follow from `EncoderFacts`; so a file of other weights is found
before anything is built. Heads (`lm_head`, `quantizer`, ...) are left aside; an unknown tensor of the encoder itself is
an error, since it would mean a model that computes something else.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, folder_weights, read_tensors
from stages.speech_facts import FAMILIES, HUGGINGFACE, EncoderFacts

Shape = tuple[int, ...]

PARTS = ("feature_extractor.", "feature_projection.", "encoder.")
_POSITION = "encoder.pos_conv_embed.conv."
_TORCHAUDIO = (
    ("encoder.feature_projection.", "feature_projection."),
    ("encoder.transformer.", "encoder."),
    (".attention.attention.", ".attention."),
)


def encoder_tensors(checkpoint: Artifact, model: str, facts: EncoderFacts) -> dict[str, Any]:
    """Return the tensors of a checkpoint by transformers' names, float32, the positional weight in one piece.

    The caller has checked the sha256.

    Raises:
        BadCheckpoint: naming the first tensor that is missing, unknown or of another shape.
    """
    path = Path(checkpoint.path)
    found = _without_prefix(folder_weights(path)) if model == HUGGINGFACE else _from_torchaudio(read_tensors(path))
    return checked_tensors(found, facts, str(path))


def checked_tensors(found: Mapping[str, Any], facts: EncoderFacts, path: str) -> dict[str, Any]:
    """Return the encoder's tensors as float32 after comparing names and shapes with the configuration's.

    Raises:
        BadCheckpoint: naming the first tensor that is missing, unknown or of another shape.
    """
    import torch

    found = _one_position_weight({name: found[name] for name in found if name.startswith(PARTS)}, path)
    tensors = {}
    for name, shape in expected_shapes(facts).items():
        if name not in found:
            raise BadCheckpoint(f"{path} lacks the tensor {name} that its configuration asks for")
        tensor = found.pop(name)
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise BadCheckpoint(f"{path}: {name} must be a tensor of floating-point numbers")
        if tuple(tensor.shape) != shape:
            raise BadCheckpoint(
                f"{path}: {name} has shape {list(tensor.shape)}, its configuration asks for {list(shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise BadCheckpoint(f"{path}: {name} holds numbers that are not finite")
        # A copy, because tensors of safetensors are the file itself, mapped: they would change with it after the check.
        tensors[name] = tensor.to(torch.float32, copy=True)
    if unknown := sorted(name for name in found if not name.endswith(".num_batches_tracked")):
        raise BadCheckpoint(f"{path} holds the tensor {unknown[0]}, which its configuration does not explain")
    return tensors


def expected_shapes(facts: EncoderFacts) -> dict[str, Shape]:
    """Return name and shape of each tensor of an encoder, in order."""
    shapes = _front_shapes(facts)
    width, inner = facts.width, facts.inner
    head = width // facts.heads
    for layer in range(facts.num_layers):
        name = f"encoder.layers.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{name}attention.{part}", width, width)
        if facts.buckets:
            shapes[f"{name}attention.gru_rel_pos_const"] = (1, facts.heads, 1, 1)
            shapes |= _linear(f"{name}attention.gru_rel_pos_linear", 8, head)
            if layer == 0:
                shapes[f"{name}attention.rel_attn_embed.weight"] = (facts.buckets, facts.heads)
        shapes |= _norm(f"{name}layer_norm", width)
        shapes |= _linear(f"{name}feed_forward.intermediate_dense", inner, width)
        shapes |= _linear(f"{name}feed_forward.output_dense", width, inner)
        shapes |= _norm(f"{name}final_layer_norm", width)
        if facts.adapter:
            shapes |= _norm(f"{name}adapter_layer.norm", width)
            shapes |= _linear(f"{name}adapter_layer.linear_1", facts.adapter, width)
            shapes |= _linear(f"{name}adapter_layer.linear_2", width, facts.adapter)
    return shapes


def _front_shapes(facts: EncoderFacts) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    channels = 1
    for i, conv in enumerate(facts.conv):
        name = f"feature_extractor.conv_layers.{i}."
        shapes[f"{name}conv.weight"] = (conv.channels, channels, conv.kernel)
        if facts.conv_bias:
            shapes[f"{name}conv.bias"] = (conv.channels,)
        if i == 0 or facts.conv_norm == "layer":
            shapes |= _norm(f"{name}layer_norm", conv.channels)
        channels = conv.channels
    if facts.projection_norm:
        shapes |= _norm("feature_projection.layer_norm", channels)
    shapes |= _linear("feature_projection.projection", facts.width, channels)
    if facts.pos_batch_norm:
        batch_norm = "encoder.pos_conv_embed.batch_norm"
        shapes |= _norm(batch_norm, facts.width)
        shapes |= {f"{batch_norm}.running_mean": (facts.width,), f"{batch_norm}.running_var": (facts.width,)}
    shapes[f"{_POSITION}weight"] = (facts.width, facts.width // facts.pos_groups, facts.pos_kernel)
    shapes[f"{_POSITION}bias"] = (facts.width,)
    return shapes | _norm("encoder.layer_norm", facts.width)


def _linear(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _without_prefix(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Models with a head keep the base model under the family's name."""
    for prefix in (f"{family}." for family in FAMILIES):
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return dict(tensors)


def _from_torchaudio(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """WavLM's query, key and value projections are one there."""
    import torch

    renamed: dict[str, Any] = {}
    for old, value in tensors.items():
        name = old
        for theirs, ours in _TORCHAUDIO:
            name = name.replace(theirs, ours)
        base, joined, kind = name.rpartition("in_proj_")
        if joined and isinstance(value, torch.Tensor) and value.ndim and len(value) % 3 == 0:
            renamed |= {f"{base}{part}_proj.{kind}": piece for part, piece in zip("qkv", value.chunk(3), strict=True)}
        else:
            renamed[name] = value
    return renamed


def _one_position_weight(tensors: dict[str, Any], path: str) -> dict[str, Any]:
    """Multiply out the weight norm of the positional convolution, under either of PyTorch's names for its parts."""
    import torch

    for g, v in (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")):
        if _POSITION + g in tensors and _POSITION + v in tensors:
            length, direction = tensors.pop(_POSITION + g), tensors.pop(_POSITION + v)
            if direction.ndim != 3 or tuple(length.shape) != (1, 1, direction.shape[2]):
                raise BadCheckpoint(f"{path}: {_POSITION}{g} has shape {list(length.shape)}, not one value per tap")
            tensors[f"{_POSITION}weight"] = torch._weight_norm(direction.float(), length.float(), 2)
    return tensors
