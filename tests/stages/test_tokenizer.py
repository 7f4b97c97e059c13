import dataclasses
import functools
import io
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from stages.artifacts import artifact_of
from stages.sentencepiece_file import ModelFacts
from stages.tokenizer import MIN_VOCAB, SentencePieceTokenizer, fit_sentencepiece, load_sentencepiece
from tests.stages.tokenizer_builders import words

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "It's a test, isn't it? Twenty-one of them: 1, 2, 3!",
    "Seashells, seashells by the seashore\nand the sea.",
    "Un \u00e9t\u00e9 \u00e0 la mer, \u6d77\u8fb9\u7684\u590f\u5929.",
) * 4


@functools.cache
def tokenizer(vocab_size=400):
    return SentencePieceTokenizer(fit_sentencepiece(TEXTS, vocab_size))


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@example(text="\u2581 a\u2581\u2581b \u2581")
@example(text="  two  spaces ")
@example(text="e\u0301 \ufb01 \u2460 <s> \r\n\t\0")
def test_decoding_gives_any_text_back(text):
    assert tokenizer().decode(tokenizer().encode(text)) == text


REPETITIVE = ("ha haha hahaha aa aaa aaaa banana ananas na nana mama mamamama", "the cat sat on the mat") * 40


@functools.cache
def model(model_type="bpe", lines=REPETITIVE, **options):
    """A model with other options than ours."""
    file = io.BytesIO()
    given_options = {
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "vocab_size": 400,
    }
    SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=file,
        model_type=model_type,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **(given_options | options),
    )
    return SentencePieceTokenizer(file.getvalue())


def one_by_one(tokenizer, words):
    return [token for word in words for token in tokenizer.encode_word(word)]


@given(words=words, extra=st.sampled_from([False, True]))
@example(words=["\u2581", "a\u2581", "\u2581\u2581b", "\u2581", "haha"], extra=True)
def test_a_text_encodes_as_its_words(words, extra):
    given_model = model(remove_extra_whitespaces=extra)
    assert given_model.word_by_word
    assert given_model.encode(" ".join(words)) == one_by_one(given_model, words)


@pytest.mark.parametrize("vocab_size", [MIN_VOCAB, 300, 400, 20_000])
@given(words=words)
def test_our_own_models_are_word_by_word(vocab_size, words):
    ours = tokenizer(vocab_size)
    assert ours.word_by_word
    assert ours.encode(" ".join(words)) == one_by_one(ours, words)
    assert ours.decode(ours.encode(" ".join(words))) == " ".join(words)


def test_runs_of_spaces_are_pieces_and_cross_no_word():
    spaced = model(lines=("a  b   c    d",) * 20, allow_whitespace_only_pieces=True)
    assert any(text.startswith("\u2581\u2581") for text, _ in ModelFacts.of(spaced._model).pieces)
    assert spaced.word_by_word
    words = ["a\u2581", "\u2581\u2581", "b"]
    assert spaced.encode(" ".join(words)) == one_by_one(spaced, words)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split_by_whitespace": False}, ["the", "cat", "sat"]),
        ({"add_dummy_prefix": False}, ["the", "cat", "sat"]),
        ({"byte_fallback": False, "remove_extra_whitespaces": True}, ["haha", "the\u2581"] * 2),
    ],
)
def test_models_that_are_not_word_by_word_say_so(options, words):
    odd = model(**options)
    assert not odd.word_by_word
    assert odd.encode(" ".join(words)) != one_by_one(odd, words)


def test_unigram_models_break_ties_by_the_text_before():
    odd = model("unigram")
    assert not odd.word_by_word
    rng = random.Random(0)
    repeated = [syllable * count for syllable in ("ha", "a", "na", "ma") for count in range(1, 8)]
    texts = [rng.choices(repeated, k=20) for _ in range(500)]
    assert any(odd.encode(" ".join(words)) != one_by_one(odd, words) for words in texts)


@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("bpe", {"treat_whitespace_as_suffix": True}),
        ("bpe", {"normalization_rule_name": "nmt_nfkc"}),
        ("bpe", {"user_defined_symbols": "cat"}),
        ("bpe", {"user_defined_symbols": "the cat"}),
        ("char", {}),
        ("word", {}),
    ],
)
def test_models_that_might_not_be_word_by_word_count_as_if_they_were_not(model_type, options):
    assert not model(model_type, **options).word_by_word


@pytest.mark.parametrize("options", [{}, {"byte_fallback": False}, {"user_defined_symbols": "cat,\u00e9"}])
@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_the_models_file_is_read_as_sentencepiece_reads_it(model_type, options):
    data = model(model_type, **options)._model
    facts, library = ModelFacts.of(data), SentencePieceProcessor(model_proto=data)
    assert [text for text, _ in facts.pieces] == [library.id_to_piece(i) for i in range(library.vocab_size())]
    for number, (_, kind) in enumerate(facts.pieces):
        assert (kind == 2, kind == 3, kind == 6) == (
            library.is_unknown(number),
            library.is_control(number),
            library.is_byte(number),
        )
    defined = [text for text, kind in facts.pieces if kind == 4]
    assert defined == [text for text in options.get("user_defined_symbols", "").split(",") if text]
    assert facts.model_type == {"unigram": 1, "bpe": 2}[model_type]
    assert facts.byte_fallback == options.get("byte_fallback", True)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"space_is_suffix": False, "normalises": False, "dummy_prefix": True, "writes_space": True}),
        ({"treat_whitespace_as_suffix": True}, {"space_is_suffix": True}),
        ({"normalization_rule_name": "nmt_nfkc"}, {"normalises": True}),
        ({"add_dummy_prefix": False}, {"dummy_prefix": False}),
    ],
)
def test_the_settings_of_a_models_training_are_found(options, expected):
    facts = ModelFacts.of(model(**options)._model)
    assert {name: getattr(facts, name) for name in expected} == expected


def test_a_model_that_leaves_spaces_as_they_are_is_noticed():
    normalizer_with_escape_whitespaces_false = b"\x1a\x02\x28\x00"
    data = model()._model + normalizer_with_escape_whitespaces_false
    assert not ModelFacts.of(data).writes_space
    assert SentencePieceProcessor(model_proto=data).encode("the cat") != model().encode("the cat")


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": 1},
        {"byte_fallback": False},
        {"space_is_suffix": True},
        {"normalises": True},
        {"dummy_prefix": False},
        {"writes_space": False},
        {"pieces": (("a", 1),)},
        {"pieces": (("\u2581", 1), ("a", 4))},
        {"pieces": (("\u2581", 1), ("a\u2581", 1))},
        {"pieces": (("\u2581", 1), ("\u2581a\u2581b", 1))},
        {"pieces": (("\u2581", 1), ("a b", 1))},
    ],
)
def test_each_setting_alone_decides(change):
    facts = ModelFacts.of(model()._model)
    assert facts.is_word_by_word()
    assert not dataclasses.replace(facts, **change).is_word_by_word()


@pytest.mark.parametrize("data", [b"\x0b", b"\x0a\x05ab", b"\x0a", b"\x80"])
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ValueError, match="no protobuf message"):
        ModelFacts.of(data)


def test_the_sign_of_a_space_decodes_to_itself():
    assert tokenizer().decode(tokenizer().encode("a\u2581 \u2581b")) == "a\u2581 \u2581b"
    rare = SentencePieceTokenizer(fit_sentencepiece([f"{chr(0x10FFFD)} {chr(0x10FFFC)} the"] * 9, 300))
    text = f"\u2581{chr(0x10FFFD)}\u2581{chr(0x10FFFB)}"
    assert rare.decode(rare.encode(text)) == text, "another stand-in is found"


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
