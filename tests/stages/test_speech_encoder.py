"""Features against transformers' and torchaudio's own forward passes, alone, in batches and in windows."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.clock import Samples
from stages.checkpoints import checkpoint_of
from stages.speech_encoder import SpeechEncoder, encoder_facts, load_encoder
from stages.speech_facts import ConvShape, EncoderFacts, facts_of_config
from stages.speech_models import expected_shapes

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
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
    poisoned = {k: v * float("nan") if ".layers.2." in k else v for k, v in tensors.items()}
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


@settings(max_examples=10, deadline=None)
@given(st.lists(waves, min_size=1, max_size=4), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_clip_gives_the_same_bytes_in_any_batch(name, precision, clips, random):
    live = encoder(name, 2, precision)
    alone = [live.encode([clip])[0] for clip in clips]
    order = list(range(len(clips)))
    random.shuffle(order)
    for i, got in zip(order, live.encode([clips[i] for i in order]), strict=True):
        assert torch.equal(got, alone[i])


@settings(max_examples=10, deadline=None)
@given(st.lists(waves, min_size=2, max_size=5), st.integers(1_000, 20_000))
@pytest.mark.parametrize("name", NAMES)
def test_packed_clips_differ_from_clips_alone_by_rounding_only(name, clips, pack):
    live = load_encoder(checkpoint_of(str(CHECKPOINTS / name)), layer=3)
    alone = [live.encode([clip])[0] for clip in clips]
    live.pack = Samples(pack)
    for got, want in zip(live.encode(clips), alone, strict=True):
        assert got.shape == want.shape
        assert (got - want).norm(dim=1).div(want.norm(dim=1)).max() < 2e-6


@pytest.mark.parametrize(
    ("name", "masked", "differs"),
    [
        ("hubert_group", False, True),
        ("hubert_group", True, True),
        ("wav2vec2", True, True),
        ("hubert_layer", False, True),
        ("hubert_layer", True, False),
    ],
)
def test_padded_batches_would_not_do(name, masked, differs):
    """Why nothing is padded: transformers' own batches change a clip, with a group norm even under a mask."""
    short, long = sound(6000, 1), sound(16_000, 2)
    made = extractor(name)([short, long], sampling_rate=16_000, padding=True, return_attention_mask=True)
    values, mask = (torch.from_numpy(np.stack(made[key])) for key in ("input_values", "attention_mask"))
    with torch.inference_mode():
        both = reference(name)(values, attention_mask=mask if masked else None).last_hidden_state
    (alone,) = encoder(name).encode([short])
    assert bool((both[0, : len(alone)] - alone).abs().max() > 1e-3) == differs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [6_400, 9_999, 64_000])
def test_windows_join_to_the_frames_of_one_pass(name, window):
    """Before attention, context of half a positional convolution makes windows exact."""
    wave, live = sound(50_000), encoder(name, 0)
    (whole,) = live.encode([wave])
    half = live.facts.pos_kernel // 2 * live.grid.hop
    joined = live.encode_long(wave, Samples(window), Samples(half))
    assert joined.shape == whole.shape == (live.num_frames(50_000), live.width)
    assert (joined - whole).abs().max() <= ALIKE
    if window < 50_000:
        assert (live.encode_long(wave, Samples(window), Samples(0)) - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_one_window_is_one_pass(name):
    wave, live = sound(20_000), encoder(name)
    assert torch.equal(live.encode_long(wave, Samples(20_000), Samples(4_000)), live.encode([wave])[0])


@pytest.mark.parametrize("name", NAMES)
def test_attention_over_windows_stays_near_one_pass(name):
    wave, live = sound(160_000), encoder(name)
    (whole,) = live.encode([wave])
    apart = [
        float((live.encode_long(wave, Samples(32_000), Samples(context)) - whole).norm() / whole.norm())
        for context in (0, 8_000)
    ]
    assert apart[1] < 0.2
    assert apart[1] < apart[0]


def test_the_group_norm_of_a_window_is_that_of_the_clip():
    """A loud half changes what a quiet half gives, so statistics of a window alone would show."""
    wave = np.concatenate([sound(32_000, 1, 0.01), sound(32_000, 2, 0.3)])
    live = encoder("hubert_group", 0)
    (whole,) = live.encode([wave])
    quiet = live.encode([wave[:32_000]])[0]
    joined = live.encode_long(wave, Samples(16_000), Samples(6_400))
    assert (joined - whole).abs().max() <= ALIKE
    assert (quiet[:40] - whole[:40]).abs().max() > 0.1


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


@pytest.mark.parametrize("name", ["hubert_group", "wavlm"])
def test_clips_that_are_no_clips_are_refused(name):
    live = encoder(name)
    for wave in (sound(399), np.zeros((2, 4000), np.float32), np.zeros(4000)):
        with pytest.raises(ValueError, match="at least 400"):
            live.encode([wave])
        with pytest.raises(ValueError, match="at least 400"):
            live.encode_long(wave, Samples(1600), Samples(0))
    with pytest.raises(ValueError, match="shorter than a hop"):
        live.encode_long(sound(4000), Samples(319), Samples(0))


def test_the_device_running_out_of_memory_is_a_memory_error(monkeypatch):
    live = load_encoder(checkpoint_of(str(CHECKPOINTS / "hubert_group")), layer=1)

    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(live, "_forward", full)
    with pytest.raises(MemoryError, match="12 frames"):
        live.encode([sound(4000)])


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
