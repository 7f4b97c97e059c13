"""The classification head of transformers' `Wav2Vec2ForSequenceClassification` and its like."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, folder_weights, read_json_file
from stages.speech_facts import EncoderFacts

Float64 = npt.NDArray[np.float64]


class Head(NamedTuple):
    """The classifier behind the encoder, float64: projector, mean, classifier.

    Attributes:
        projector: (weight, bias), shapes (projected, width) and (projected,).
        classifier: (weight, bias), shapes (num_labels, projected) and (num_labels,).
        layers: share of each hidden state, shape (num_layers + 1,), or None for the model's output alone.
    """

    projector: tuple[Float64, Float64]
    classifier: tuple[Float64, Float64]
    layers: Float64 | None

    def logits(self, means: Float64) -> Float64:
        """Return shape (num_windows, num_labels). The mean may come first, since the projector is linear."""
        (up, up_bias), (out, out_bias) = self.projector, self.classifier
        logits: Float64 = (means @ up.T + up_bias) @ out.T + out_bias
        return logits


def num_labels(path: Path) -> int:
    """Return the number of classes by transformers' rules: `id2label`, else `num_labels`, else 2.

    Raises:
        BadCheckpoint: if it is not 2 to 65536; with 1 the model is a regression.
    """
    config = read_json_file(path)
    names, number = config.get("id2label"), config.get("num_labels", 2)
    labels = len(names) if isinstance(names, dict) else number
    if type(labels) is not int or not 2 <= labels <= 1 << 16:
        raise BadCheckpoint(f"{path}: a style classifier has 2 to 65536 classes, this one {labels!r}")
    return labels


def head_of(checkpoint: Artifact, facts: EncoderFacts) -> Head:
    """Read the head of a folder in the layout of transformers' models for sequence classification.

    Raises:
        BadCheckpoint: if there is none, or a tensor's shape is not what `config.json` asks for.
    """
    import torch

    folder = Path(checkpoint.path)
    config = read_json_file(folder / "config.json")
    tensors = folder_weights(folder)
    weighted = config.get("use_weighted_layer_sum", False) is True
    projected = config.get("classifier_proj_size", 256)
    shapes = {
        "projector.weight": (projected, facts.width),
        "projector.bias": (projected,),
        "classifier.weight": (labels := num_labels(folder / "config.json"), projected),
        "classifier.bias": (labels,),
    } | ({"layer_weights": (facts.num_layers + 1,)} if weighted else {})
    found: dict[str, Float64] = {}
    for name, shape in shapes.items():
        if not isinstance(tensors.get(name), torch.Tensor):
            raise BadCheckpoint(f"{folder} lacks the tensor {name}: it is no model for sequence classification")
        found[name] = tensors[name].double().numpy()
        if found[name].shape != shape:
            told = f"has shape {list(found[name].shape)}, config.json asks for {list(shape)}"
            raise BadCheckpoint(f"{folder}: {name} {told}")
        if not np.isfinite(found[name]).all():
            raise BadCheckpoint(f"{folder}: {name} holds numbers that are not finite")
    return Head(
        projector=(found["projector.weight"], found["projector.bias"]),
        classifier=(found["classifier.weight"], found["classifier.bias"]),
        layers=_softmax(found["layer_weights"]) if weighted else None,
    )


def _softmax(values: Float64) -> Float64:
    powers = np.exp(values - values.max())
    shares: Float64 = powers / powers.sum()
    return shares
