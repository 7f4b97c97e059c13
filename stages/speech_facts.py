"""The shape of HuBERT, wav2vec 2.0 and WavLM checkpoints, from their configuration alone.

Two layouts are known: Hugging Face folders, also of models saved with a head, and torchaudio bundles by name. Field
names and defaults are those of transformers' HubertConfig, Wav2Vec2Config and WavLMConfig.

The models: arXiv 2106.07447 (HuBERT), 2006.11477 (wav2vec 2.0), 2110.13900 (WavLM).
"""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from schemas.clock import SAMPLE_RATE, FrameGrid, Samples
from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, read_json_file

HUGGINGFACE = "huggingface"
FAMILIES = ("hubert", "wav2vec2", "wavlm")
MOST_LAYERS, MOST_WIDTH = 1_000, 65_536
"""A configuration beyond them is no model of speech, and would ask for endless memory."""
ACTIVATIONS = ("gelu", "relu")
HUGGINGFACE_EPSILON = 1e-7
"""What transformers' Wav2Vec2FeatureExtractor adds to a clip's variance."""
TORCHAUDIO_EPSILON = 1e-5
"""Of torch's layer norm, by which torchaudio normalises a clip."""

_DIMS, _KERNELS, _STRIDES = [512] * 7, [10, 3, 3, 3, 3, 2, 2], [5, 2, 2, 2, 2, 2, 2]


class ConvShape(NamedTuple):
    """One convolution of the front end."""

    channels: int
    kernel: int
    stride: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderFacts:
    """The shape of a speech encoder.

    Attributes:
        family: `hubert`, `wav2vec2` or `wavlm`.
        conv: the front end's convolutions in order; none of them pads.
        conv_norm: `group`: each channel of the first convolution is normalised over the clip; `layer`: each frame of
            each convolution is.
        norm_first: transformer layers normalise their input ("stable layer norm"), and the model its output.
        pos_kernel: taps of the positional convolution, in frames.
        pos_batch_norm: batch norm precedes it, instead of a weight norm inside.
        buckets: of WavLM's relative positions, else 0.
        adapter: width of the adapter after each layer (MMS), or 0.
        epsilon: of layer norms.
        wave_epsilon: the clip is brought to zero mean and unit variance with this added to the variance; None: not.
    """

    family: str
    num_layers: int
    width: int
    heads: int
    inner: int
    conv: tuple[ConvShape, ...]
    conv_norm: str
    conv_bias: bool = False
    projection_norm: bool = True
    norm_first: bool = False
    pos_kernel: int
    pos_groups: int
    pos_batch_norm: bool = False
    buckets: int = 0
    max_distance: int = 800
    adapter: int = 0
    epsilon: float = 1e-5
    conv_activation: str = "gelu"
    activation: str = "gelu"
    wave_epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.num_layers > MOST_LAYERS or self.width > MOST_WIDTH:
            raise ValueError(f"{self.num_layers} layers of width {self.width} are no model of speech")
        if self.width % self.heads or self.width % self.pos_groups:
            raise ValueError(f"width {self.width} is no multiple of {self.heads} heads and {self.pos_groups} groups")
        if self.conv_norm not in ("group", "layer"):
            raise ValueError(f"feat_extract_norm must be 'group' or 'layer', got {self.conv_norm!r}")
        for activation in (self.activation, self.conv_activation):
            if activation not in ACTIVATIONS:
                raise ValueError(f"activation {activation!r} is not supported, only {', '.join(ACTIVATIONS)}")

    @property
    def hop(self) -> Samples:
        """Samples from one frame to the next."""
        return Samples(prod(shape.stride for shape in self.conv))

    @property
    def receptive(self) -> Samples:
        """Samples that one frame of the front end sees; a shorter clip has no frame."""
        seen = 1
        for shape in reversed(self.conv):
            seen = (seen - 1) * shape.stride + shape.kernel
        return Samples(seen)

    @property
    def grid(self) -> FrameGrid:
        """Frame i stands for the middle of the `receptive` samples from i * hop on, the earlier of two middles."""
        return FrameGrid(hop=self.hop, offset=Samples((self.receptive - 1) // 2))

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip: those whose samples are all there; nothing is padded."""
        return max(0, (num_samples - self.receptive) // self.hop + 1)


def encoder_facts(checkpoint: Artifact, model: str = HUGGINGFACE) -> EncoderFacts:
    """Return the shape of a checkpoint from its configuration; no weights are read.

    Args:
        checkpoint: a Hugging Face folder, or the weight file of a torchaudio bundle.
        model: `huggingface`, or the name of the bundle, such as HUBERT_BASE.

    Raises:
        BadCheckpoint: if the configuration is missing, or asks for what is not supported.
    """
    return _of_folder(Path(checkpoint.path)) if model == HUGGINGFACE else _of_bundle(model)


def _of_folder(folder: Path) -> EncoderFacts:
    path = folder / "config.json"
    facts = facts_of_config(read_json_file(path), path)
    return replace(facts, wave_epsilon=_wave_epsilon(folder, facts.conv_norm))


def facts_of_config(config: dict[str, Any], path: Path) -> EncoderFacts:
    """Return the shape that a `config.json` describes; how clips are normalised is said elsewhere.

    Raises:
        BadCheckpoint: if it asks for what is not supported.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise BadCheckpoint(f"{path}: model_type is {family!r}, supported are {', '.join(FAMILIES)}")
    if config.get("add_adapter"):
        raise BadCheckpoint(f"{path}: add_adapter is not supported")
    fields = _Fields(path, config)
    dims, kernels, strides = (
        fields.numbers(name, default)
        for name, default in (("conv_dim", _DIMS), ("conv_kernel", _KERNELS), ("conv_stride", _STRIDES))
    )
    if not 0 < len(dims) == len(kernels) == len(strides):
        raise BadCheckpoint(f"{path}: conv_dim, conv_kernel and conv_stride differ in length")
    try:
        return EncoderFacts(
            family=family,
            num_layers=fields.number("num_hidden_layers", 12),
            width=fields.number("hidden_size", 768),
            heads=fields.number("num_attention_heads", 12),
            inner=fields.number("intermediate_size", 3072),
            conv=tuple(ConvShape(*shape) for shape in zip(dims, kernels, strides, strict=True)),
            conv_norm=str(config.get("feat_extract_norm", "group")),
            conv_bias=fields.flag("conv_bias", False),
            projection_norm=family != "hubert" or fields.flag("feat_proj_layer_norm", True),
            norm_first=fields.flag("do_stable_layer_norm", False),
            pos_kernel=fields.number("num_conv_pos_embeddings", 128),
            pos_groups=fields.number("num_conv_pos_embedding_groups", 16),
            pos_batch_norm=family == "hubert" and fields.flag("conv_pos_batch_norm", False),
            buckets=fields.number("num_buckets", 320) if family == "wavlm" else 0,
            max_distance=fields.number("max_bucket_distance", 800),
            adapter=_adapter(fields),
            epsilon=fields.real("layer_norm_eps", 1e-5),
            conv_activation=str(config.get("feat_extract_activation", "gelu")),
            activation=str(config.get("hidden_act", "gelu")),
        )
    except BadCheckpoint:
        raise
    except ValueError as error:
        raise BadCheckpoint(f"{path}: {error}") from None


def _adapter(fields: "_Fields") -> int:
    """Return the width of the adapters; like transformers, only where layers normalise their input, never in WavLM."""
    config = fields.config
    absent = config.get("adapter_attn_dim") is None or config["model_type"] == "wavlm"
    return 0 if absent or not config.get("do_stable_layer_norm") else fields.number("adapter_attn_dim", 0)


def _wave_epsilon(folder: Path, norm: str) -> float | None:
    """Return how clips are normalised.

    `preprocessor_config.json` decides. Without it: clips of models with a layer norm in the front end are normalised,
    others are not, as in fairseq's and torchaudio's configurations of the published models. (facebook/hubert-base-ls960
    has a group norm and says `do_normalize: true`; its first layer takes scale and mean away again but for the 1e-5
    that is added to the variance, so only very quiet clips differ.)
    """
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return HUGGINGFACE_EPSILON if norm == "layer" else None
    fields = _Fields(path, read_json_file(path))
    if fields.number("sampling_rate", SAMPLE_RATE) != SAMPLE_RATE:
        raise BadCheckpoint(f"{path}: sampling_rate is {fields.config['sampling_rate']}, it must be {SAMPLE_RATE}")
    return HUGGINGFACE_EPSILON if fields.flag("do_normalize", True) else None


def _of_bundle(name: str) -> EncoderFacts:
    from torchaudio import pipelines

    bundle: Any = getattr(pipelines, name, None)
    if not hasattr(bundle, "_params") or not hasattr(bundle, "_model_type"):
        known = sorted(n for n in dir(pipelines) if hasattr(getattr(pipelines, n), "_model_type"))
        raise BadCheckpoint(f"model {name!r} is neither 'huggingface' nor a torchaudio bundle: {', '.join(known)}")
    return facts_of_parameters(bundle._params, bundle._model_type, bundle._normalize_waveform, name)


def facts_of_parameters(parameters: dict[str, Any], kind: str, normalised: bool, name: str) -> EncoderFacts:
    """Return the shape of a torchaudio model from the parameters of `wav2vec2_model` or `wavlm_model`.

    Args:
        parameters: keyword arguments of the factory function.
        kind: `Wav2Vec2` or `WavLM`.
        normalised: clips are normalised.
        name: of the bundle; HuBERT is known by it, since both kinds are one model.

    `encoder_layer_norm_first` has fairseq's meaning there, the layers': True is transformers' `do_stable_layer_norm`.
    """
    hubert = "hubert" if name.upper().startswith("HUBERT") else "wav2vec2"
    return EncoderFacts(
        family="wavlm" if kind == "WavLM" else hubert,
        num_layers=parameters["encoder_num_layers"],
        width=parameters["encoder_embed_dim"],
        heads=parameters["encoder_num_heads"],
        inner=parameters["encoder_ff_interm_features"],
        conv=tuple(ConvShape(*shape) for shape in parameters["extractor_conv_layer_config"]),
        conv_norm=parameters["extractor_mode"].removesuffix("_norm"),
        conv_bias=parameters["extractor_conv_bias"],
        norm_first=parameters["encoder_layer_norm_first"],
        pos_kernel=parameters["encoder_pos_conv_kernel"],
        pos_groups=parameters["encoder_pos_conv_groups"],
        buckets=parameters.get("encoder_num_buckets", 0),
        max_distance=parameters.get("encoder_max_distance", 800),
        wave_epsilon=TORCHAUDIO_EPSILON if normalised else None,
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to a JSON file's fields; faults name the file and the field."""

    path: Path
    config: dict[str, Any]

    def number(self, name: str, default: int) -> int:
        return self.numbers(name, [default], [self.config.get(name, default)])[0]

    def numbers(self, name: str, default: list[int], value: Any = None) -> list[int]:
        found = self.config.get(name, default) if value is None else value
        if not isinstance(found, list) or any(type(n) is not int or n < 1 for n in found):
            raise BadCheckpoint(f"{self.path}: {name} must be positive integers, got {self.config.get(name)!r}")
        return found

    def flag(self, name: str, default: bool) -> bool:
        value = self.config.get(name, default)
        if not isinstance(value, bool):
            raise BadCheckpoint(f"{self.path}: {name} must be true or false, got {value!r}")
        return value

    def real(self, name: str, default: float) -> float:
        value = self.config.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise BadCheckpoint(f"{self.path}: {name} must be a positive number, got {value!r}")
        return float(value)
