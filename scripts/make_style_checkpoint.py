"""Make tests/checkpoints/style_wav2vec2: a tiny style encoder in the layout of Spirit LM's, with random weights.

A folder with `config.json` and `model.safetensors`, as `Wav2Vec2ForSequenceClassification.save_pretrained` gives, and
no `preprocessor_config.json`, as in the release. Same bytes on every run: `python -m scripts.make_style_checkpoint`.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from schemas.canonical import canonical_json, rng_for

FOLDER = Path(__file__).parent.parent / "tests" / "checkpoints" / "style_wav2vec2"
LABELS = 12
CONFIG = {
    "architectures": ["Wav2Vec2ForSequenceClassification"],
    "model_type": "wav2vec2",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "group",
    "classifier_proj_size": 24,
    "id2label": {str(i): f"style {i}" for i in range(LABELS)},
    "label2id": {f"style {i}": i for i in range(LABELS)},
}


def write(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write the checkpoint with some fields of its configuration changed, and return the folder."""
    from safetensors.torch import save_file
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    config = CONFIG | changes
    model = Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**config)).eval()
    model.load_state_dict(_drawn(model.state_dict(), seed))
    _balance(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(canonical_json(config))
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def _drawn(tensors: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return random weights, drawn wide, so that features differ from frame to frame."""
    import torch

    rng = rng_for(seed, "style checkpoint")
    drawn = {}
    for name, tensor in sorted(tensors.items()):
        values = rng.normal(size=tuple(tensor.shape)).astype(np.float32)
        if name.endswith(("original0", "weight_g")):  # lengths in the positional convolution's weight norm
            values = np.abs(values) + 1
        elif tensor.ndim > 1:
            values *= np.float32(1.5 / np.sqrt(tensor[0].numel()))
        else:
            values = values * np.float32(0.05) + np.float32(name.endswith("layer_norm.weight"))
        drawn[name] = torch.from_numpy(values)
    return drawn


def _balance(model: Any) -> None:
    """Set the classifier's bias so that no class wins on every sound; rounded, so that the file stays the same."""
    import torch

    rng, time = rng_for(0, "sounds"), np.arange(16_000) / 16_000
    sounds = [rng.normal(size=16_000) * (1 + np.sin(2 * np.pi * rate * time)) for rate in (1, 3, 8)]
    sounds += [np.sign(np.sin(2 * np.pi * pitch * time)) + 0.1 * rng.normal(size=16_000) for pitch in (80, 140, 250)]
    with torch.inference_mode():
        waves = torch.from_numpy(np.stack([s / s.std() for s in sounds]).astype(np.float32))
        mean = model(waves).logits.mean(dim=0)
    model.classifier.bias.data -= torch.round(mean.clone(), decimals=2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    print(write(parser.parse_args().out))
