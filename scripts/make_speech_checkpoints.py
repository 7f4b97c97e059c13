"""Make the small speech encoders that the tests read: random weights in each layout that published models come in.

    python -m scripts.make_speech_checkpoints tests/checkpoints

| folder | like | layout |
|---|---|---|
| hubert_group | facebook/hubert-base-ls960 | safetensors of the base model, clips normalised |
| hubert_layer | facebook/hubert-large-ll60k | a CTC head, hence prefixed names |
| hubert_25hz | slprl/mhubert-base-25hz | eight convolutions (hop 640), batch norm before the positional one |
| wav2vec2 | facebook/wav2vec2-base-960h | pytorch_model.bin with a CTC head and the older names of weight norm |
| wavlm | microsoft/wavlm-base | relative positions, no preprocessor_config.json |

Seeded: the same versions of torch and transformers give the same tensors.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertModel,
    PreTrainedModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WavLMConfig,
    WavLMModel,
)

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SLOW = {
    "conv_dim": [16] * 8,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2, 2],
    "conv_pos_batch_norm": True,
}


def main(folder: Path) -> None:
    save(random(HubertModel, HubertConfig(**SMALL), 1), folder / "hubert_group", normalised=True)
    save(random(HubertForCTC, HubertConfig(**SMALL, **LARGE), 2), folder / "hubert_layer", normalised=True)
    save(random(HubertModel, HubertConfig(**{**SMALL, **SLOW}), 3), folder / "hubert_25hz", normalised=False)
    old = random(Wav2Vec2ForCTC, Wav2Vec2Config(**SMALL), 4)
    save(old, folder / "wav2vec2", normalised=True)
    rewrite(folder / "wav2vec2")
    save(random(WavLMModel, WavLMConfig(**SMALL), 5), folder / "wavlm", normalised=None)


def random(kind: type[PreTrainedModel], config: Any, seed: int) -> PreTrainedModel:
    """Return a model whose every tensor is drawn, norms and batch statistics included."""
    torch.manual_seed(seed)
    model = kind(config).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
        elif tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return model


def save(model: PreTrainedModel, folder: Path, *, normalised: bool | None) -> None:
    model.save_pretrained(folder)
    if normalised is not None:
        Wav2Vec2FeatureExtractor(do_normalize=normalised).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config.pop("transformers_version")
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def rewrite(folder: Path) -> None:
    """Turn safetensors into the file and the names of the years before."""
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    renamed = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(path).items()
    }
    torch.save(renamed, folder / "pytorch_model.bin")
    path.unlink()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]))
