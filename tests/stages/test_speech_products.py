"""The products that the CPU computes in its own way give what torch's plain functions give."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages import speech_matrices
from stages.checkpoints import checkpoint_of
from stages.compute import COMPILE_VARIABLE
from stages.speech_encoder import load_encoder
from stages.speech_layers import PRODUCT_QUERIES, attention_by_products
from stages.speech_matrices import Linear, packs
from stages.speech_position import BLOCKS, DirectConvolution, Position, SpectralConvolution
from tests.speech_builders import ALIKE, encoder, sound

CPU = torch.device("cpu")
packing = pytest.mark.skipif(not packs(torch.float32, CPU), reason="torch has no products of oneDNN here")
packing_bfloat16 = pytest.mark.skipif(not packs(torch.bfloat16, CPU), reason="this processor has no bfloat16")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@given(
    kernel=st.integers(1, 40),
    groups=st.integers(1, 4),
    channels=st.integers(1, 5),
    count=st.integers(1, 200),
    seed=st.integers(0, 9),
)
@example(kernel=128, groups=2, channels=3, count=1, seed=0)
@example(kernel=128, groups=1, channels=2, count=128, seed=0)
@example(kernel=128, groups=1, channels=2, count=129, seed=0)
@example(kernel=128, groups=1, channels=2, count=130, seed=0)
@example(kernel=95, groups=2, channels=2, count=2 * 162 + 1, seed=0)
@example(kernel=8, groups=2, channels=2, count=9 * BLOCKS, seed=0)
@example(kernel=8, groups=2, channels=2, count=9 * BLOCKS + 1, seed=0)
@settings(max_examples=150)
def test_products_of_spectra_are_the_convolution(kernel, groups, channels, count, seed):
    width = groups * channels
    weight, bias = drawn(width, channels, kernel, seed=seed), drawn(width, seed=seed + 1)
    columns = drawn(width, count, seed=seed + 2)
    want = DirectConvolution(weight.double(), bias.double(), groups)(columns.double())
    got = SpectralConvolution(weight, bias, groups)(columns)
    assert got.dtype == torch.float32
    assert got.shape == want.shape == (width, count)
    assert (got - want).abs().max() < 2e-6 * (1 + (kernel * channels) ** 0.5)


@given(st.integers(1, 30), st.integers(1, 60))
def test_the_convolution_is_a_sum_over_taps(kernel, count):
    """In words: frame t hears frames t - kernel // 2 to t + kernel - 1 - kernel // 2, zeros outside of the clip."""
    weight, columns = drawn(1, 1, kernel), drawn(1, count)
    want = [
        sum(
            float(weight[0, 0, tap]) * float(columns[0, heard])
            for tap in range(kernel)
            if 0 <= (heard := frame + tap - kernel // 2) < count
        )
        for frame in range(count)
    ]
    for kind in (DirectConvolution, SpectralConvolution):
        assert (kind(weight, torch.ones(1), 1)(columns)[0] - 1 - torch.tensor(want)).abs().max() < 1e-4


@cache
def wide(family):
    """A small model whose positional convolution is wide enough for spectra, by transformers' own code."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    fields = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    fields |= {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 2}
    fields |= {"conv_pos_batch_norm": True} if family == "hubert" else {}
    model = AutoModel.from_config(AutoConfig.for_model(family, **fields)).eval()
    for tensor in model.parameters():
        tensor.data += 0.05 * torch.randn_like(tensor)
    return model


@pytest.mark.parametrize("num_samples", [400, 8000, 41_400, 90_000])
@pytest.mark.parametrize("family", ["hubert", "wav2vec2", "wavlm"])
def test_wide_positional_convolutions_are_those_of_transformers(family, num_samples, tmp_path):
    wide(family).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"do_normalize": false}')
    wave = sound(num_samples)
    with torch.inference_mode():
        want = wide(family)(torch.from_numpy(wave)[None], output_hidden_states=True).hidden_states
    for layer in range(3):
        live = load_encoder(checkpoint_of(str(tmp_path)), layer=layer)
        assert isinstance(live._position._convolution, SpectralConvolution)
        got, again = live.encode([wave])[0], live.encode([sound(5000), wave])[1]
        assert (got - want[layer][0]).abs().max() <= ALIKE
        assert torch.equal(got, again)


@pytest.mark.parametrize(
    ("channels", "kernel", "kind"),
    [(16, 32, SpectralConvolution), (15, 32, DirectConvolution), (16, 31, DirectConvolution)],
)
def test_small_positional_convolutions_are_torchs(channels, kernel, kind):
    facts = replace(encoder("hubert_group").facts, width=2 * channels, heads=1, pos_groups=2, pos_kernel=kernel)
    name = "encoder.pos_conv_embed.conv."
    tensors = {f"{name}weight": drawn(2 * channels, channels, kernel), f"{name}bias": drawn(2 * channels)}
    for dtype in (torch.float32, torch.bfloat16):
        live = Position(facts, tensors, dtype, CPU)
        assert isinstance(live._convolution, kind)
        assert live(drawn(5, 2 * channels).to(dtype)).dtype == dtype


shapes = st.tuples(st.integers(1, 70), st.integers(1, 90), st.integers(1, 90))


@packing
@given(shapes, st.sampled_from(["", "gelu", "relu"]), st.booleans(), st.booleans())
@pytest.mark.parametrize("laid_out", [True, False])
def test_a_map_is_product_bias_activation_and_sum(laid_out, shape, activation, biased, added):
    count, inputs, outputs = shape
    rows, weight = drawn(count, inputs), drawn(outputs, inputs, seed=1)
    bias, plus = drawn(outputs, seed=2) if biased else None, drawn(count, outputs, seed=3) if added else None
    want = rows.double() @ weight.double().T + (0 if bias is None else bias)
    if activation:
        want = {"gelu": torch.nn.functional.gelu, "relu": torch.relu}[activation](want)
    want = want if plus is None else want + plus
    live = Linear(weight, bias, activation, laid_out)
    assert live._packed == laid_out
    kept = rows.clone(), None if plus is None else plus.clone()
    assert (live(rows, plus) - want).abs().max() < 1e-4
    assert torch.equal(rows, kept[0])
    assert plus is None or torch.equal(plus, kept[1])


@packing_bfloat16
@settings(max_examples=20)
@given(st.integers(1, 3 * PRODUCT_QUERIES), st.integers(1, 3), st.sampled_from([4, 64, 80]))
@example(PRODUCT_QUERIES, 1, 64)
@example(PRODUCT_QUERIES + 1, 1, 64)
def test_attention_by_products_is_attention(length, heads, width):
    query, key, value = (drawn(1, heads, length, width, seed=seed).bfloat16() for seed in range(3))
    scores = query.double() @ key.double().transpose(2, 3) / width**0.5
    want = torch.softmax(scores, dim=-1) @ value.double()
    got = attention_by_products(query, key, value)
    assert got.dtype == torch.bfloat16
    assert float((got - want).norm() / want.norm()) < 0.01


def test_weights_are_not_laid_out_for_a_compiler_or_another_device(monkeypatch):
    assert not packs(torch.float16, CPU)
    assert not packs(torch.float32, torch.device("cuda"))
    monkeypatch.setenv(COMPILE_VARIABLE, "1")
    assert not packs(torch.float32, CPU)
    monkeypatch.delenv(COMPILE_VARIABLE)
    monkeypatch.setattr(speech_matrices.platform, "machine", lambda: "aarch64")
    assert not packs(torch.float32, CPU)


@packing
@pytest.mark.parametrize("name", ["hubert_group", "wavlm"])
def test_other_machines_give_the_same_features_but_for_rounding(name, monkeypatch):
    wave = sound(30_000)
    want = encoder(name, 3).encode([wave])[0]
    monkeypatch.setattr(speech_matrices.platform, "machine", lambda: "aarch64")
    encoder.cache_clear()
    got = encoder(name, 3).encode([wave])[0]
    encoder.cache_clear()
    assert (got - want).abs().max() <= ALIKE
