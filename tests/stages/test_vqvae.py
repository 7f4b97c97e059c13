import io
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.checkpoints import BadCheckpoint
from stages.vqvae import encode, encoder_shapes, load_vqvae, read_shape

TINY = Path(__file__).parent.parent / "checkpoints" / "pitch_vqvae"
PREFIX = "encoder.level_blocks.0.model"


def config(**changes):
    """A config in the release's form; `encoder__depth=2` changes a key of the section `encoder_params`."""
    value = {
        "features": "norm_f0_interp,vuv",
        "encoder_params": {
            "input_emb_width": 2, "output_emb_width": 6, "levels": 1, "downs_t": [4], "strides_t": [2], "width": 4,
            "depth": 2, "m_conv": 1.0, "dilation_growth_rate": 3,
        },
        "vq_params": {"l_bins": 5, "emb_width": 6, "mu": 0.99, "levels": 1},
    }  # fmt: skip
    for name, change in changes.items():
        section, _, key = name.partition("__")
        holder, key = (value[f"{section}_params"], key) if key else (value, section)
        if change is None:
            del holder[key]
        else:
            holder[key] = change
    return value


def module(shape):
    """The encoder again, of PyTorch's modules and their own state dict."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, dilation):
            super().__init__()
            inner, outer = shape.hidden, shape.width
            first = nn.Conv1d(outer, inner, 3, padding=dilation, dilation=dilation)
            self.model = nn.Sequential(nn.ReLU(), first, nn.ReLU(), nn.Conv1d(inner, outer, 1))

        def forward(self, x):
            return x + shape.scale * self.model(x)

    class Stack(nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.model = nn.Sequential(*parts)

        def forward(self, x):
            return self.model(x)

    levels = []
    for level, stride in enumerate(shape.strides):
        down = nn.Conv1d(shape.width if level else 2, shape.width, 2 * stride, stride, stride // 2)
        levels.append(nn.Sequential(down, Stack(*(Block(d) for d in shape.dilations))))
    return Stack(*levels, nn.Conv1d(shape.width, shape.embedding, 3, padding=1))


def random_tensors(shape, seed=0):
    torch_rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=torch_rng) * 0.3 for name, size in encoder_shapes(shape).items()}


def write(folder, value, tensors, **more):
    (folder / "config.yaml").write_text(yaml.safe_dump(value))
    torch.save({"model": tensors, **more}, folder / "model.pt")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config()))
    write(tmp_path, config(), random_tensors(read_shape(tmp_path / "config.yaml", 5)))
    return tmp_path


SHAPES = [
    {},
    {"encoder__strides_t": [4], "encoder__downs_t": [2]},
    {"encoder__strides_t": [[4, 2]], "encoder__downs_t": [[1, 2]]},
    {"encoder__strides_t": [[2, 8]], "encoder__downs_t": [[1, 1]], "encoder__res_scale": True},
    {"encoder__m_conv": 0.5, "encoder__depth": 5, "encoder__dilation_cycle": 2, "encoder__zero_out": True},
    {"encoder__dilation_growth_rate": None, "encoder__width": 7},
]


@pytest.mark.parametrize("changes", SHAPES)
@given(seed=st.integers(0, 99), frames=st.integers(16, 200), clips=st.integers(1, 3))
@settings(max_examples=10)
def test_the_encoder_is_that_of_the_published_layout(tmp_path_factory, changes, seed, frames, clips):
    path = tmp_path_factory.mktemp("v") / "config.yaml"
    path.write_text(yaml.safe_dump(config(**changes)))
    shape = read_shape(path, 5)
    tensors = random_tensors(shape, seed)
    other = module(shape)
    named = {name.removeprefix("encoder.level_blocks.0."): t for name, t in tensors.items() if name.startswith("enc")}
    other.load_state_dict(named)  # strict: the names and shapes are all of them
    inputs = torch.randn(clips, 2, frames, generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        got, want = encode(tensors, shape, inputs), other(inputs)
    assert got.shape == (clips, 6, frames // 16)
    torch.testing.assert_close(got, want)


def test_dilations_follow_growth_and_cycle(tmp_path):
    path = tmp_path / "config.yaml"
    for changes, dilations in (
        ({"encoder__depth": 4}, (1, 3, 9, 27)),
        ({"encoder__depth": 5, "encoder__dilation_cycle": 2}, (1, 3, 1, 3, 1)),
        ({"encoder__dilation_growth_rate": None}, (1, 1)),
    ):
        path.write_text(yaml.safe_dump(config(**changes)))
        assert read_shape(path, 5).dilations == dilations


@pytest.mark.parametrize(("told", "depth", "scale"), [(True, 4, 0.5), (False, 4, 1.0), (None, 9, 1.0), (True, 1, 1.0)])
def test_residual_blocks_may_be_scaled_by_the_root_of_their_number(tmp_path, told, depth, scale):
    value = config(encoder__depth=depth)
    value["encoder_params"] |= {} if told is None else {"res_scale": told}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(value))
    assert read_shape(tmp_path / "config.yaml", 5).scale == scale


@pytest.mark.parametrize(
    ("features", "norm", "interpolated", "normalised"),
    [
        ("f0,vuv", False, False, False),
        ("f0,vuv", True, False, True),
        ("f0_interp,vuv", False, True, False),
        ("norm_f0,vuv", False, False, True),
        ("norm_f0_interp,vuv", False, True, True),
    ],
)
def test_features_say_what_the_net_reads(tmp_path, features, norm, interpolated, normalised):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(features=features, speaker_norm=norm)))
    shape = read_shape(tmp_path / "config.yaml", 5)
    assert (shape.interpolated, shape.normalised) == (interpolated, normalised)


def test_what_lies_beside_the_encoder_is_left_alone(folder):
    shape = read_shape(folder / "config.yaml", 5)
    tensors = random_tensors(shape)
    more = {"decoder.out.weight": torch.zeros(1), "vq.level_blocks.0.k_sum": torch.zeros(2)}
    write(folder, config(wandb={"x": [1]}, lr=0.1), {**tensors, **more}, optimizer={"state": {}}, steps=7)
    loaded = load_vqvae(folder, 5)
    assert set(loaded.tensors) == set(tensors)
    assert torch.equal(loaded.codebook, tensors["vq.level_blocks.0.k"])


def test_half_precision_weights_are_widened(folder):
    tensors = random_tensors(read_shape(folder / "config.yaml", 5))
    write(folder, config(), {name: tensor.half() for name, tensor in tensors.items()})
    assert {tensor.dtype for tensor in load_vqvae(folder, 5).tensors.values()} == {torch.float32}


def test_safetensors_take_the_place_of_the_pickle(folder):
    from safetensors.torch import save_file

    tensors = random_tensors(read_shape(folder / "config.yaml", 5), seed=8)
    save_file(tensors, folder / "model.safetensors")
    assert torch.equal(load_vqvae(folder, 5).codebook, tensors["vq.level_blocks.0.k"])


def test_a_key_may_refer_to_another(tmp_path):
    value = config(width=9, encoder__width="${width}", vq__emb_width="${encoder_params.output_emb_width}")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(value))
    shape = read_shape(tmp_path / "config.yaml", 5)
    assert (shape.width, shape.embedding) == (9, 6)


BAD_CONFIGS = [
    (config(features="cents"), "features is 'cents'"),
    (config(features=["f0", "vuv"]), r"features is \['f0', 'vuv'\]"),
    (config(features=None), "features is None"),
    ([1], "must hold a mapping, it holds a list"),
    ({"features": "f0,vuv"}, "has no section encoder_params"),
    (config(vq__mu=None), "vq_params lacks mu"),
    (config(encoder__width=None, encoder__depth=None), "encoder_params lacks depth, width"),
    (config(encoder__attention=2), "encoder_params has unknown keys attention"),
    (config(vq__l_bins=64), "has 64 codes, the recipe says clusters: 5"),
    (config(vq__l_bins="many"), "l_bins is 'many'"),
    (config(vq__l_bins=True), "l_bins is True"),
    (config(encoder__input_emb_width=1), "input_emb_width is 1, only 2"),
    (config(encoder__levels=3), "levels is 3, only 1"),
    (config(vq__levels=2), "levels is 2, only 1"),
    (config(encoder__output_emb_width=12), "gives 12 channels, the codebook has 6"),
    (config(encoder__downs_t=[7]), "makes? one id of 128 frames; it must be 16"),
    (config(encoder__strides_t=[[5, 4, 4, 2]], encoder__downs_t=[[1, 1, 1, 1]]), "one id of 160 frames"),
    (config(encoder__strides_t=[[1, 16]], encoder__downs_t=[[1, 1]]), "even strides"),
    (config(encoder__strides_t=[[2, 2]], encoder__downs_t=[[4]]), "do not match"),
    (config(encoder__strides_t=2), "strides_t is 2, it must hold small integers"),
    (config(encoder__downs_t=["4"]), "downs_t is \\['4'\\]"),
    (config(encoder__downs_t=[4, 4]), "small integers for one level"),
    (config(encoder__width=0), "width is 0"),
    (config(encoder__depth=-1), "depth is -1"),
    (config(encoder__m_conv="1"), "m_conv is '1'"),
    (config(encoder__m_conv=float("nan")), "m_conv is nan"),
    (config(encoder__m_conv=0.1), "m_conv is 0.1"),
    (config(encoder__dilation_growth_rate=0), "must be positive integers"),
    (config(encoder__dilation_cycle=1.5), "must be positive integers"),
    (config(encoder__width="${nowhere.at.all}"), "width is None"),
]


@pytest.mark.parametrize(("value", "told"), BAD_CONFIGS)
def test_a_bad_config_is_told_in_one_line(folder, value, told):
    (folder / "config.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(BadCheckpoint, match=told) as caught:
        load_vqvae(folder, 5)
    assert "config.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"a: [", b"\xff\xfe\x00a", b"!!python/object/apply:os.system ['echo']", b""])
def test_a_config_that_is_no_yaml_is_named(folder, data):
    (folder / "config.yaml").write_bytes(data)
    with pytest.raises(BadCheckpoint, match=r"config\.yaml (is no YAML file|must hold)"):
        load_vqvae(folder, 5)


def spoilt(name, change):
    def spoil(tensors):
        tensors[name] = change(tensors[name])

    return spoil


BAD_TENSORS = [
    (lambda t: t.pop("vq.level_blocks.0.k"), "has no tensor vq.level_blocks.0.k"),
    (lambda t: t.pop(f"{PREFIX}.4.bias"), "has no tensor encoder.level_blocks.0.model.4.bias"),
    (spoilt("vq.level_blocks.0.k", lambda t: t[:4]), r"k has shape \[4, 6\], config.yaml asks for \[5, 6\]"),
    (spoilt(f"{PREFIX}.0.0.weight", lambda t: t[:, :1]), r"shape \[4, 1, 4\], config.yaml asks for \[4, 2, 4\]"),
    (spoilt(f"{PREFIX}.2.1.model.1.model.3.bias", lambda t: t * float("nan")), "3.bias must hold finite numbers"),
    (spoilt("vq.level_blocks.0.k", lambda t: t.to(torch.int64)), "k must hold finite numbers"),
    (spoilt("vq.level_blocks.0.k", lambda t: t.tolist()), "has no tensor vq.level_blocks.0.k"),
]


@pytest.mark.parametrize(("spoil", "told"), BAD_TENSORS)
def test_bad_tensors_are_told_in_one_line(folder, spoil, told):
    tensors = random_tensors(read_shape(folder / "config.yaml", 5))
    spoil(tensors)
    write(folder, config(), tensors)
    with pytest.raises(BadCheckpoint, match=told) as caught:
        load_vqvae(folder, 5)
    assert "model.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.yaml", "model.pt"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BadCheckpoint, match=name):
        load_vqvae(folder, 5)


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_truncated_file_is_named(folder, kept):
    path = folder / "model.pt"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BadCheckpoint, match=r"model\.pt"):
        load_vqvae(folder, 5)


def test_a_pickle_of_other_objects_is_not_executed(folder):
    import pickle

    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    file = io.BytesIO()
    torch.save({"model": {"a": Trap()}}, file, pickle_module=pickle)
    (folder / "model.pt").write_bytes(file.getvalue())
    with pytest.raises(BadCheckpoint, match="never executed"):
        load_vqvae(folder, 5)


def test_the_committed_checkpoint_loads():
    loaded = load_vqvae(TINY, 64)
    assert loaded.codebook.shape == (64, 64)
    assert np.isfinite(loaded.codebook.numpy()).all()
