"""whisperX's alignment: against emissions whose path is known, and against whisperX's own way of loading models."""

import json
import math
import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.records import Aligned, Artifact, Spoken, Token
from schemas.rejects import Reason, Reject
from stages.align_whisperx import WhisperxAlignConfig, WhisperxAligner, _OneSentence
from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.whisperx_ctc import WhisperxCtc, load_ctc
from tests.feature_builders import clip, noise

LABELS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
DICTIONARY = {label.lower(): i for i, label in enumerate(LABELS)}
CONFIG = WhisperxAlignConfig(checkpoint=Artifact(path="none", sha256=""))
STEP = 320


@pytest.fixture(autouse=True, scope="module")
def _whisperx():
    """Import whisperX with the first test and not with the collection; it takes seconds."""
    pytest.importorskip("whisperx")
    from whisperx import alignment

    before = alignment.nltk_load
    alignment.nltk_load = _OneSentence
    yield
    alignment.nltk_load = before


class Spelling:
    """A CTC model that hears what a wave spells: each step of 320 samples is a constant, the label times 256."""

    def __init__(self, sure: float = 0.9):
        self.sure = sure

    def __call__(self, waves, lengths=None):
        import torch

        labels = (waves[0, ::STEP] * 128).round().long()
        logits = torch.full((len(labels), len(LABELS)), math.log((1 - self.sure) / (len(LABELS) - 1)))
        logits[torch.arange(len(labels)), labels] = math.log(self.sure)
        return type("Output", (), {"logits": logits[None]})()


def aligner(sure=0.9, dictionary=DICTIONARY, config=CONFIG):
    from whisperx import alignment

    model = WhisperxCtc(network=Spelling(sure), dictionary=dictionary, conv=((STEP, STEP),))
    return WhisperxAligner(config, model, alignment.align)


def spelt(labels):
    return np.repeat(np.array([DICTIONARY[label] for label in labels], np.int16) * 256, STEP)


def spoken(pcm, words):
    """Words are strings, or tuples of the token and what is spoken for it."""
    tokens = [Token(word, (word,)) if isinstance(word, str) else Token(word[0], tuple(word[1:])) for word in words]
    return Spoken(clip=clip(pcm, text=" ".join(token.text for token in tokens)), tokens=tuple(tokens))


words = st.lists(st.text("abcdefghij", min_size=1, max_size=5), min_size=1, max_size=8)


@given(words, st.data())
@settings(max_examples=20, deadline=None)
def test_words_are_found_where_they_are_spelt(texts, data):
    frames, gold = ["<pad>"] * data.draw(st.integers(0, 9)), []
    for i, word in enumerate(texts):
        if i:
            frames += ["|"] + ["<pad>"] * data.draw(st.integers(0, 5))
        start = len(frames)
        for a, b in pairwise([*word, ""]):
            # The loop knows no blank between equal letters, so they are told apart by one here.
            frames += [a] + ["<pad>"] * max(data.draw(st.integers(0, 3)), int(a == b))
        gold.append((start, len(frames)))
    frames += ["<pad>"] * data.draw(st.integers(0, 9))
    pcm = spelt(frames)
    (found,) = aligner().process([spoken(pcm, texts)])
    assert [word.text for word in found.words] == texts
    ends = [b for _, b in gold[:-1]]
    assert [round(word.start / STEP) for word in found.words] == [a for a, _ in gold]
    assert [round(word.end / STEP) for word in found.words[:-1]] == ends
    assert all(abs(word.start / STEP - a) < 0.06 for word, (a, _) in zip(found.words, gold, strict=True))
    assert all(word.score == pytest.approx(math.log(0.9), abs=2e-3) for word in found.words)
    assert found.score_words == pytest.approx(math.log(0.9), abs=2e-3)
    assert found.score_all is None
    assert found.doubtful == ()


@given(words, st.integers(20, 100), st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_any_emissions_give_ascending_words_inside_the_clip_or_a_reject(texts, frames, seed):
    labels = np.random.default_rng(seed).integers(0, len(LABELS), frames)
    pcm = np.repeat((labels * 256).astype(np.int16), STEP)[: frames * STEP - seed]
    item = spoken(pcm, texts)
    (found,) = aligner().process([item])
    if isinstance(found, Reject):
        assert found.reason is Reason.NO_ALIGNMENT
        return
    times = [t for word in found.words for t in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= len(pcm)
    assert all(word.start < word.end for word in found.words)
    assert all(-7.7 < word.score <= 0 for word in found.words)
    assert aligner().process([spoken(noise(9000), ["a"]), item])[1].words == found.words


def test_tokens_keep_their_texts_and_cover_what_is_spoken_for_them():
    pcm = spelt("at|five|o|am")
    item = spoken(pcm, [("At", "at"), ("-",), ("5", "five"), ("...",), ("o'am!", "o", "am")])
    (found,) = aligner().process([item])
    assert [word.text for word in found.words] == ["At", "-", "5", "...", "o'am!"]
    assert [word.start is None for word in found.words] == [False, True, False, True, False]
    assert [round(word.start / STEP) for word in found.words if word.start is not None] == [0, 3, 8]
    assert [round(word.end / STEP) for word in found.words if word.end is not None] == [2, 7, 12]
    assert found.words[1] == ("-", None, None, None)


def test_letters_that_the_model_lacks_are_doubtful_and_the_rest_is_found():
    pcm = spelt([*"ab", "|", *"xyz", "|", *"cd"])
    (found,) = aligner().process([spoken(pcm, ["ab", "жзк", "cd"])])
    assert [round(word.start / STEP) for word in found.words] == [0, 3, 7]
    assert found.doubtful == (1,)
    (found,) = aligner().process([spoken(pcm, ["ab", "xyж", "cd"])])
    assert found.doubtful == ()


def test_languages_without_spaces_are_grouped_back_into_tokens():
    config = WhisperxAlignConfig(checkpoint=CONFIG.checkpoint, language="ja")
    pcm = spelt([*"ab", "<pad>", *"cde"])
    (found,) = aligner(config=config).process([spoken(pcm, ["ab", "cde"])])
    assert [round(word.start / STEP) for word in found.words] == [0, 3]
    (found,) = aligner(config=config).process([spoken(spelt("abcde"), ["ab", "cde"])])  # no frame for a separator
    assert [round(word.start / STEP) for word in found.words] == [0, 2]


def test_a_word_that_was_only_given_a_neighbours_time_has_none():
    def interpolating(segments, *args, **kwargs):
        return {
            "word_segments": [
                {"word": "a", "start": 0.1, "end": 0.2, "score": 0.0},
                {"word": "b", "start": 0.1, "end": 0.2},
            ]
        }

    model = WhisperxCtc(network=None, dictionary=DICTIONARY, conv=((STEP, STEP),))
    (found,) = WhisperxAligner(CONFIG, model, interpolating).process([spoken(noise(16_000), ["a", "b"])])
    assert found.words[0] == ("a", 1600, 3200, math.log(0.0005))
    assert found.words[1] == ("b", None, None, None)


@pytest.mark.parametrize(
    ("samples", "texts", "detail"),
    [
        (STEP * 4, ["abc", "de"], "6 letters in 4 frames"),
        (STEP - 1, ["a"], "1 letters in 0 frames"),
        (STEP * 9, [("-",)], "no spoken words"),
    ],
)
def test_what_cannot_be_aligned_is_rejected(samples, texts, detail):
    (found,) = aligner().process([spoken(noise(samples), texts)])
    assert (found.reason, found.detail) == (Reason.NO_ALIGNMENT, f"u0: {detail}")


def test_as_many_letters_as_frames_is_the_most():
    (found,) = aligner().process([spoken(spelt([*"abc", "|", *"de"]), ["abc", "de"])])
    assert isinstance(found, Aligned)


def test_no_word_ends_behind_the_clip_though_whisperx_rounds_to_milliseconds():
    pcm = spelt(["a", "<pad>", *"bcdef"])[:1929]  # 120.56 ms
    (found,) = aligner().process([spoken(pcm, ["abcdef"])])
    assert (found.words[0].start, found.words[0].end) == (0, 1929)


def test_other_words_than_the_transcripts_are_rejected():
    def odd(segments, *args, **kwargs):
        return {"word_segments": [{"word": "other", "start": 0.1, "end": 0.2, "score": 0.5}]}

    model = WhisperxCtc(network=None, dictionary=DICTIONARY, conv=((STEP, STEP),))
    (found,) = WhisperxAligner(CONFIG, model, odd).process([spoken(noise(16_000), ["a"])])
    assert found.reason is Reason.NO_ALIGNMENT


# ---------------------------------------------------------------- models


def tiny_config(**more):
    from transformers import Wav2Vec2Config

    return Wav2Vec2Config(
        vocab_size=len(LABELS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        **more,
    )


@pytest.fixture
def folder(tmp_path):
    import torch
    from transformers import Wav2Vec2ForCTC

    torch.manual_seed(0)
    place = tmp_path / "ctc"
    Wav2Vec2ForCTC(tiny_config()).save_pretrained(place)
    (place / "vocab.json").write_text(json.dumps({label: i for i, label in enumerate(LABELS)}))
    (place / "preprocessor_config.json").write_text('{"sampling_rate": 16000, "do_normalize": true}')
    return place


def config_for(folder, **more):
    return WhisperxAlignConfig(checkpoint=checkpoint_of(str(folder)), **more)


def test_a_folder_gives_the_logits_that_transformers_gives(folder):
    import torch
    from transformers import Wav2Vec2ForCTC

    wave = torch.randn(1, 8000)
    ours = load_ctc(str(folder), "huggingface")
    theirs = Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True).eval()
    with torch.inference_mode():
        assert torch.equal(ours.network(wave).logits, theirs(wave).logits)
    assert ours.dictionary == DICTIONARY
    assert [ours.num_frames(n) for n in (0, 399, 400, 719, 720, 8000)] == [0, 0, 1, 1, 2, 24]


def test_both_namings_of_the_weight_norm_load(folder):
    import torch
    from safetensors.torch import load_file, save_file

    wave = torch.randn(1, 8000)
    with torch.inference_mode():
        want = load_ctc(str(folder), "huggingface").network(wave).logits
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if not name.endswith("masked_spec_embed")
    }
    assert any(name.endswith("weight_g") for name in old)
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    with torch.inference_mode():
        assert torch.equal(load_ctc(str(folder), "huggingface").network(wave).logits, want)


@pytest.mark.parametrize("name", ["WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE", "VOXPOPULI_ASR_BASE_10K_DE"])
def test_a_bundles_file_gives_the_logits_that_the_bundle_gives(tmp_path, monkeypatch, name):
    import dataclasses

    import torch
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    small = {
        "encoder_embed_dim": 16,
        "encoder_num_heads": 2,
        "encoder_num_layers": 1,
        "encoder_ff_interm_features": 32,
        "encoder_pos_conv_groups": 2,
        "encoder_pos_conv_kernel": 8,
        "extractor_conv_layer_config": [(8, 10, 5), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 3, 2), (8, 2, 2), (8, 2, 2)],
    }
    bundle = dataclasses.replace(bundle, _params={**bundle._params, **small})
    monkeypatch.setattr(torchaudio.pipelines, name, bundle)
    torch.manual_seed(0)
    plain = torchaudio.models.wav2vec2_model(**bundle._params)
    spare = bundle._remove_aux_axis or ()
    rows = [i for i in range(len(bundle.get_labels()) + len(spare)) if i not in spare]
    state = plain.state_dict()
    for key in ("aux.weight", "aux.bias"):
        wide = torch.randn(len(rows) + len(spare), *state[key].shape[1:])
        wide[rows] = state[key]
        state[key] = wide
    torch.save(state, tmp_path / "weights.pt")
    monkeypatch.setattr(torchaudio.pipelines._wav2vec2.utils, "load_state_dict_from_url", lambda *a, **k: dict(state))
    ours = load_ctc(str(tmp_path / "weights.pt"), name)
    wave = torch.randn(1, 8000)
    with torch.inference_mode():
        assert torch.equal(ours.network(wave)[0], bundle.get_model()(wave)[0])
    assert ours.num_frames(8000) == 24
    config_for(tmp_path / "weights.pt", model=name).check()
    batch = [spoken(noise(16_000), ["ab", "cde"])]
    assert isinstance(config_for(tmp_path / "weights.pt", model=name).setup().process(batch)[0], Aligned)


def test_a_random_model_aligns_something_offline_and_twice_the_same(folder, capfd, monkeypatch):
    from whisperx import alignment

    def download(*_):
        raise AssertionError("whisperX looked for NLTK's data")

    monkeypatch.setattr(alignment, "nltk_load", download)
    config = config_for(folder)
    config.check()
    items = [spoken(noise(n, n), ["ab", "cde", "fg"]) for n in (16_000, 20_001, 40_000)]
    first, second = config.setup().process(items), config.setup().process(items[::-1])[::-1]
    assert [found.words for found in first] == [found.words for found in second]
    assert capfd.readouterr().out == ""


def test_the_config_travels_and_says_what_made_the_times(folder):
    config = config_for(folder)
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.metadata()["model_sha256"] == config.checkpoint.sha256
    json.dumps(config.metadata())


def edit(path: Path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def break_weights(folder, change):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


BREAKS = {
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing"),
    "another architecture": (
        lambda f: edit(f / "config.json", architectures=["Wav2Vec2Model"]),
        r"config\.json.*Wav2Vec2ForCTC only",
    ),
    "another family": (lambda f: edit(f / "config.json", model_type="hubert"), r"config\.json.*'hubert'"),
    "another rate": (
        lambda f: edit(f / "preprocessor_config.json", sampling_rate=8000),
        r"preprocessor_config\.json.*8000.*16000",
    ),
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), r"vocab\.json is missing"),
    "a label too high": (lambda f: edit(f / "vocab.json", ß=len(LABELS)), r"vocab\.json.*'ß'.*below 32, got 32"),
    "nested vocabulary": (lambda f: edit(f / "vocab.json", eng={"a": 1}), r"vocab\.json.*'eng'"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"neither model\.safetensors"),
    "a tensor missing": (
        lambda f: break_weights(f, lambda w: w.pop("lm_head.bias")),
        r"lacks the tensor lm_head\.bias",
    ),
    "a tensor of another shape": (
        lambda f: break_weights(f, lambda w: w.update({"lm_head.bias": w["lm_head.bias"][:5].clone()})),
        r"lm_head\.bias has shape \[5\], the model's is \[32\]",
    ),
}


@pytest.mark.parametrize("case", BREAKS)
def test_what_is_wrong_with_a_folder_is_said_before_work_starts(folder, case):
    breaks, message = BREAKS[case]
    breaks(folder)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        WhisperxAlignConfig(checkpoint=Artifact(path=str(folder), sha256="")).check()
    assert "\n" not in str(caught.value)


def test_a_bundle_that_does_not_exist_and_a_file_that_is_no_folder_are_named(folder):
    with pytest.raises(BadCheckpoint, match=r"'HUBERT_BASE' is neither.*WAV2VEC2_ASR_BASE_960H"):
        config_for(folder, model="HUBERT_BASE").check()
    with pytest.raises(BadCheckpoint, match="is no folder"):
        config_for(folder / "vocab.json").check()


def test_a_folder_that_changed_is_refused(folder):
    config = config_for(folder)
    edit(folder / "vocab.json", a=5)
    with pytest.raises(BadCheckpoint, match="sha256"):
        config.setup()


@pytest.mark.parametrize("settings", [{"model": ""}, {"language": ""}, {"language": "e n"}])
def test_settings_are_checked(settings):
    with pytest.raises(ValueError, match=r"got ''|got 'e n'"):
        WhisperxAlignConfig(checkpoint=CONFIG.checkpoint, **settings)


def test_added_tokens_behind_the_labels_are_left_out(folder):
    (folder / "added_tokens.json").write_text(json.dumps({"<S>": 32, "Ä": 3}))
    config_for(folder).check()
    dictionary = load_ctc(str(folder), "huggingface").dictionary
    assert dictionary == {**DICTIONARY, "ä": 3}


CTC_TINY = Path(__file__).resolve().parents[1] / "checkpoints" / "ctc_tiny"


@pytest.mark.slow
@pytest.mark.skipif(not (CTC_TINY / "heldout" / "heldout.jsonl").is_file(), reason="no trained model")
def test_a_trained_model_finds_words_of_voices_it_never_heard():
    import soundfile

    from stages.normalise import NormaliseConfig

    rows = [json.loads(line) for line in (CTC_TINY / "heldout" / "heldout.jsonl").read_text().splitlines()]
    clips = [
        clip(soundfile.read(CTC_TINY / "heldout" / item["audio"], dtype="int16")[0], text=item["text"]) for item in rows
    ]
    config = config_for(CTC_TINY)
    config.check()
    stage, spoken_rows = config.setup(), NormaliseConfig().setup().process(clips)
    found = stage.process(spoken_rows)
    errors = [
        abs(word.start / 16_000 - start)
        for outcome, item in zip(found, rows, strict=True)
        for word, (_, start, *_) in zip(outcome.words, item["words"], strict=True)
        if word.start is not None and start is not None
    ]
    assert np.median(errors) < 0.04
    assert np.mean(np.array(errors) < 0.1) > 0.95
    shifted = [Spoken(clip=a.clip, tokens=b.tokens) for a, b in pairwise(spoken_rows)]
    wrong = [outcome.score_words for outcome in stage.process(shifted) if isinstance(outcome, Aligned)]
    right = [outcome.score_words for outcome in found]
    assert np.median(right) > np.median(wrong) + 0.2
    assert min(right) > np.median(wrong)
