"""A VQ-VAE over F0 in the layout of Spirit LM's release: which tensors there are, and what the net computes from them.

The net is Jukebox's (Dhariwal et al. 2020, arXiv 2005.00341), taken over for F0 by Polyak et al. (2021, arXiv
2104.00355) and Kharitonov et al. (2022, arXiv 2109.03264). Names and shapes of tensors, keys of `config.yaml` and the
order of operations are those of facebookresearch/spiritlm, `spiritlm/speech_tokenizer/f0`; the code is our own.

Of a checkpoint only the encoder and the codebook are read; a decoder, an optimizer or anything else beside them is left
alone. The net works in float32 on the CPU: it has 0.1 million parameters, and so ids are equal on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

from stages.checkpoints import BadCheckpoint, read_tensors

HOP = 80
"""Samples at 16 kHz between the F0 frames that the net reads."""

DOWNSAMPLING = 16
"""F0 frames to an id, hence 1280 samples or 12.5 Hz."""

FEATURES = ("f0,vuv", "f0_interp,vuv", "norm_f0,vuv", "norm_f0_interp,vuv")
"""What the two input channels may be: F0 in Hz and whether the frame is voiced (1 or 0)."""

_ENCODER_KEYS = {"input_emb_width", "output_emb_width", "levels", "downs_t", "strides_t", "width", "depth", "m_conv"}
_ENCODER_EXTRAS = {"dilation_growth_rate", "dilation_cycle", "zero_out", "res_scale", "reverse_decoder_dilation"}
_VQ_KEYS = {"l_bins", "emb_width", "mu", "levels"}

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class VqvaeShape:
    """What `config.yaml` says of the net.

    Attributes:
        bins: codes of the codebook; ids lie in [0, bins).
        embedding: channels of a code.
        width: channels inside the encoder.
        hidden: channels inside a residual block.
        strides: of the downsampling convolutions in order, all even, product 16.
        dilations: of the residual blocks after each of them, in order.
        scale: what a residual block's output is multiplied by.
        interpolated: unvoiced stretches of F0 are filled by straight lines.
        normalised: the clip's mean F0 is subtracted.
    """

    bins: int
    embedding: int
    width: int
    hidden: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    scale: float
    interpolated: bool
    normalised: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vqvae:
    """A loaded checkpoint.

    Attributes:
        tensors: float32 on the CPU, by the names of `encoder_shapes`.
    """

    shape: VqvaeShape
    tensors: Mapping[str, Any]

    @property
    def codebook(self) -> Any:
        """float32 tensor, shape (bins, embedding)."""
        return self.tensors["vq.level_blocks.0.k"]


def load_vqvae(folder: Path, clusters: int) -> Vqvae:
    """Read a folder that holds `config.yaml` and `model.pt` (or `model.safetensors`, with the names of the encoder).

    Raises:
        BadCheckpoint: if a file is missing or damaged, the config lacks a key or asks for another rate or codebook, or
            a tensor is missing, of another shape, or not finite.
    """
    shape = read_shape(folder / "config.yaml", clusters)
    path = folder / "model.safetensors"
    path = path if path.is_file() else folder / "model.pt"
    found = read_tensors(path)
    found = next((found[key] for key in ("model", "generator") if isinstance(found.get(key), Mapping)), found)
    return Vqvae(shape=shape, tensors=_checked(found, encoder_shapes(shape), path))


def encoder_shapes(shape: VqvaeShape) -> Shapes:
    """Return name and shape of the tensors that ids depend on."""
    shapes: Shapes = {}
    channels = 2
    for level, stride in enumerate(shape.strides):
        name = f"encoder.level_blocks.0.model.{level}"
        shapes |= _convolution(f"{name}.0", shape.width, channels, 2 * stride)
        shapes |= residual_shapes(f"{name}.1", shape)
        channels = shape.width
    shapes |= _convolution(f"encoder.level_blocks.0.model.{len(shape.strides)}", shape.embedding, shape.width, 3)
    return shapes | {"vq.level_blocks.0.k": (shape.bins, shape.embedding)}


def residual_shapes(name: str, shape: VqvaeShape) -> Shapes:
    """Return name and shape of the tensors of the residual blocks at one rate."""
    shapes: Shapes = {}
    for block in range(len(shape.dilations)):
        shapes |= _convolution(f"{name}.model.{block}.model.1", shape.hidden, shape.width, 3)
        shapes |= _convolution(f"{name}.model.{block}.model.3", shape.width, shape.hidden, 1)
    return shapes


def encode(tensors: Mapping[str, Any], shape: VqvaeShape, inputs: Any) -> Any:
    """Return what is quantised.

    Args:
        tensors: by the names of `encoder_shapes`.
        shape: of the net.
        inputs: float32 tensor, shape (num_clips, 2, num_frames): F0 and voicing, at least 16 frames.

    Returns:
        float32 tensor, shape (num_clips, embedding, num_frames // 16).
    """
    from torch.nn.functional import conv1d

    hidden = inputs
    for level, stride in enumerate(shape.strides):
        name = f"encoder.level_blocks.0.model.{level}"
        weight, bias = tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"]
        hidden = conv1d(hidden, weight, bias, stride=stride, padding=stride // 2)
        hidden = residual(tensors, f"{name}.1", shape, hidden, shape.dilations)
    name = f"encoder.level_blocks.0.model.{len(shape.strides)}"
    return conv1d(hidden, tensors[f"{name}.weight"], tensors[f"{name}.bias"], padding=1)


def residual(tensors: Mapping[str, Any], name: str, shape: VqvaeShape, hidden: Any, dilations: tuple[int, ...]) -> Any:
    """Pass the residual blocks of one rate: float32 tensor, shape (num_clips, width, num_frames), in and out."""
    from torch.nn.functional import conv1d, relu

    for block, dilation in enumerate(dilations):
        first, second = f"{name}.model.{block}.model.1", f"{name}.model.{block}.model.3"
        inner = conv1d(
            relu(hidden), tensors[f"{first}.weight"], tensors[f"{first}.bias"], padding=dilation, dilation=dilation
        )
        inner = conv1d(relu(inner), tensors[f"{second}.weight"], tensors[f"{second}.bias"])
        hidden = hidden + shape.scale * inner
    return hidden


def read_shape(path: Path, clusters: int) -> VqvaeShape:
    """Read `config.yaml`, of which the keys `features`, `encoder_params`, `vq_params` and `speaker_norm` count.

    Raises:
        BadCheckpoint: as `load_vqvae` does.
    """
    config = _read_yaml(path)
    features = config.get("features")
    if features not in FEATURES:
        raise BadCheckpoint(f"{path}: features is {features!r}, known are {', '.join(FEATURES)}")
    encoder = _section(path, config, "encoder_params", _ENCODER_KEYS, _ENCODER_EXTRAS)
    vq = _section(path, config, "vq_params", _VQ_KEYS, set())
    if _integer(path, vq, "l_bins") != clusters:
        raise BadCheckpoint(f"{path}: the codebook has {vq['l_bins']} codes, the recipe says clusters: {clusters}")
    for params, key, wanted in ((encoder, "levels", 1), (vq, "levels", 1), (encoder, "input_emb_width", 2)):
        if params[key] != wanted:
            raise BadCheckpoint(f"{path}: {key} is {params[key]!r}, only {wanted} is supported")
    if encoder["output_emb_width"] != vq["emb_width"]:
        raise BadCheckpoint(
            f"{path}: the encoder gives {encoder['output_emb_width']!r} channels, the codebook has {vq['emb_width']!r}"
        )
    depth, width = _integer(path, encoder, "depth"), _integer(path, encoder, "width")
    growth, cycle = encoder.get("dilation_growth_rate", 1), encoder.get("dilation_cycle") or depth
    if not all(isinstance(value, int) and value > 0 for value in (growth, cycle)):
        raise BadCheckpoint(f"{path}: dilation_growth_rate and dilation_cycle must be positive integers")
    if not isinstance(encoder["m_conv"], int | float) or not 1 <= encoder["m_conv"] * width < 1 << 16:
        raise BadCheckpoint(f"{path}: m_conv is {encoder['m_conv']!r}, it must leave a block of width {width} channels")
    return VqvaeShape(
        bins=clusters,
        embedding=_integer(path, vq, "emb_width"),
        width=width,
        hidden=int(encoder["m_conv"] * width),
        strides=_strides(path, encoder),
        dilations=tuple(growth ** (block % cycle) for block in range(depth)),
        scale=1 / sqrt(depth) if encoder.get("res_scale") else 1.0,
        interpolated="interp" in features,
        normalised="norm_" in features or bool(config.get("speaker_norm")),
    )


def _strides(path: Path, encoder: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the strides one by one; both keys hold one number for the level, or a list of them."""
    told = []
    for key in ("strides_t", "downs_t"):
        value = encoder[key]
        value = value[0] if isinstance(value, list) and len(value) == 1 else None
        value = value if isinstance(value, list) else [value]
        if not all(type(item) is int and 0 <= item <= DOWNSAMPLING for item in value):
            raise BadCheckpoint(f"{path}: {key} is {encoder[key]!r}, it must hold small integers for one level")
        told.append(value)
    if len(told[0]) != len(told[1]):
        raise BadCheckpoint(f"{path}: strides_t {encoder['strides_t']} and downs_t {encoder['downs_t']} do not match")
    strides = tuple(stride for stride, times in zip(*told, strict=True) for _ in range(times))
    if prod(strides) != DOWNSAMPLING or any(stride % 2 for stride in strides):
        raise BadCheckpoint(
            f"{path}: strides_t {encoder['strides_t']} and downs_t {encoder['downs_t']} make one id of {prod(strides)} "
            f"frames; it must be {DOWNSAMPLING} by even strides"
        )
    return strides


def _section(path: Path, config: Mapping[str, Any], key: str, needed: set[str], extra: set[str]) -> dict[str, Any]:
    section = config.get(key)
    if not isinstance(section, dict):
        raise BadCheckpoint(f"{path} has no section {key}: is it the config.yaml of an F0 VQ-VAE?")
    if missing := sorted(needed - set(section)):
        raise BadCheckpoint(f"{path}: {key} lacks {', '.join(missing)}")
    if unknown := sorted(map(str, set(section) - needed - extra)):
        raise BadCheckpoint(f"{path}: {key} has unknown keys {', '.join(unknown)}")
    return section


def _integer(path: Path, section: Mapping[str, Any], key: str) -> int:
    value = section[key]
    if type(value) is not int or not 0 < value < 1 << 16:
        raise BadCheckpoint(f"{path}: {key} is {value!r}, it must be an integer in 1 .. 65535")
    return value


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise BadCheckpoint(f"{path} is missing: the checkpoint is a folder with config.yaml and model.pt") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, NotADirectoryError):
        raise BadCheckpoint(f"{path} is no YAML file") from None
    if not isinstance(value, dict):
        raise BadCheckpoint(f"{path} must hold a mapping, it holds a {type(value).__name__}")
    return {key: _referred(value, item) for key, item in value.items()}


def _referred(config: Mapping[str, Any], value: Any) -> Any:
    """Resolve `${other.key}`, as OmegaConf's files may say instead of a value; one step, whole values only."""
    if isinstance(value, dict):
        return {key: _referred(config, item) for key, item in value.items()}
    if not (isinstance(value, str) and value.startswith("${") and value.endswith("}")):
        return value
    found: Any = config
    for part in value[2:-1].split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _convolution(name: str, outputs: int, inputs: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs, kernel), f"{name}.bias": (outputs,)}


def _checked(found: Mapping[str, Any], wanted: Shapes, path: Path) -> dict[str, Any]:
    import torch

    tensors: dict[str, Any] = {}
    for name, shape in wanted.items():
        tensor = found.get(name)
        if not isinstance(tensor, torch.Tensor):
            raise BadCheckpoint(f"{path} has no tensor {name}: is it the weights that config.yaml describes?")
        if tuple(tensor.shape) != shape:
            raise BadCheckpoint(f"{path}: {name} has shape {list(tensor.shape)}, config.yaml asks for {list(shape)}")
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise BadCheckpoint(f"{path}: {name} must hold finite numbers; the file is damaged")
        tensors[name] = tensor.detach().to(torch.float32).contiguous()
    return tensors
