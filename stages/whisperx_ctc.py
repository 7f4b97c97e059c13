"""CTC models as whisperX's alignment takes them, from files of this machine: what its `load_align_model` downloads.

Both of its kinds are read: Hugging Face's `Wav2Vec2ForCTC` folders, and the weight files of torchaudio's ASR bundles.
As in whisperX, waves are not normalised for Hugging Face's models, whatever their preprocessor says.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from schemas.clock import SAMPLE_RATE
from stages.checkpoints import BadCheckpoint, folder_weights, read_json_file, read_tensors

HUGGINGFACE = "huggingface"
UNUSED = "masked_spec_embed"
"""Of training only; some checkpoints lack it."""
NAMES = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
"""The two namings of a weight norm's tensors."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WhisperxCtc:
    """A live model.

    Attributes:
        network: returns what whisperX expects: an object with `logits`, or a tuple that begins with them.
        dictionary: lower-case letter to label.
        conv: (kernel, stride) of each convolution of the front end.
        device: torch device that the network is on.
    """

    network: Any
    dictionary: dict[str, int]
    conv: tuple[tuple[int, int], ...]
    device: Any = "cpu"

    def num_frames(self, num_samples: int) -> int:
        """Return the frames of a clip; nothing is padded."""
        for kernel, stride in self.conv:
            num_samples = max(0, (num_samples - kernel) // stride + 1)
        return num_samples

    def moved(self, compiled: Callable[[Any], Any], device: Any) -> "WhisperxCtc":
        return replace(self, network=compiled(self.network.to(device)), device=device)


def check_ctc(path: str, model: str) -> None:
    """Check a checkpoint without building the model: reads its files and compares names and shapes of tensors.

    Raises:
        BadCheckpoint: naming the file and the first thing that is wrong.
    """
    skeleton, _, _ = _skeleton(path, model)
    _fitting(path, model, skeleton)


def load_ctc(path: str, model: str) -> WhisperxCtc:
    """Load a model on the CPU in float32.

    Args:
        path: the folder, or the bundle's file.
        model: `huggingface`, or the bundle's name.

    Raises:
        BadCheckpoint: as `check_ctc`.
    """
    skeleton, dictionary, conv = _skeleton(path, model)
    skeleton.load_state_dict(_fitting(path, model, skeleton), assign=True)
    network = skeleton.eval().requires_grad_(False)
    if model != HUGGINGFACE and _bundle(model)._normalize_waveform:
        network = _normalised(network)
    return WhisperxCtc(network=network, dictionary=dictionary, conv=conv)


def _skeleton(path: str, model: str) -> tuple[Any, dict[str, int], tuple[tuple[int, int], ...]]:
    """Return a network without weights, its dictionary, and its convolutions."""
    import torch

    if model != HUGGINGFACE:
        import torchaudio

        bundle = _bundle(model)
        with torch.device("meta"):
            network = torchaudio.models.wav2vec2_model(**bundle._params)
        layers = [(layer.kernel_size, layer.stride) for layer in network.feature_extractor.conv_layers]
        return network, {label.lower(): i for i, label in enumerate(bundle.get_labels())}, tuple(layers)
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    folder = Path(path)
    config = Wav2Vec2Config.from_dict(_config(folder))
    with torch.device("meta"):
        network = Wav2Vec2ForCTC(config)
    return (
        network,
        _dictionary(folder, config.vocab_size),
        tuple(zip(config.conv_kernel, config.conv_stride, strict=True)),
    )


def _config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise BadCheckpoint(
            f"{folder} is no folder; align.model says huggingface, else name the torchaudio bundle there"
        )
    config = read_json_file(folder / "config.json")
    kinds = config.get("architectures") or []
    if config.get("model_type") != "wav2vec2" or "Wav2Vec2ForCTC" not in kinds:
        raise BadCheckpoint(
            f"{folder / 'config.json'} describes {config.get('model_type')!r} {kinds}; whisperX aligns with "
            "Wav2Vec2ForCTC only"
        )
    preprocessor = folder / "preprocessor_config.json"
    rate = read_json_file(preprocessor).get("sampling_rate", SAMPLE_RATE) if preprocessor.is_file() else SAMPLE_RATE
    if rate != SAMPLE_RATE:
        raise BadCheckpoint(f"{preprocessor}: sampling_rate is {rate!r}, it must be {SAMPLE_RATE}")
    return config


def _dictionary(folder: Path, labels: int) -> dict[str, int]:
    """Return lower-case letters and their labels; of two that differ in case only the later one, as whisperX does."""
    path = folder / "vocab.json"
    vocabulary = read_json_file(path)
    for letter, label in vocabulary.items():
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < labels:
            raise BadCheckpoint(
                f"{path}: the label of {letter!r} must be a number below {labels}, got {str(label)[:40]}"
            )
    added = folder / "added_tokens.json"
    # Tokenizers often add <s> and </s> behind the labels that a model has; the blank may be among them and not behind.
    more = read_json_file(added) if added.is_file() else {}
    vocabulary |= {token: label for token, label in more.items() if isinstance(label, int) and 0 <= label < labels}
    return {letter.lower(): label for letter, label in vocabulary.items()}


def _bundle(model: str) -> Any:
    import torchaudio

    found = getattr(torchaudio.pipelines, model, None)
    if not isinstance(found, torchaudio.pipelines.Wav2Vec2ASRBundle):
        known = [
            name
            for name in torchaudio.pipelines.__all__
            if isinstance(getattr(torchaudio.pipelines, name), torchaudio.pipelines.Wav2Vec2ASRBundle)
        ]
        raise BadCheckpoint(f"align.model {model!r} is neither huggingface nor one of {', '.join(sorted(known))}")
    return found


def _fitting(path: str, model: str, skeleton: Any) -> dict[str, Any]:
    """Return the checkpoint's tensors, in float32, under the names that a network has."""
    import torch

    if model == HUGGINGFACE:
        weights: Mapping[str, Any] = folder_weights(Path(path))
    else:
        weights = _without_spare_labels(read_tensors(Path(path)), _bundle(model))
    fitting: dict[str, Any] = {}
    for name, wanted in skeleton.state_dict().items():
        found = next((weights[known] for known in _namings(name) if known in weights), None)
        if found is None and name.endswith(UNUSED):
            found = torch.zeros(wanted.shape)
        if not isinstance(found, torch.Tensor):
            raise BadCheckpoint(f"{path} lacks the tensor {name}: are these the weights of another model?")
        if found.shape != wanted.shape:
            raise BadCheckpoint(f"{path}: {name} has shape {list(found.shape)}, the model's is {list(wanted.shape)}")
        fitting[name] = found.float()
    return fitting


def _namings(name: str) -> list[str]:
    return [
        name,
        *(name.replace(a, b) for a, b in NAMES if a in name),
        *(name.replace(b, a) for a, b in NAMES if b in name),
    ]


def _without_spare_labels(weights: dict[str, Any], bundle: Any) -> dict[str, Any]:
    """Drop the labels that fairseq's dictionaries have and the bundle does not use, where a file still has them."""
    import torch

    spare = set(bundle._remove_aux_axis or ())
    for name in ("aux.weight", "aux.bias"):
        found = weights.get(name)
        if isinstance(found, torch.Tensor) and len(found) == len(bundle.get_labels()) + len(spare):
            weights[name] = found[[i for i in range(len(found)) if i not in spare]]
    return weights


def _normalised(network: Any) -> Any:
    """Return a network whose waves are brought to zero mean and unit variance, as some bundles want."""
    import torch

    class Normalised(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, waves: Any, lengths: Any = None) -> Any:
            return self.network(torch.nn.functional.layer_norm(waves, waves.shape), lengths)

    return Normalised()
