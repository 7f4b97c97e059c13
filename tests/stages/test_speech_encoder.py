"""Features against transformers' own forward passes: every layer, every family, odd shapes and odd clips."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.checkpoints import checkpoint_of
from stages.speech_encoder import encoder_facts, load_encoder
from stages.speech_facts import ConvShape, EncoderFacts, facts_of_config
from stages.speech_models import expected_shapes
from tests.speech_builders import ALIKE, CHECKPOINTS, NAMES, encoder, hidden_states, sound

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SMALL |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


@pytest.mark.parametrize("num_samples", [720, 12_345, 200_000])
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_that_of_transformers(name, num_samples):
    wave = sound(num_samples)
    *states, last = hidden_states(name, wave)
    for layer, want in [*enumerate(states), (None, last)]:
        (got,) = encoder(name, layer).encode([wave])
        assert got.dtype == torch.float32
        assert got.shape == want.shape
        assert (got - want).abs().max() <= ALIKE


VARIANTS = {
    "adapters": ("wav2vec2", {**LARGE, "adapter_attn_dim": 8}),
    "adapters that the layers have no place for": ("wav2vec2", {"adapter_attn_dim": 8}),
    "an odd positional kernel": ("hubert", {"num_conv_pos_embeddings": 15}),
    "no norm before the projection": ("hubert", {"feat_proj_layer_norm": False}),
    "other activations": ("wav2vec2", {"hidden_act": "relu", "feat_extract_activation": "relu"}),
    "a bias under a group norm": ("wav2vec2", {"conv_bias": True}),
    "few relative positions": ("wavlm", {**LARGE, "num_buckets": 16, "max_bucket_distance": 20}),
    "a large epsilon": ("hubert", {**LARGE, "layer_norm_eps": 0.1}),
    "unlike strides": ("hubert", {"conv_dim": [8, 12, 16], "conv_kernel": [7, 4, 1], "conv_stride": [3, 5, 2]}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_those_of_transformers(variant, tmp_path):
    from transformers import AutoConfig, AutoModel

    family, fields = VARIANTS[variant]
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(family, **{**SMALL, **fields})).eval()
    for tensor in model.parameters():
        tensor.data += 0.1 * torch.randn_like(tensor)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    wave = sound(9000)
    with torch.inference_mode():
        want = model(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
    for layer in range(3):
        (got,) = load_encoder(checkpoint_of(str(tmp_path)), layer=layer).encode([wave])
        assert (got - want[layer][0]).abs().max() <= ALIKE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(4000, np.float32),
        np.full(4000, 0.25, np.float32),
        sound(4000, spread=1e-4),
        sound(4000) + np.float32(0.3),
        np.sign(sound(4000)),
    ],
    ids=["silence", "offset", "quiet", "noise with an offset", "clipped"],
)
def test_odd_clips_are_those_of_transformers(name, wave):
    # Transformers rounds the offset into the statistics of float32, where ours are of float64.
    assert (encoder(name).encode([wave])[0] - hidden_states(name, wave)[-1]).abs().max() <= 10 * ALIKE


def test_layers_that_are_not_asked_for_are_not_computed(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = CHECKPOINTS / "hubert_group"
    tensors = load_file(folder / "model.safetensors")
    poisoned = {k: v * 1e37 if ".layers.2." in k else v for k, v in tensors.items()}
    save_file(poisoned, tmp_path / "model.safetensors")
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for layer, clean in ((2, True), (3, False)):
        (got,) = load_encoder(checkpoint_of(str(tmp_path)), layer=layer).encode([sound(4000)])
        assert bool(got.isfinite().all()) == clean


stacks = st.lists(
    st.tuples(st.integers(1, 7), st.integers(1, 4)).map(lambda ks: ConvShape(1, *ks)), min_size=1, max_size=5
)


def facts_of(stack, **more):
    given = {"num_layers": 1, "width": 8, "heads": 2, "inner": 8, "pos_kernel": 4, "pos_groups": 2}
    return EncoderFacts(family="hubert", conv=tuple(stack), conv_norm="group", **{**given, **more})


@settings(deadline=None)
@given(stacks, st.integers(1, 600))
def test_frames_are_counted_as_torch_counts_them(stack, num_samples):
    facts = facts_of(stack)
    hidden = torch.zeros(1, 1, num_samples)
    for conv in stack:
        if hidden.shape[2] < conv.kernel:
            assert facts.num_frames(num_samples) == 0
            assert num_samples < facts.receptive
            return
        hidden = torch.nn.functional.conv1d(hidden, torch.ones(1, 1, conv.kernel), stride=conv.stride)
    assert facts.num_frames(num_samples) == hidden.shape[2]


@settings(deadline=None)
@given(stacks, st.integers(0, 3))
def test_a_frame_hears_its_receptive_field_and_stands_for_its_middle(stack, frame):
    facts = facts_of(stack)
    wave = torch.zeros(1, 1, facts.receptive + frame * facts.hop, requires_grad=True)
    hidden = wave
    for conv in stack:
        hidden = torch.nn.functional.conv1d(hidden, torch.ones(1, 1, conv.kernel), stride=conv.stride)
    hidden[0, 0, frame].backward()
    heard = wave.grad[0, 0].nonzero()[:, 0]
    assert heard[0] == frame * facts.hop
    assert heard[-1] == frame * facts.hop + facts.receptive - 1
    assert facts.grid.position(frame) == (int(heard[0]) + int(heard[-1])) // 2


def test_published_front_ends_have_their_known_grids():
    base = encoder("hubert_group")
    assert (base.grid.hop, base.grid.offset, base.receptive, base.grid.rate) == (320, 199, 400, 50)
    slow = encoder("hubert_25hz")
    assert (slow.grid.hop, slow.grid.offset, slow.receptive, slow.grid.rate) == (640, 359, 720, 25)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NAMES)
def test_lower_precision_is_near_the_full_one(name, precision):
    wave = sound(20_000)
    full, low = encoder(name, 2).encode([wave])[0], encoder(name, 2, precision).encode([wave])[0]
    assert low.dtype == torch.float32
    assert 1e-5 < float((low - full).norm() / full.norm()) < 0.03


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 300), st.integers(1, 60))
def test_relative_positions_are_bucketed_as_in_transformers(length, quarter, factor):
    from transformers import WavLMConfig
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    from stages.speech_layers import relative_bias

    buckets, far = 4 * quarter, quarter * factor + quarter + 1
    theirs = WavLMAttention(4, 2, num_buckets=buckets, max_distance=far)
    assert WavLMConfig().num_buckets == 320
    table = torch.arange(2.0 * buckets).reshape(buckets, 2)
    found = relative_bias(table, length, facts_of([ConvShape(1, 1, 1)], buckets=buckets, max_distance=far))
    distances = torch.arange(1 - length, length)
    assert torch.equal(found, table[theirs._relative_positions_bucket(distances)].T)


def test_the_expected_tensors_are_those_of_transformers():
    """Of the published shapes, by name and size, heads aside."""
    from transformers import AutoModel, HubertConfig, Wav2Vec2Config, WavLMConfig

    large = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True, "hidden_size": 1024}
    for config in (
        HubertConfig(num_hidden_layers=2),
        HubertConfig(num_hidden_layers=2, conv_pos_batch_norm=True, feat_proj_layer_norm=False),
        Wav2Vec2Config(num_hidden_layers=2, num_attention_heads=16, intermediate_size=4096, **large),
        Wav2Vec2Config(num_hidden_layers=2, adapter_attn_dim=16, num_attention_heads=16, **large),
        WavLMConfig(num_hidden_layers=2),
    ):
        with torch.device("meta"):
            model = AutoModel.from_config(config)
        theirs = {name: tuple(t.shape) for name, t in model.state_dict().items() if not name.endswith("_tracked")}
        theirs.pop("masked_spec_embed", None)
        for name in [name for name in theirs if "parametrizations" in name]:
            shape = theirs.pop(name)
            if name.endswith("1"):
                theirs[name.partition("parametrizations")[0] + "weight"] = shape
        assert expected_shapes(facts_of_config(config.to_dict(), Path("config.json"))) == theirs


def test_clips_are_normalised_as_the_checkpoint_says(tmp_path):
    wave, folder = sound(8000), CHECKPOINTS / "hubert_layer"
    for said, scale_matters in (("true", False), ("false", True), (None, False)):
        place = tmp_path / str(said)
        place.mkdir()
        for name in ("config.json", "model.safetensors"):
            (place / name).write_bytes((folder / name).read_bytes())
        if said:
            (place / "preprocessor_config.json").write_text(f'{{"do_normalize": {said}, "sampling_rate": 16000}}')
        live = load_encoder(checkpoint_of(str(place)), layer=1)
        loud, soft = live.encode([wave, wave / np.float32(8)])
        assert bool((loud - soft).abs().max() > 0.01) == scale_matters
    assert encoder_facts(checkpoint_of(str(CHECKPOINTS / "wavlm"))).wave_epsilon is None
