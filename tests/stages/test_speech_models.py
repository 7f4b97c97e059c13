"""Checkpoints in every layout give the same features, and each fault is one line that names the file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.speech_encoder import check_encoder, encoder_facts, load_encoder
from stages.speech_facts import TORCHAUDIO_EPSILON

CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
WAVE = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)


@pytest.fixture
def folder(tmp_path):
    """A copy of a good checkpoint, to be spoilt."""
    return Path(shutil.copytree(CHECKPOINTS / "hubert_group", tmp_path / "model"))


def features(path, model="huggingface", layer=None):
    return load_encoder(checkpoint_of(str(path)), model=model, layer=layer).encode([WAVE])[0]


def rename(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file({change(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")


def configure(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def test_names_with_and_without_a_head_are_one_model(folder):
    want = features(folder)
    rename(folder, lambda name: f"hubert.{name}")
    save_file(
        {**load_file(folder / "model.safetensors"), "lm_head.weight": torch.zeros(3, 32)}, folder / "model.safetensors"
    )
    assert torch.equal(features(folder), want)


def test_both_names_of_weight_norm_and_both_files_are_one_model(folder):
    want = features(folder)
    rename(folder, lambda name: name.replace("parametrizations.weight.original0", "weight_g"))
    rename(folder, lambda name: name.replace("parametrizations.weight.original1", "weight_v"))
    assert torch.equal(features(folder), want)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert torch.equal(features(folder), want)


def test_half_precision_on_disk_is_read(folder):
    want = features(folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in tensors.items()}, folder / "model.safetensors")
    assert 0 < (features(folder) - want).abs().max() < 0.05


def test_a_configuration_that_leaves_defaults_out_is_that_of_the_base_model(tmp_path):
    from transformers import AutoConfig

    for family in ("hubert", "wav2vec2", "wavlm"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
        found = encoder_facts(checkpoint_of(str(tmp_path)))
        (tmp_path / "config.json").write_text(json.dumps(AutoConfig.for_model(family).to_dict()))
        assert found == encoder_facts(checkpoint_of(str(tmp_path)))


def torchaudio_bundle(name, folder, monkeypatch, normalised):
    """Convert a checkpoint by torchaudio's own importer, and make its shape known as a bundle."""
    from torchaudio import pipelines
    from torchaudio.models.wav2vec2.utils import import_huggingface as importer
    from torchaudio.pipelines import Wav2Vec2Bundle
    from transformers import AutoModel

    original = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    wavlm = type(original).__name__ == "WavLMModel"
    parameters = (importer._get_config_wavlm if wavlm else importer._get_config)(original.config)
    kind = "WavLM" if wavlm else "Wav2Vec2"
    bundle = Wav2Vec2Bundle("tiny.pth", {**parameters, "aux_num_out": None}, 16_000, normalised, kind)
    monkeypatch.setattr(pipelines, name, bundle, raising=False)
    return importer.import_huggingface_model(original).eval()


@pytest.mark.parametrize("source", ["hubert_group", "hubert_layer", "wav2vec2", "wavlm"])
@pytest.mark.parametrize("normalised", [False, True])
def test_a_torchaudio_bundle_gives_what_torchaudio_does(source, normalised, tmp_path, monkeypatch):
    theirs = torchaudio_bundle("HUBERT_TINY", CHECKPOINTS / source, monkeypatch, normalised)
    torch.save(theirs.state_dict(), tmp_path / "tiny.pth")
    wave = torch.from_numpy(WAVE)[None]
    if normalised:
        wave = torch.nn.functional.layer_norm(wave, wave.shape)
    with torch.inference_mode():
        layers = theirs.extract_features(wave)[0]
        last = theirs(wave)[0][0]
    got = [features(tmp_path / "tiny.pth", "HUBERT_TINY", layer) for layer in (1, 2, None)]
    for mine, want in zip(got, [layers[0][0], layers[1][0], last], strict=True):
        assert (mine - want).abs().max() <= 1e-5


@pytest.mark.parametrize("source", ["hubert_group", "hubert_layer", "wav2vec2", "wavlm"])
def test_a_converted_checkpoint_gives_what_it_gave_before(source, tmp_path, monkeypatch):
    checkpoint = checkpoint_of(str(CHECKPOINTS / source))
    normalised = encoder_facts(checkpoint).wave_epsilon is not None
    theirs = torchaudio_bundle("TINY", CHECKPOINTS / source, monkeypatch, normalised)
    torch.save(theirs.state_dict(), tmp_path / "tiny.pth")
    found, before = encoder_facts(checkpoint_of(str(tmp_path / "tiny.pth")), "TINY"), encoder_facts(checkpoint)
    epsilon = TORCHAUDIO_EPSILON if normalised else None
    assert replace(before, wave_epsilon=epsilon, family=found.family) == found
    for layer in (0, 2, 3):
        assert (features(tmp_path / "tiny.pth", "TINY", layer) - features(checkpoint.path, layer=layer)).abs().max() < (
            1e-3 if normalised else 1e-6
        )


def test_every_bundle_of_torchaudio_has_known_facts():
    from torchaudio import pipelines

    path = checkpoint_of(str(CHECKPOINTS / "hubert_group"))
    names = [name for name in dir(pipelines) if hasattr(getattr(pipelines, name), "_model_type")]
    assert {"HUBERT_BASE", "WAV2VEC2_ASR_BASE_960H", "MMS_FA", "WAVLM_LARGE"} <= set(names)
    for name in names:
        facts = encoder_facts(path, name)
        assert (facts.hop, facts.receptive, facts.family) == (320, 400, name.split("_")[0].lower()) or (
            facts.family == "wav2vec2" and name.split("_")[0] in ("MMS", "VOXPOPULI")
        )
        assert (facts.conv_norm == "layer") == facts.norm_first == (facts.wave_epsilon is not None)


def without(name):
    def spoil(folder):
        tensors = load_file(folder / "model.safetensors")
        tensors.pop(name)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def extended(**more):
    def spoil(folder):
        save_file({**load_file(folder / "model.safetensors"), **more}, folder / "model.safetensors")

    return spoil


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


NORM = "encoder.layers.1.layer_norm.weight"
POSITION = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
FAULTS = {
    "no configuration": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "a configuration that is no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json is no JSON"),
    "another kind of model": (lambda f: configure(f, model_type="bert"), r"config\.json: model_type is 'bert'"),
    "more layers than weights": (
        lambda f: configure(f, num_hidden_layers=4),
        r"lacks the tensor encoder\.layers\.3\.attention\.q_proj\.weight",
    ),
    "fewer layers than weights": (
        lambda f: configure(f, num_hidden_layers=2),
        r"holds the tensor encoder\.layers\.2\..*does not explain",
    ),
    "a width of other weights": (lambda f: configure(f, hidden_size=64), r"shape \[32, 16\].*asks for \[64, 16\]"),
    "a width no multiple of heads": (lambda f: configure(f, num_attention_heads=5), r"config\.json: width 32"),
    "a count that is no number": (lambda f: configure(f, intermediate_size="x"), r"intermediate_size must.*'x'"),
    "a count of nothing": (lambda f: configure(f, num_hidden_layers=0), r"num_hidden_layers must be positive"),
    "convolutions of unequal lists": (lambda f: configure(f, conv_stride=[5, 2]), r"differ in length"),
    "a flag that is none": (lambda f: configure(f, conv_bias="no"), r"conv_bias must be true or false, got 'no'"),
    "an epsilon of zero": (lambda f: configure(f, layer_norm_eps=0), r"layer_norm_eps must be a positive number"),
    "an unknown norm": (lambda f: configure(f, feat_extract_norm="batch"), r"feat_extract_norm.*'batch'"),
    "an unknown activation": (lambda f: configure(f, hidden_act="silu"), r"activation 'silu' is not supported"),
    "an adapter at the end": (lambda f: configure(f, add_adapter=True), r"add_adapter is not supported"),
    "another sample rate": (
        lambda f: (f / "preprocessor_config.json").write_text('{"sampling_rate": 8000}'),
        r"preprocessor_config\.json: sampling_rate is 8000, it must be 16000",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"neither model\.safetensors nor pytorch_model\.bin"),
    "truncated weights": (cut, r"model\.safetensors is damaged"),
    "a missing norm": (without(NORM), rf"lacks the tensor {re.escape(NORM)}"),
    "half a weight norm": (without(POSITION), r"lacks the tensor encoder\.pos_conv_embed\.conv\.weight"),
    "a flat weight norm": (extended(**{POSITION: torch.ones(16)}), r"original0 has shape \[16\]"),
    "a number that is none": (extended(**{NORM: torch.full((32,), float("nan"))}), r"not finite"),
    "integers": (extended(**{NORM: torch.ones(32, dtype=torch.int32)}), r"floating-point"),
    "an unknown tensor": (extended(**{"encoder.more": torch.ones(1)}), r"holds the tensor encoder\.more"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_checkpoint_is_one_line_that_names_the_file(fault, folder):
    spoil, told = FAULTS[fault]
    spoil(folder)
    artifact = checkpoint_of(str(folder))
    for use in (check_encoder, load_encoder):
        with pytest.raises(BadCheckpoint, match=told) as caught:
            use(artifact, layer=2)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("use", [check_encoder, load_encoder])
def test_a_layer_that_is_not_there_is_named(use, folder):
    artifact = checkpoint_of(str(folder))
    use(artifact, layer=3)
    with pytest.raises(BadCheckpoint, match=r"model has layers 0 to 3, layer 4 was asked for"):
        use(artifact, layer=4)


@pytest.mark.parametrize("use", [check_encoder, load_encoder])
def test_weights_that_were_replaced_are_refused(use, folder):
    artifact = checkpoint_of(str(folder))
    extended(**{NORM: torch.zeros(32)})(folder)
    with pytest.raises(BadCheckpoint, match="replaced or damaged"):
        use(artifact, layer=1)


def test_a_loaded_encoder_does_not_change_with_its_file(folder):
    live = load_encoder(checkpoint_of(str(folder)), layer=None)
    (want,) = live.encode([WAVE])
    path = folder / "model.safetensors"
    with open(path, "r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert torch.equal(live.encode([WAVE])[0], want)


def test_an_unknown_bundle_is_named_with_those_there_are(folder):
    with pytest.raises(BadCheckpoint, match=r"'HUBERT_HUGE' is neither.*HUBERT_BASE"):
        check_encoder(checkpoint_of(str(folder)), model="HUBERT_HUGE", layer=1)


def test_weights_of_another_bundle_are_refused(folder):
    file = checkpoint_of(str(folder / "model.safetensors"))
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors.*feature_extractor\.conv_layers\.0\.conv\.weight"):
        check_encoder(file, model="HUBERT_BASE", layer=1)


def test_a_pickle_is_never_executed(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "executed",))

    (folder / "model.safetensors").unlink()
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(BadCheckpoint, match=r"pytorch_model\.bin"):
        load_encoder(checkpoint_of(str(folder)), layer=1)
    assert not (tmp_path / "executed").exists()
