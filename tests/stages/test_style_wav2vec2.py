import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2ForSequenceClassification

from schemas.clock import SAMPLE_RATE, Samples
from schemas.contract import UnitContract
from schemas.records import UnitStream
from schemas.rejects import Reason, Reject
from scripts.make_style_checkpoint import LABELS, write
from stages import style_wav2vec2
from stages.artifacts import artifact_of
from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.kmeans import assign, fit_kmeans
from stages.quantisers import QuantiserConfig
from stages.style_wav2vec2 import Wav2Vec2KmeansStyleConfig, Wav2Vec2StyleConfig, Wav2Vec2StyleFeatures
from tests.feature_builders import clip, encoded, harmonic, noise, npy_artifact

FOLDER = Path(__file__).parent.parent / "checkpoints" / "style_wav2vec2"


@pytest.fixture(scope="module")
def stage():
    return config().setup()


def config(folder=FOLDER, **fields):
    return Wav2Vec2StyleConfig(checkpoint=checkpoint_of(str(folder)), **fields)


def sounds(seconds=6):
    """Each second sounds different."""
    parts = [harmonic(80 + 30 * i, 1.0) if i % 2 else noise(SAMPLE_RATE, i, 200 * (i + 1)) for i in range(seconds)]
    return np.concatenate(parts)


def expected(folder, pcm, normalised=True, release=True):
    """Spirit LM's use of the model, by transformers' own modules: project, average 50 frames, classify.

    The release reads the model's output; transformers' forward would read a weighted sum of layers where asked.
    """
    model = Wav2Vec2ForSequenceClassification.from_pretrained(folder).eval()
    extractor = Wav2Vec2FeatureExtractor(do_normalize=normalised)
    with torch.no_grad():
        wave = pcm.astype(np.float32) / 32768
        inputs = extractor(wave, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        outputs = model.wav2vec2(inputs, output_hidden_states=True)
        hidden = outputs[0]
        if not release:
            shares = torch.softmax(model.layer_weights, dim=0)
            hidden = sum(share * state for share, state in zip(shares, outputs.hidden_states, strict=True))
        hidden = model.projector(hidden)[0]
        pooled = [hidden[i : i + 50].mean(dim=0) for i in range(0, len(hidden), 50)]
        return model.classifier(torch.stack(pooled)).numpy()


@pytest.mark.parametrize("num_samples", [16_000, 48_000, 96_000, 400, 720, 16_399, 16_400, 16_719, 40_123])
def test_logits_and_ids_are_those_of_transformers(stage, num_samples):
    pcm = sounds()[:num_samples]
    want = expected(FOLDER, pcm)
    found = stage.logits(pcm)
    assert found.shape == want.shape
    np.testing.assert_allclose(found, want, atol=5e-5)
    (outcome,) = stage.process([encoded(pcm)])
    assert outcome.streams[0].ids.tolist() == want.argmax(axis=1).tolist()


def test_classes_differ_between_sounds(stage):
    assert len(set(stage.logits(sounds()).argmax(axis=1).tolist())) > 1


@pytest.mark.parametrize("normalised", [True, False, None])
@pytest.mark.parametrize(
    "changes",
    [
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
        {"feat_extract_norm": "group", "num_hidden_layers": 1},
        {"use_weighted_layer_sum": True},
        {"use_weighted_layer_sum": True, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ],
)
def test_other_architectures_agree_with_transformers(tmp_path, changes, normalised):
    """Without a preprocessor_config.json (None) clips are normalised, since Spirit LM's release does."""
    folder = write(tmp_path / "style", seed=1, **changes)
    if normalised is not None:
        told = {"do_normalize": normalised, "sampling_rate": SAMPLE_RATE}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    pcm = sounds(3)
    want = expected(folder, pcm, normalised is not False, release="use_weighted_layer_sum" not in changes)
    config(folder).check()
    np.testing.assert_allclose(config(folder).setup().logits(pcm), want, atol=2e-4)


def test_a_quiet_clip_shows_that_normalisation_matters(tmp_path):
    """The case above would not see a normalisation left out, if nothing depended on it."""
    pcm = noise(SAMPLE_RATE, 0, 5)
    assert np.abs(expected(FOLDER, pcm) - expected(FOLDER, pcm, normalised=False)).max() > 1e-2
    np.testing.assert_allclose(config().setup().logits(pcm), expected(FOLDER, pcm), atol=5e-5)


def test_whole_seconds_agree_with_the_model_as_transformers_runs_it(stage):
    """Of a clip of one second the whole forward is the same thing."""
    pcm = harmonic(120, 1.0)
    model = Wav2Vec2ForSequenceClassification.from_pretrained(FOLDER).eval()
    wave = Wav2Vec2FeatureExtractor()(pcm / 32768, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
    with torch.no_grad():
        np.testing.assert_allclose(stage.logits(pcm), model(wave.float()).logits.numpy(), atol=5e-5)


@given(num_samples=st.integers(400, 70_000))
@settings(max_examples=15, deadline=None)
def test_a_clip_has_an_id_for_each_50_frames(stage, num_samples):
    (outcome,) = stage.process([encoded(noise(num_samples))])
    frames = (num_samples - 400) // 320 + 1
    (stream,) = outcome.streams
    assert stream.name == "style"
    assert stream.ids.dtype == np.uint16
    assert len(stream.ids) == -(-frames // 50) >= 1


def test_short_clips_are_rejected_in_their_place(stage):
    batch = [encoded(noise(n), key=f"u{n}") for n in (399, 400, 1, 16_000)]
    outcomes = stage.process(batch)
    assert [isinstance(outcome, Reject) for outcome in outcomes] == [True, False, True, False]
    assert outcomes[0].reason == Reason.TOO_SHORT
    assert outcomes[0].key == "u399"
    assert outcomes[0].stage == "style"
    assert outcomes[0].detail.endswith("399 samples, the style encoder needs 400")


def test_order_and_batching_never_change_the_ids(stage):
    batch = [encoded(sounds()[:n], key=f"u{n}") for n in (16_000, 50_000, 800, 33_333)]
    together = {r.clip.utterance.key: r.streams[0].ids.tolist() for r in stage.process(batch)}
    for record in reversed(batch):
        (alone,) = stage.process([record])
        assert together[record.clip.utterance.key] == alone.streams[0].ids.tolist()


def test_streams_so_far_are_kept(stage):
    record = encoded(noise(16_000))
    pitch = UnitStream("pitch", np.zeros(3, np.uint16))
    (outcome,) = stage.process([type(record)(checked=record.checked, streams=(pitch,), f0=None)])
    assert [stream.name for stream in outcome.streams] == ["pitch", "style"]
    assert outcome.checked is record.checked


def test_long_clips_pass_in_windows(monkeypatch, stage):
    """Windows that see the whole clip as context give what a single pass does; others do not quite."""
    pcm = sounds(7)[:-8000]
    whole = stage.logits(pcm)
    monkeypatch.setattr(style_wav2vec2, "WINDOW", Samples(2 * SAMPLE_RATE))
    monkeypatch.setattr(style_wav2vec2, "CONTEXT", Samples(7 * SAMPLE_RATE))
    np.testing.assert_allclose(stage.logits(pcm), whole, atol=1e-4)
    monkeypatch.setattr(style_wav2vec2, "CONTEXT", Samples(SAMPLE_RATE))
    windowed = stage.logits(pcm)
    assert windowed.shape == whole.shape == (7, LABELS)
    assert np.abs(windowed - whole).max() > 1e-2


def test_full_scale_is_one_and_hidden_states_are_weighted():
    class Frames:
        """An encoder whose only feature is each frame's first sample."""

        receptive, width = 320, 1

        def num_frames(self, num_samples):
            return num_samples // 320

        def encode_long(self, wave, window, context):
            return torch.from_numpy(wave[: len(wave) // 320 * 320 : 320, None])

    pcm = np.full(20_000, -32768, np.int16)
    pcm[16_000:] = 8192
    windows = style_wav2vec2.Windows([(0.5, Frames()), (2.0, Frames())], 50)
    assert windows.means(pcm).tolist() == [[-2.5], [0.625]]
    assert windows.means(pcm[:300]).shape == (0, 1)


def test_the_contract_says_what_made_the_stream():
    assert config().contract() == UnitContract(
        stream="style",
        extractor="wav2vec2-style",
        version=1,
        model_sha256=checkpoint_of(str(FOLDER)).sha256,
        layer=None,
        codebook_sha256="",
        codebook_size=LABELS,
        frame_rate="1/1",
        hop=16_000,
        offset=8_000,
        chunking="windows of 100 s, 5 s of context",
    )


# ---------------------------------------------------------------- k-means


def features_of(pcm, layer):
    model = Wav2Vec2ForSequenceClassification.from_pretrained(FOLDER).eval()
    with torch.no_grad():
        states = model.wav2vec2(torch.from_numpy(pcm[None] / np.float32(32768)), output_hidden_states=True)
        hidden = states.hidden_states[layer][0].numpy()
    return np.stack([hidden[i : i + 50].mean(axis=0) for i in range(0, len(hidden), 50)])


def kmeans_config(tmp_path, layer=2, clusters=4):
    rows = np.concatenate([features_of(sounds(), layer), features_of(noise(40_000), layer)])
    codebook = npy_artifact(tmp_path / "style.npy", fit_kmeans(rows, clusters, 0))
    quantiser = QuantiserConfig(kind="kmeans", codebook=codebook, clusters=clusters)
    return Wav2Vec2KmeansStyleConfig(checkpoint=checkpoint_of(str(FOLDER)), layer=layer, quantiser=quantiser)


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_features_are_the_means_of_a_layer(layer):
    source = Wav2Vec2StyleFeatures(checkpoint=checkpoint_of(str(FOLDER)), layer=layer)
    source.check()
    pcm = sounds()[:77_000]
    found = source.setup().features(clip(pcm), None)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, features_of(pcm, layer), atol=2e-5)


def test_clips_without_a_frame_have_no_features():
    source = Wav2Vec2StyleFeatures(checkpoint=checkpoint_of(str(FOLDER)), layer=1).setup()
    assert source.features(clip(noise(399)), None).shape == (0, 32)


def test_ids_are_those_of_the_nearest_centroid(tmp_path):
    made = kmeans_config(tmp_path)
    made.check()
    pcm = sounds()
    found, short = made.setup().process([encoded(pcm), encoded(pcm[:399])])
    centroids = np.load(tmp_path / "style.npy")
    assert found.streams[0].ids.tolist() == assign(features_of(pcm, 2), centroids).tolist()
    assert len(set(found.streams[0].ids.tolist())) > 1
    assert short.reason == Reason.TOO_SHORT


def test_the_contract_of_k_means_has_the_codebook(tmp_path):
    made = kmeans_config(tmp_path)
    contract = made.contract()
    assert (contract.extractor, contract.layer, contract.codebook_size) == ("wav2vec2-kmeans", 2, 4)
    assert contract.codebook_sha256 == artifact_of(str(tmp_path / "style.npy")).sha256
    assert (contract.hop, contract.offset, contract.frame_rate) == (16_000, 8_000, "1/1")


def test_configs_travel(tmp_path):
    for made in (config(), kmeans_config(tmp_path)):
        assert pickle.loads(pickle.dumps(made)) == made


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_is_near(precision, stage):
    found = config(precision=precision).setup().logits(sounds())
    assert 0 < np.abs(found - stage.logits(sounds())).max() < 0.2


@pytest.mark.parametrize("fields", [{"precision": "int8"}])
def test_settings_are_checked(fields):
    with pytest.raises(ValueError, match="int8"):
        config(**fields)
    with pytest.raises(ValueError, match="-1"):
        Wav2Vec2StyleFeatures(checkpoint=checkpoint_of(str(FOLDER)), layer=-1)


# ---------------------------------------------------------------- what is wrong with a checkpoint


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(FOLDER, tmp_path / "model"))


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("projector.weight"), "projector.weight: it is no model for sequence classification"),
        (lambda t: t.pop("classifier.bias"), "classifier.bias"),
        (lambda t: t.update({"classifier.weight": t["classifier.weight"][:5].clone()}), r"\[5, 24\].*\[12, 24\]"),
        (lambda t: t.update({"projector.bias": t["projector.bias"][:5].clone()}), r"projector.bias has shape \[5\]"),
        (lambda t: t["classifier.bias"].fill_(float("inf")), "classifier.bias holds numbers that are not finite"),
        (lambda t: t.pop("wav2vec2.encoder.layer_norm.weight"), "encoder.layer_norm.weight"),
    ],
)
def test_tensors_that_are_missing_or_odd_are_named(folder, change, told):
    edit_tensors(folder, change)
    for start in (config(folder).check, config(folder).setup):
        with pytest.raises(BadCheckpoint, match=told) as caught:
            start()
        assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "a"}}, "2 to 65536 classes, this one 1"),
        ({"id2label": {str(i): "a" for i in range(13)}}, r"classifier.weight has shape \[12, 24\].*\[13, 24\]"),
        ({"id2label": None}, r"\[12, 24\].*\[2, 24\]"),
        ({"id2label": None, "num_labels": "many"}, "'many'"),
        ({"classifier_proj_size": 25}, "projector.weight"),
        ({"use_weighted_layer_sum": True}, "layer_weights"),
        ({"model_type": "bert"}, "bert"),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 3]}, "a second is no whole number of frames of 480 samples"),
    ],
)
def test_configurations_that_do_not_fit_are_named(folder, changes, told):
    edit_config(folder, **changes)
    with pytest.raises(BadCheckpoint, match=told):
        config(folder).check()


def test_num_labels_counts_where_there_are_no_names(folder):
    edit_config(folder, id2label=None, num_labels=12)
    config(folder).check()
    assert config(folder).contract().codebook_size == 12


def test_a_changed_checkpoint_is_refused(folder):
    made = config(folder)
    edit_tensors(folder, lambda t: t["classifier.bias"].add_(1))
    for start in (made.check, made.setup):
        with pytest.raises(BadCheckpoint, match="sha256"):
            start()


def test_a_layer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadCheckpoint, match="layers 0 to 3, layer 4"):
        Wav2Vec2StyleFeatures(checkpoint=checkpoint_of(str(FOLDER)), layer=4).check()


@pytest.mark.parametrize("start", ["check", "setup"])
def test_a_codebook_of_another_model_is_named(tmp_path, start):
    codebook = npy_artifact(tmp_path / "other.npy", np.zeros((3, 768), np.float32))
    quantiser = QuantiserConfig(kind="kmeans", codebook=codebook, clusters=3)
    made = Wav2Vec2KmeansStyleConfig(checkpoint=checkpoint_of(str(FOLDER)), layer=1, quantiser=quantiser)
    with pytest.raises(BadCheckpoint, match=r"features 768 wide, but the layer's features are 32 wide"):
        getattr(made, start)()


def test_another_sample_rate_is_named(folder):
    (folder / "preprocessor_config.json").write_text('{"sampling_rate": 8000}')
    with pytest.raises(BadCheckpoint, match="8000"):
        config(folder).check()
