import json
import string

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from stages.checkpoints import BadCheckpoint, checkpoint_of
from stages.ctc_models import read_head

HIDDEN = 6
UPPER = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]
LOWER = [*string.ascii_lowercase, "é", "[PAD]", "[UNK]", "|"]


def folder(path, labels=UPPER, *, rows=None, tokenizer=None, vocab=None, extra=None, **changes):
    """A checkpoint that holds the last layer only; row i of its weight is filled with i."""
    path.mkdir()
    rows = len(labels) if rows is None else rows
    pad = next((i for i, label in enumerate(labels) if label in ("<pad>", "[PAD]")), 0)
    config = {"architectures": ["Wav2Vec2ForCTC"], "hidden_size": HIDDEN, "vocab_size": rows, "pad_token_id": pad}
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    (path / "vocab.json").write_text(json.dumps(vocab or {label: i for i, label in enumerate(labels)}))
    if tokenizer:
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    weight = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, HIDDEN)
    tensors = {"lm_head.weight": weight, "lm_head.bias": torch.arange(rows) / 2}
    save_file({**tensors, **(extra or {})}, path / "model.safetensors")
    return checkpoint_of(str(path))


def bundle_file(path, rows, width):
    weight = torch.arange(rows, dtype=torch.float32)[:, None].repeat(1, width)
    torch.save({"aux.weight": weight, "aux.bias": torch.arange(rows) / 2}, path)
    return checkpoint_of(str(path))


# ---------------------------------------------------------------- what labels mean


@pytest.mark.parametrize("kind", ["Wav2Vec2ForCTC", "HubertForCTC", "WavLMForCTC"])
def test_capital_letters(tmp_path, kind):
    labels = read_head(folder(tmp_path / "m", architectures=[kind]), "huggingface").labels
    assert (labels.blank, labels.delimiter, labels.width) == (0, 4, 32)
    assert labels.spell("dog's") == [UPPER.index(c) for c in "DOG'S"]
    assert sorted(labels.letters) == sorted(string.ascii_lowercase + "'")


def test_small_letters_and_a_blank_at_the_end(tmp_path):
    labels = read_head(folder(tmp_path / "m", LOWER), "huggingface").labels
    assert (labels.blank, labels.delimiter, labels.width) == (27, 29, 30)
    assert labels.spell("né'e") == [13, 26, 4]


def test_small_letters_win_where_both_are_there(tmp_path):
    labels = ["<pad>", *string.ascii_uppercase, *string.ascii_lowercase]
    assert read_head(folder(tmp_path / "a", labels), "huggingface").labels.spell("az") == [27, 52]
    labels = ["<pad>", *string.ascii_lowercase, *string.ascii_uppercase]
    assert read_head(folder(tmp_path / "b", labels), "huggingface").labels.spell("az") == [1, 26]


@pytest.mark.parametrize("mark", [" ", {"content": " ", "lstrip": False}])
def test_the_tokenizer_names_the_mark_between_words(tmp_path, mark):
    checkpoint = folder(tmp_path / "m", [" ", *LOWER], tokenizer={"word_delimiter_token": mark})
    assert read_head(checkpoint, "huggingface").labels.delimiter == 0


def test_a_model_without_a_mark_has_none(tmp_path):
    assert read_head(folder(tmp_path / "m", LOWER[:-1]), "huggingface").labels.delimiter is None


def test_rows_without_a_label_are_kept_and_never_spelled(tmp_path):
    head = read_head(folder(tmp_path / "m", rows=34), "huggingface")
    assert (head.labels.width, len(head.weight)) == (34, 34)
    assert max(head.labels.letters.values()) == 31


def test_the_blank_is_no_letter(tmp_path):
    labels = read_head(folder(tmp_path / "m", list(string.ascii_lowercase)), "huggingface").labels
    assert (labels.blank, labels.spell("ab")) == (0, [1])


# ---------------------------------------------------------------- bundles


def test_labels_of_the_bundles_are_those_of_the_package(tmp_path):
    for name in ("MMS_FA", "WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE", "VOXPOPULI_ASR_BASE_10K_IT"):
        bundle = getattr(torchaudio.pipelines, name)
        names = bundle.get_labels(star=None) if name == "MMS_FA" else bundle.get_labels()
        checkpoint = bundle_file(tmp_path / name, len(names), bundle._params["encoder_embed_dim"])
        labels = read_head(checkpoint, name).labels
        assert (labels.blank, labels.width) == (0, len(names))
        assert labels.delimiter == (names.index("|") if "|" in names else None)
        assert all(names[column].lower() == letter for letter, column in labels.letters.items())
        assert {label.lower() for label in names} - set(labels.letters) == {"-", "|"} & set(names)


def test_rows_that_torchaudio_drops_are_dropped(tmp_path):
    """The released files have them; files saved from torchaudio's models do not."""
    for name, unused in (("WAV2VEC2_ASR_BASE_960H", {1, 2, 3}), ("VOXPOPULI_ASR_BASE_10K_EN", {1, 2, 3, 31})):
        count = len(getattr(torchaudio.pipelines, name).get_labels())
        head = read_head(bundle_file(tmp_path / name, count + len(unused), 768), name)
        kept = [row for row in range(count + len(unused)) if row not in unused]
        assert head.weight[:, 0].tolist() == kept
        assert head.bias.tolist() == [row / 2 for row in kept]


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"architectures": ["Wav2Vec2ForPreTraining"]}, r"config\.json is of Wav2Vec2ForPreTraining; a CTC model is"),
        ({"architectures": None}, "is of nothing"),
        ({"hidden_size": 8}, "last layer of width 6, its encoder has 8"),
        ({"vocab_size": 40}, r"32 labels in vocab\.json, vocab_size 40 in config\.json and 32 rows"),
        ({"rows": 31, "vocab_size": 31}, r"32 labels in vocab\.json"),
        ({"pad_token_id": 3}, r"pad_token_id 3, vocab\.json has '<pad>' at 0: correct pad_token_id"),
        ({"pad_token_id": None}, "pad_token_id None"),
        ({"vocab": {"eng": {"a": 0}, "fra": {"a": 0}}}, r"vocab\.json holds vocabularies of several languages"),
        ({"vocab": {"a": 0, "b": 0}}, "gives the id 0 to 'a' and to 'b'"),
        ({"vocab": {"a": "0"}}, "must map labels to their ids"),
        ({"vocab": {"a": -1}}, "must map labels to their ids"),
        ({"labels": ["<pad>", *"абвгдежз"]}, "no labels for abcdefghijklmnopqrstuvwxyz"),
        ({"labels": ["<pad>", *"abcdefghijklmnopqrs"]}, "no labels for tuvwxyz"),
        ({"labels": list(string.ascii_lowercase), "pad_token_id": 26}, "26 labels and its blank at 26"),
        ({"tokenizer": {"tokenizer_class": "Wav2Vec2PhonemeCTCTokenizer"}}, "is of phonemes"),
        ({"extra": {"lm_head.bias": torch.zeros(5)}}, r"shapes \[32, 6\] and \[5\], which do not belong together"),
        ({"extra": {"lm_head.weight": torch.zeros(6)}}, "do not belong together"),
        ({"extra": {"lm_head.bias": torch.full((32,), torch.nan)}}, "lm_head that are not finite"),
    ],
)
def test_a_folder_that_is_no_such_model_is_named(tmp_path, options, message):
    checkpoint = folder(tmp_path / "ctc_model", **options)
    with pytest.raises(BadCheckpoint, match=message) as caught:
        read_head(checkpoint, "huggingface")
    assert "ctc_model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_without_the_layer_is_named(tmp_path):
    place = folder(tmp_path / "m").path
    save_file({"wav2vec2.x": torch.zeros(1)}, f"{place}/model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"no lm_head\.weight and lm_head\.bias: it is an encoder"):
        read_head(checkpoint_of(place), "huggingface")


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    place = folder(tmp_path / "m").path
    (tmp_path / "m" / name).unlink()
    with pytest.raises(BadCheckpoint, match=name.replace(".", r"\.")):
        read_head(checkpoint_of(place), "huggingface")


def test_changed_files_are_refused(tmp_path):
    checkpoint = folder(tmp_path / "m")
    (tmp_path / "m" / "vocab.json").write_text("{}")
    with pytest.raises(BadCheckpoint, match="sha256"):
        read_head(checkpoint, "huggingface")


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_named(tmp_path):
    with pytest.raises(BadCheckpoint, match="is a folder, but model 'MMS_FA' is one file"):
        read_head(folder(tmp_path / "m"), "MMS_FA")
    with pytest.raises(BadCheckpoint, match="is a file, but model 'huggingface' is a folder"):
        read_head(bundle_file(tmp_path / "f.pt", 28, 1024), "huggingface")


@pytest.mark.parametrize("model", ["MMS", "WAV2VEC2_BASE", "Wav2Vec2Bundle", "SQUIM_OBJECTIVE", ""])
def test_an_unknown_bundle_is_named_with_the_known_ones(tmp_path, model):
    with pytest.raises(ValueError, match=rf"MMS_FA.*WAV2VEC2_ASR_BASE_960H.*got '{model}'"):
        read_head(bundle_file(tmp_path / "f.pt", 28, 1024), model)


@pytest.mark.parametrize(
    ("rows", "width", "message"),
    [(40, 1024, "40 labels, MMS_FA has 28"), (28, 768, "last layer of width 768, its encoder has 1024")],
)
def test_a_file_of_another_bundle_is_named(tmp_path, rows, width, message):
    with pytest.raises(BadCheckpoint, match=message):
        read_head(bundle_file(tmp_path / "f.pt", rows, width), "MMS_FA")
