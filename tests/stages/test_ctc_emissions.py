"""CTC models from end to end, against transformers and torchaudio. Weights are random; the sizes are tiny."""

import json
import string
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from torchaudio.pipelines._wav2vec2.impl import Wav2Vec2ASRBundle, Wav2Vec2FABundle

from schemas.clock import FrameGrid, Samples
from schemas.records import Aligned, Artifact, Spoken, Token
from stages.align_ctc import CtcConfig
from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.ctc_emissions import CtcEmissions
from stages.ctc_models import CtcHead, CtcLabels, read_head
from stages.speech_encoder import load_encoder
from tests.feature_builders import clip, noise

LABELS = ["<pad>", "|", *string.ascii_lowercase, "'"]
SHAPE = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def saved(folder, kind, **changes):
    """Save a random model as transformers does, and return it."""
    import transformers

    torch.manual_seed(7)
    settings = {**SHAPE, "vocab_size": len(LABELS), "pad_token_id": 0, **changes}
    model = getattr(transformers, f"{kind}ForCTC")(getattr(transformers, f"{kind}Config")(**settings)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(200)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({label: i for i, label in enumerate(LABELS)}))
    return model


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """A model of the large kind: layer norms everywhere, normalised input."""
    folder = tmp_path_factory.mktemp("stable")
    settings = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    return saved(folder, "Wav2Vec2", **settings), checkpoint_of(str(folder))


def emissions_of(checkpoint, model="huggingface", window_seconds=30.0, context_seconds=2.0):
    encoder = load_encoder(checkpoint, model=model, layer=None)
    head = read_head(checkpoint, model)
    return CtcEmissions(encoder, head, window_seconds=window_seconds, context_seconds=context_seconds)


def normalised(pcm):
    wave = pcm.astype(np.float64) / 32768
    return torch.tensor((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7), dtype=torch.float32)[None]


def reference(model, wave):
    with torch.inference_mode():
        return model(wave).logits[0].log_softmax(-1).numpy()


def test_log_probs_are_those_of_transformers(stable):
    model, checkpoint = stable
    pcms = [noise(n, seed) for seed, n in enumerate((400, 719, 720, 5000, 16_001))]
    found = emissions_of(checkpoint).log_probs(pcms)
    for pcm, log_probs in zip(pcms, found, strict=True):
        want = reference(model, normalised(pcm))
        assert log_probs.dtype == np.float32
        assert log_probs.shape == want.shape
        assert want.max() - want.min() > 3
        np.testing.assert_allclose(log_probs, want, atol=2e-4)
        np.testing.assert_allclose(np.exp(log_probs.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("kind", ["Hubert", "WavLM"])
def test_heads_on_other_encoders(tmp_path, kind):
    model = saved(tmp_path, kind)
    pcm = noise(8000)
    (log_probs,) = emissions_of(checkpoint_of(str(tmp_path))).log_probs([pcm])
    wave = torch.from_numpy(pcm.astype(np.float32) / 32768)[None]
    np.testing.assert_allclose(log_probs, reference(model, wave), atol=2e-4)


@pytest.mark.parametrize("aligner", [False, True])
def test_bundles_are_those_of_torchaudio(tmp_path, monkeypatch, aligner):
    """A bundle of tiny size whose file has rows that mean nothing, as the released files have."""
    labels = [*string.ascii_lowercase, "'"] if aligner else ["|", *string.ascii_uppercase, "'"]
    parameters = {
        **torchaudio.pipelines.MMS_FA._params,
        "extractor_conv_layer_config": [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2],
        "encoder_embed_dim": 16,
        "encoder_pos_conv_kernel": 8,
        "encoder_pos_conv_groups": 2,
        "encoder_num_layers": 2,
        "encoder_num_heads": 2,
        "encoder_ff_interm_features": 24,
        "aux_num_out": len(labels) + 1,
    }
    kind = Wav2Vec2FABundle if aligner else Wav2Vec2ASRBundle
    bundle = kind("none", parameters, _labels=tuple(labels), _sample_rate=16_000, _normalize_waveform=True,
                  _model_type="Wav2Vec2")  # fmt: skip
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)
    torch.manual_seed(5)
    weights = torchaudio.models.wav2vec2_model(**parameters).state_dict()
    weights["aux.weight"] *= 200
    released = {**weights}
    for name in ("aux.weight", "aux.bias"):
        unused = torch.full_like(weights[name][:3], 50.0)
        released[name] = torch.cat([weights[name][:1], unused, weights[name][1:]])
    torch.save(released, tmp_path / "model.pt")
    monkeypatch.setattr(torchaudio.pipelines._wav2vec2.utils, "load_state_dict_from_url", lambda *_, **__: released)
    theirs = bundle.get_model(with_star=False) if aligner else bundle.get_model()
    pcm = noise(8000)
    with torch.inference_mode():
        want = theirs(torch.from_numpy(pcm.astype(np.float32) / 32768)[None])[0][0].log_softmax(-1).numpy()
    (log_probs,) = emissions_of(checkpoint_of(str(tmp_path / "model.pt")), "TINY").log_probs([pcm])
    assert want.max() - want.min() > 3
    np.testing.assert_allclose(log_probs, want, atol=2e-4)


# ---------------------------------------------------------------- windows


@pytest.mark.parametrize(("num_samples", "window"), [(2_641, 0.02), (48_079, 0.5), (48_080, 0.5), (48_081, 1.0)])
def test_windows_give_as_many_frames_as_one_pass(stable, num_samples, window):
    _, checkpoint = stable
    pcm = noise(num_samples)
    emissions = emissions_of(checkpoint, window_seconds=window, context_seconds=0.5)
    (log_probs,) = emissions.log_probs([pcm])
    assert len(log_probs) == emissions.num_frames(num_samples) == 1 + (num_samples - 400) // 320
    assert np.isfinite(log_probs).all()


def test_a_window_as_long_as_the_clip_is_one_pass(stable):
    _, checkpoint = stable
    pcm = noise(32_000)
    (one,) = emissions_of(checkpoint).log_probs([pcm])
    (other,) = emissions_of(checkpoint, window_seconds=2.0).log_probs([pcm])
    np.testing.assert_array_equal(one, other)


def test_context_that_reaches_everywhere_is_one_pass(stable):
    _, checkpoint = stable
    pcm = noise(32_000)
    (one,) = emissions_of(checkpoint).log_probs([pcm])
    (other,) = emissions_of(checkpoint, window_seconds=0.3, context_seconds=2.0).log_probs([pcm])
    np.testing.assert_allclose(one, other, atol=2e-4)


def test_windows_of_a_model_without_attention_are_one_pass(tmp_path):
    """Where layers add nothing to their input, context of the positional convolution's width is enough."""
    saved(tmp_path, "Wav2Vec2")
    weights = load_file(tmp_path / "model.safetensors")
    for name in weights:
        if "out_proj" in name or "output_dense" in name:
            weights[name].zero_()
    save_file(weights, tmp_path / "model.safetensors")
    checkpoint = checkpoint_of(str(tmp_path))
    pcm = noise(64_000)
    (one,) = emissions_of(checkpoint).log_probs([pcm])
    (enough,) = emissions_of(checkpoint, window_seconds=0.7, context_seconds=0.2).log_probs([pcm])
    (too_little,) = emissions_of(checkpoint, window_seconds=0.7, context_seconds=0).log_probs([pcm])
    np.testing.assert_allclose(one, enough, atol=1e-4)
    assert np.abs(one - too_little).max() > 1e-2


def test_long_and_short_clips_of_a_batch_keep_their_places():
    class Encoder:
        grid = FrameGrid(hop=Samples(320), offset=Samples(199))

        def encode(self, waves):
            assert all(len(wave) <= 16_000 for wave in waves)
            return [torch.from_numpy(wave[:1, None]) for wave in waves]

        def windows(self, wave, window, context):
            assert (window, context) == (16_000, 8000)
            yield torch.from_numpy(wave[:1, None])
            yield torch.from_numpy(wave[1:2, None])

    labels = CtcLabels(letters={}, blank=0, delimiter=None, width=2)
    head = CtcHead(labels=labels, weight=torch.tensor([[0.0], [1.0]]), bias=torch.zeros(2))
    emissions = CtcEmissions(Encoder(), head, window_seconds=1.0, context_seconds=0.5)
    pcms = [np.full(n, i * 3276, np.int16) for i, n in enumerate((400, 16_001, 16_000, 20_000, 500))]
    found = emissions.log_probs(pcms)
    assert [len(log_probs) for log_probs in found] == [1, 2, 1, 2, 1]
    odds = [log_probs[0, 1] - log_probs[0, 0] for log_probs in found]
    np.testing.assert_allclose(odds, np.arange(5) * 3276 / 32768, atol=1e-6)
    assert emissions.log_probs([]) == []


# ---------------------------------------------------------------- the stage


def spoken(pcm, *words):
    return Spoken(clip=clip(pcm), tokens=tuple(Token(word, (word,) if word.isascii() else ()) for word in words))


def test_the_stage_from_a_checkpoint(stable):
    _, checkpoint = stable
    config = CtcConfig(checkpoint=checkpoint, window_seconds=1.0)
    config.check()
    items = [spoken(noise(n, seed), "hello", "мир", "it's") for seed, n in enumerate((16_000, 24_000, 40_001))]
    together = config.setup().process(items)
    for item, outcome in zip(items, together, strict=True):
        assert isinstance(outcome, Aligned)
        (alone,) = config.setup().process([item])
        assert (alone.words, alone.score_all, alone.score_silence) == (
            outcome.words, outcome.score_all, outcome.score_silence)  # fmt: skip
        assert all(word.start is not None and word.end <= len(item.clip.pcm) for word in outcome.words)
        assert outcome.doubtful == (1,)


def test_check_finds_faults_before_any_work(stable, tmp_path):
    _, checkpoint = stable
    with pytest.raises(BadCheckpoint, match="sha256"):
        replace(CtcConfig(checkpoint=checkpoint), checkpoint=Artifact(path=checkpoint.path, sha256="0" * 64)).check()
    with pytest.raises(BadCheckpoint, match="is a folder"):
        CtcConfig(checkpoint=checkpoint, model="MMS_FA").check()
    saved(tmp_path, "Wav2Vec2")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(BadCheckpoint, match=r"layers\.2"):
        CtcConfig(checkpoint=checkpoint_of(str(tmp_path))).check()


def test_a_missing_checkpoint_is_named(tmp_path):
    config = CtcConfig(checkpoint=Artifact(path=str(tmp_path / "gone"), sha256="0" * 64))
    with pytest.raises(BadCheckpoint, match="gone is missing"):
        config.check()
