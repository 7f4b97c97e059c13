"""A clip's features are its own: alone, in batches, in shared matrices and in windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.clock import Samples
from stages.checkpoints import checkpoint_of
from stages.speech_encoder import load_encoder
from tests.speech_builders import ALIKE, CHECKPOINTS, NAMES, encoder, extractor, reference, sound, waves


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
