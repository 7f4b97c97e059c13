"""Small speech encoders, transformers' own models of the same checkpoints, and sounds for them."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from hypothesis import strategies as st

from stages.checkpoints import checkpoint_of
from stages.speech_encoder import SpeechEncoder, load_encoder

CHECKPOINTS = Path(__file__).parent / "checkpoints"
NAMES = ("hubert_group", "hubert_layer", "hubert_25hz", "wav2vec2", "wavlm")
ALIKE = 1e-5
"""Largest difference to another implementation; features are of size 1."""


@cache
def encoder(name, layer=None, precision="float32") -> SpeechEncoder:
    return load_encoder(checkpoint_of(str(CHECKPOINTS / name)), layer=layer, precision=precision)


@cache
def reference(name):
    """Transformers' own model of a checkpoint, without its head, loaded by its own code."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(CHECKPOINTS / name, local_files_only=True).eval()


@cache
def extractor(name):
    from transformers import Wav2Vec2FeatureExtractor

    if (CHECKPOINTS / name / "preprocessor_config.json").exists():
        return Wav2Vec2FeatureExtractor.from_pretrained(CHECKPOINTS / name)
    return Wav2Vec2FeatureExtractor(do_normalize=False)


def hidden_states(name, wave):
    values = extractor(name)(wave, sampling_rate=16_000, return_tensors="pt").input_values
    with torch.inference_mode():
        found = reference(name)(values, output_hidden_states=True)
    return [*(state[0] for state in found.hidden_states), found.last_hidden_state[0]]


def sound(num_samples, seed=0, spread=0.1):
    """Noise under a slow envelope, so that neither level nor colour is the same throughout."""
    rng = np.random.default_rng(seed)
    wave = rng.normal(0, spread, num_samples) * (1.2 + np.sin(np.arange(num_samples) / 3000 + seed))
    return (np.convolve(wave, [1, 0.7, 0.3], "same")).astype(np.float32).clip(-1, 1)


waves = st.builds(sound, st.integers(720, 6_000), st.integers(0, 99), st.sampled_from([0.001, 0.1, 0.5]))
