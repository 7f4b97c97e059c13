"""CTC models for alignment: what the columns of their output mean, and the linear layer that gives them.

Two layouts are read: a folder as Hugging Face writes it (`config.json`, weights, `vocab.json`), of one of `CLASSES`, or
the file of weights of a torchaudio bundle (MMS_FA, WAV2VEC2_ASR_*, HUBERT_ASR_*, VOXPOPULI_ASR_*), whose labels are in
the package. Nothing is downloaded.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, folder_weights, read_json_file, read_tensors, verified_path

HUGGINGFACE = "huggingface"
CLASSES = ("HubertForCTC", "Wav2Vec2ForCTC", "WavLMForCTC")
PADS = ("<pad>", "[PAD]")

_LEAST_LETTERS = 20
"""Of a to z. Alphabets of Latin script lack a few (Italian j, k, w, x, y); phonemes and other scripts lack more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcLabels:
    """What the columns of a model's output mean.

    Attributes:
        letters: column of each lower-case letter and the apostrophe; small and capital letters are not told apart.
        blank: column of CTC's blank.
        delimiter: column of the mark between words, or None where the model has none.
        width: number of columns.
    """

    letters: Mapping[str, int]
    blank: int
    delimiter: int | None
    width: int

    def spell(self, word: str) -> list[int]:
        """Return the columns of a lower-case word's letters; letters that the model lacks are left out."""
        return [self.letters[char] for char in word if char in self.letters]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CtcHead:
    """The linear layer from the encoder's last hidden state to the labels.

    Attributes:
        weight: torch float32, shape (labels.width, hidden).
        bias: torch float32, shape (labels.width,).
    """

    labels: CtcLabels
    weight: Any
    bias: Any


def read_head(checkpoint: Artifact, model: str) -> CtcHead:
    """Read a model's labels and last layer; the encoder is read by `stages.speech_encoder`.

    Args:
        checkpoint: a folder, or a bundle's file.
        model: `huggingface` or the name of a torchaudio bundle.

    Raises:
        BadCheckpoint: if the files changed, are damaged, or are no CTC model of letters.
        ValueError: if there is no such bundle.

    Price: the whole checkpoint is hashed and read once.
    """
    if model != HUGGINGFACE:
        bundle = ctc_bundle(model)
        path = verified_path(checkpoint)
        if path.is_dir():
            raise BadCheckpoint(f"{path} is a folder, but model {model!r} is one file of weights: name the file")
        return _bundle_head(path, model, bundle)
    path = verified_path(checkpoint)
    if not path.is_dir():
        raise BadCheckpoint(f"{path} is a file, but model 'huggingface' is a folder: name the folder, or the bundle")
    return _folder_head(path)


def ctc_bundle(model: str) -> Any:
    """Return a torchaudio bundle that has labels.

    Raises:
        ValueError: if there is no such bundle.
    """
    import torchaudio

    bundle = getattr(torchaudio.pipelines, model, None)
    if not hasattr(bundle, "get_labels") or not hasattr(bundle, "_labels"):
        known = [n for n in sorted(dir(torchaudio.pipelines)) if hasattr(getattr(torchaudio.pipelines, n), "_labels")]
        raise ValueError(f"model must be 'huggingface' or one of {', '.join(known)}, got {model!r}")
    return bundle


# ---------------------------------------------------------------- torchaudio


def _bundle_head(path: Path, model: str, bundle: Any) -> CtcHead:
    labels = ["-", *bundle._labels]
    weight, bias = _tensors(path, read_tensors(path), "aux")
    # The released files still hold rows of fairseq's dictionary that mean nothing; torchaudio drops them on loading.
    unused = set(bundle._remove_aux_axis)
    if len(weight) == len(labels) + len(unused):
        kept = [row for row in range(len(weight)) if row not in unused]
        weight, bias = weight[kept], bias[kept]
    if len(weight) != len(labels):
        raise BadCheckpoint(
            f"{path} has {len(weight)} labels, {model} has {len(labels)}: is it the file of that model?"
        )
    _require_width(path, weight, bundle._params["encoder_embed_dim"])
    return CtcHead(labels=_ctc_labels(path, labels, 0, "|"), weight=weight, bias=bias)


# ---------------------------------------------------------------- Hugging Face


def _folder_head(folder: Path) -> CtcHead:
    config = read_json_file(folder / "config.json")
    classes = config.get("architectures") or ["nothing"]
    if classes[0] not in CLASSES:
        raise BadCheckpoint(f"{folder / 'config.json'} is of {classes[0]}; a CTC model is one of {', '.join(CLASSES)}")
    labels = _vocabulary(folder)
    blank = _blank(folder, config.get("pad_token_id", 0), labels)
    weight, bias = _tensors(folder, folder_weights(folder), "lm_head")
    _require_width(folder, weight, config.get("hidden_size", 768))
    if len(weight) < len(labels) or len(weight) != config.get("vocab_size", len(weight)):
        raise BadCheckpoint(
            f"{folder} has {len(labels)} labels in vocab.json, vocab_size {config.get('vocab_size')} in config.json "
            f"and {len(weight)} rows in lm_head.weight: these files are not of one model"
        )
    labels += [""] * (len(weight) - len(labels))
    return CtcHead(labels=_ctc_labels(folder, labels, blank, _delimiter(folder)), weight=weight, bias=bias)


def _vocabulary(folder: Path) -> list[str]:
    """Return the label of each id; ids without one are empty."""
    path = folder / "vocab.json"
    ids = read_json_file(path)
    if any(isinstance(value, dict) for value in ids.values()):
        raise BadCheckpoint(f"{path} holds vocabularies of several languages: save the one you need as a flat object")
    if not all(type(i) is int and 0 <= i < 100_000 for i in ids.values()):
        raise BadCheckpoint(f"{path} must map labels to their ids")
    labels = [""] * (1 + max(ids.values(), default=-1))
    for label, i in ids.items():
        if labels[i]:
            raise BadCheckpoint(f"{path} gives the id {i} to {labels[i]!r} and to {label!r}")
        labels[i] = label
    return labels


def _blank(folder: Path, pad: Any, labels: Sequence[str]) -> int:
    """Return the blank, which is the padding token in Hugging Face's CTC models."""
    named = [i for i, label in enumerate(labels) if label in PADS]
    if type(pad) is not int or pad < 0 or (named and pad not in named):
        told = f", vocab.json has {labels[named[0]]!r} at {named[0]}" if named else ""
        raise BadCheckpoint(f"{folder / 'config.json'} has pad_token_id {pad!r}{told}: correct pad_token_id")
    return pad


def _delimiter(folder: Path) -> str:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return "|"
    config = read_json_file(path)
    if "Phoneme" in str(config.get("tokenizer_class")):
        raise BadCheckpoint(f"{path} is of phonemes: choose a model whose labels are letters")
    mark = config.get("word_delimiter_token", "|")
    return str(mark["content"] if isinstance(mark, dict) and "content" in mark else mark)


# ---------------------------------------------------------------- both


def _tensors(path: Path, tensors: Mapping[str, Any], layer: str) -> tuple[Any, Any]:
    import torch

    weight, bias = (tensors.get(f"{layer}.{name}") for name in ("weight", "bias"))
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor):
        raise BadCheckpoint(f"{path} has no {layer}.weight and {layer}.bias: it is an encoder without a CTC layer")
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        shapes = f"{list(weight.shape)} and {list(bias.shape)}"
        raise BadCheckpoint(
            f"{path} has {layer}.weight and {layer}.bias of shapes {shapes}, which do not belong together"
        )
    weight, bias = weight.to(torch.float32), bias.to(torch.float32)
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise BadCheckpoint(f"{path} has values in {layer} that are not finite: the checkpoint is damaged")
    return weight, bias


def _require_width(path: Path, weight: Any, hidden: Any) -> None:
    if weight.shape[1] != hidden:
        raise BadCheckpoint(f"{path} has a last layer of width {weight.shape[1]}, its encoder has {hidden}")


def _ctc_labels(path: Path, labels: Sequence[str], blank: int, delimiter: str) -> CtcLabels:
    if blank >= len(labels):
        raise BadCheckpoint(f"{path} has {len(labels)} labels and its blank at {blank}: correct pad_token_id")
    letters: dict[str, int] = {}
    for column, label in enumerate(labels):
        low = label.lower()
        if column == blank or len(low) != 1 or not (low.isalpha() or low == "'") or label == delimiter:
            continue
        if low not in letters or label == low:
            letters[low] = column
    missing = [char for char in string.ascii_lowercase if char not in letters]
    if 26 - len(missing) < _LEAST_LETTERS:
        raise BadCheckpoint(
            f"{path} has no labels for {''.join(missing)}, but transcripts are spelled in a to z: choose a model of "
            "Latin or romanised text"
        )
    mark = labels.index(delimiter) if delimiter in labels and labels.index(delimiter) != blank else None
    return CtcLabels(letters=letters, blank=blank, delimiter=mark, width=len(labels))
