import functools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stages.artifacts import artifact_of
from stages.tokenizer import MIN_VOCAB, SentencePieceTokenizer, fit_sentencepiece, load_sentencepiece

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's a test, isn't it? Twenty-one of them: 1, 2, 3!",
    "Seashells, seashells by the seashore\nand the sea.",
    "Un \u00e9t\u00e9 \u00e0 la mer, \u6d77\u8fb9\u7684\u590f\u5929.",
) * 4


@functools.cache
def tokenizer(vocab_size=400):
    return SentencePieceTokenizer(fit_sentencepiece(TEXTS, vocab_size))


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60))
@example(text="  two  spaces ")
@example(text="e\u0301 \ufb01 \u2460 <s> \r\n\t\0")
def test_decoding_gives_any_text_back(text):
    assert tokenizer().decode(tokenizer().encode(text)) == text


@given(words=st.lists(st.sampled_from(" ".join(TEXTS).split()), min_size=1), cut=st.integers(1, 20))
def test_spans_of_words_partition_the_tokens(words, cut):
    encode = tokenizer().encode
    parts = [" ".join(words[i : i + cut]) for i in range(0, len(words), cut)]
    assert [token for part in parts for token in encode(part)] == encode(" ".join(words))


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_ids_lie_in_the_vocabulary(text):
    assert all(0 <= token < tokenizer().vocab_size for token in tokenizer().encode(text))


def test_training_is_deterministic():
    assert fit_sentencepiece(TEXTS, 350) == fit_sentencepiece(iter(TEXTS), 350)


@pytest.mark.parametrize("vocab_size", [MIN_VOCAB, 280, 400, 20_000])
def test_the_vocabulary_is_never_larger_than_asked_for(vocab_size):
    model = SentencePieceTokenizer(fit_sentencepiece(TEXTS, vocab_size))
    assert 259 < model.vocab_size <= vocab_size
    assert model.decode(model.encode(TEXTS[3])) == TEXTS[3]


def test_frequent_words_become_single_pieces():
    assert len(tokenizer().encode("seashells")) <= 2
    assert len(tokenizer().encode("xylophone")) > 4


@pytest.mark.parametrize("text", ["a", "a\x00b", "x" * 5000, "\u4f60" * 40, "a\u2581b"])
def test_odd_corpora_are_enough(text):
    model = SentencePieceTokenizer(fit_sentencepiece([text], 300))
    assert model.decode(model.encode("hello")) == "hello"


def test_many_scripts_fit_a_small_vocabulary():
    wild = ["".join(chr(code) for code in range(start, start + 400)) + " the cat" * 50 for start in (0x400, 0x4E00)]
    model = SentencePieceTokenizer(fit_sentencepiece(wild, 300))
    assert model.vocab_size <= 300
    assert model.decode(model.encode(wild[1])) == wild[1]
    assert len(model.encode("the cat the cat")) == 4


@pytest.mark.parametrize(("texts", "size", "message"), [([], 300, "every transcript"), (["a"], 100, "at least 263")])
def test_impossible_fits_are_named(texts, size, message):
    with pytest.raises(ValueError, match=message):
        fit_sentencepiece(texts, size)


def test_training_is_quiet(capfd):
    fit_sentencepiece(TEXTS, 300)
    assert capfd.readouterr() == ("", "")


def test_a_model_is_loaded_by_its_hash(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(fit_sentencepiece(TEXTS, 400))
    artifact = artifact_of(str(path))
    loaded = load_sentencepiece(artifact)
    assert loaded.encode(TEXTS[0]) == tokenizer().encode(TEXTS[0])
    path.write_bytes(fit_sentencepiece(TEXTS, 300))
    with pytest.raises(ValueError, match="sha256"):
        load_sentencepiece(artifact)


@pytest.mark.parametrize("data", [b"", b"junk"])
def test_what_is_no_model_is_named(tmp_path, data):
    path = tmp_path / "odd.model"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"odd\.model"):
        load_sentencepiece(artifact_of(str(path)))
