import json
import pickle
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from stages.artifacts import artifact_of
from stages.hf_tokenizer import HuggingFaceTokenizer, load_hf_tokenizer
from stages.hf_word_by_word import PATTERNS, is_word_by_word
from tests.stages.tokenizer_builders import (
    SPECIAL,
    byte_level,
    changed,
    opened,
    space_sign,
    unigram,
    wordpiece,
    words,
)

BYTE_LEVEL = {
    "gpt2": byte_level(),
    "gpt2 with a prefix": byte_level(prefix=True),
    "neox": byte_level(nfc=True),
    "llama3": byte_level("llama3", ignore_merges=True),
    "qwen2": byte_level("qwen2", nfc=True),
    "gpt4": byte_level("gpt4"),
    "gpt4o": byte_level("gpt4o"),
    "split by gpt2's": byte_level("gpt2"),
    "digits first": byte_level("digits"),
}
SPACE_SIGN = {
    "metaspace": space_sign("always"),
    "metaspace first": space_sign("first"),
    "metaspace never": space_sign("never"),
    "llama2": space_sign("legacy"),
}
ACROSS_WORDS = {
    "metaspace": space_sign("always", split=False),
    "metaspace never": space_sign("never", split=False),
    "llama2": space_sign("legacy", split=False),
}
WORD_BY_WORD = BYTE_LEVEL | SPACE_SIGN
ALL = [*WORD_BY_WORD.values(), *ACROSS_WORDS.values()]
named = pytest.mark.parametrize("name", WORD_BY_WORD)


@pytest.mark.parametrize("description", ALL)
@given(words=words)
def test_decoding_gives_the_words_back(description: str, words: list[str]) -> None:
    tokenizer = opened(description)
    text = " ".join(words)
    kept = unicodedata.normalize("NFC", text) if json.loads(description)["normalizer"] == {"type": "NFC"} else text
    assert tokenizer.decode(tokenizer.encode(text)) == kept


@named
@given(words=words)
@example(words=["a", "\u0301b", "3", "14", "'s", "'", "s", "12", "3456"])
@example(words=["\u2581", "a\u2581", "\u2581\u2581b", "\u2581"])
def test_a_text_encodes_as_its_words(name: str, words: list[str]) -> None:
    tokenizer = opened(WORD_BY_WORD[name])
    assert tokenizer.word_by_word
    assert tokenizer.encode(" ".join(words)) == [i for word in words for i in tokenizer.encode_word(word)]


@named
@given(words=words)
def test_encoding_is_the_librarys(name: str, words: list[str]) -> None:
    """Where no added token is spelled, a text has the ids that `tokenizers` gives it after a space."""
    library = Tokenizer.from_str(WORD_BY_WORD[name])
    text = " ".join(word for word in words if "<" not in word and "\u2581" not in word)
    space = "" if name in ("gpt2 with a prefix", "metaspace", "metaspace first", "llama2") else " "
    expected = library.encode(space + text, add_special_tokens=False).ids if text else []
    assert opened(WORD_BY_WORD[name]).encode(text) == expected


@pytest.mark.parametrize("name", ACROSS_WORDS)
def test_merges_across_words_are_noticed(name: str) -> None:
    tokenizer = opened(ACROSS_WORDS[name])
    assert not tokenizer.word_by_word
    text = "the dog sleeps"
    assert tokenizer.encode(text) != [i for word in text.split() for i in tokenizer.encode_word(word)]


@named
@given(words=words, token=st.sampled_from([*SPECIAL, "<s>", "</s>", "<unk>"]), glue=st.sampled_from(["", " ", "x"]))
def test_no_text_spells_a_special_token(name: str, words: list[str], token: str, glue: str) -> None:
    spec = json.loads(WORD_BY_WORD[name])
    special = {item["id"] for item in spec["added_tokens"]}
    assert special
    tokenizer = opened(WORD_BY_WORD[name])
    text = " ".join(words) + glue + token + glue + words[-1]
    assert not special & set(tokenizer.encode(text))
    assert not special & set(tokenizer.encode(token))


def test_every_added_token_is_spelled_as_text() -> None:
    library = Tokenizer.from_str(byte_level())
    library.add_tokens(["<tool>", "fox jumps"])
    library.add_special_tokens(["<|eot|>", "the"])
    given_ids = library.encode("<tool>fox jumps<|eot|>the").ids
    tokenizer = HuggingFaceTokenizer(library.to_str())
    assert len(given_ids) == 4
    assert not set(given_ids) & set(tokenizer.encode("the <tool>fox jumps<|eot|>the fox jumps"))
    assert tokenizer.vocab_size == library.get_vocab_size()
    assert tokenizer.decode(given_ids) == "<tool>fox jumps<|eot|>the", "they appear by name"
    ids = [*tokenizer.encode("a b"), given_ids[2], *tokenizer.encode("c")]
    assert tokenizer.decode(ids) == "a b<|eot|> c"


def test_a_whole_word_that_is_a_special_token_is_spelled_too() -> None:
    """With `ignore_merges` a part of the text that stands in the vocabulary needs no merges."""
    spec = json.loads(byte_level("llama3", ignore_merges=True))
    spec["model"]["vocab"]["\u0120PAD"] = number = max(spec["model"]["vocab"].values()) + 1
    assert HuggingFaceTokenizer(json.dumps(spec)).encode("PAD") == [number]
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": number, "content": "\u0120PAD"})
    tokenizer = HuggingFaceTokenizer(json.dumps(spec))
    assert number not in tokenizer.encode("PAD")
    assert tokenizer.decode(tokenizer.encode("PAD")) == "PAD"


def test_a_word_has_the_same_ids_wherever_a_span_begins() -> None:
    tokenizer = opened(BYTE_LEVEL["llama3"])
    inside = tokenizer.encode("a test")
    assert inside == tokenizer.encode("a") + tokenizer.encode("test")
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""
    for name in ("llama3", "gpt2", "llama2", "metaspace never"):
        tokenizer = opened(WORD_BY_WORD[name])
        assert tokenizer.decode(tokenizer.encode(" a")) == " a", "exactly one space is taken off"


@pytest.mark.parametrize(
    "cutter",
    [
        None,
        {"type": "Split", "pattern": {"Regex": PATTERNS["llama3"]}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Split", "pattern": {"Regex": r"\p{L}+ \p{L}+"}, "behavior": "Isolated", "invert": False},
    ],
)
def test_what_is_not_known_is_not_word_by_word(cutter: dict | None) -> None:
    plain = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    cutters = {"type": "Sequence", "pretokenizers": [cutter, plain]} if cutter else plain
    tokenizer = HuggingFaceTokenizer(changed(byte_level(), pre_tokenizer=cutters))
    assert not tokenizer.word_by_word
    assert tokenizer.decode(tokenizer.encode("it's a test")) == "it's a test"


@pytest.mark.parametrize(
    "model", [{"continuing_subword_prefix": "##"}, {"end_of_word_suffix": "</w>"}, {"dropout": 0.1}]
)
def test_options_of_the_model_count(model: dict) -> None:
    spec = json.loads(byte_level())
    assert is_word_by_word(spec)
    assert not is_word_by_word(spec | {"model": spec["model"] | model})


def test_normalisation_counts() -> None:
    assert not is_word_by_word(json.loads(byte_level()) | {"normalizer": {"type": "NFKC"}})
    assert not is_word_by_word(json.loads(space_sign("legacy")) | {"normalizer": {"type": "NFKC"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_words_are_cut_apart_whatever_they_hold(name: str) -> None:
    """The argument of `hf_word_by_word` over every character, alone between letters, digits and signs."""
    cutter = Tokenizer.from_str(byte_level(name)).pre_tokenizer
    for low in range(0, sys.maxunicode, 4096):
        marks = [chr(code) for code in range(low, low + 4096) if not 0xD800 <= code < 0xE000]
        texts = [f"a{mark}1 {mark}' {mark}s{mark} 'S{mark}" for mark in marks if not mark.isspace()]
        if low > 0x30000 and low not in (0xE0000, 0xF0000):
            texts = texts[:2]  # unassigned
        text = " " + " ".join(texts)
        parts = [part for part, _ in cutter.pre_tokenize_str(text)]
        apart = [part for word in text[1:].split(" ") for part, _ in cutter.pre_tokenize_str(" " + word)]
        assert parts == apart


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (wordpiece(), "WordPiece model, not BPE"),
        (unigram(), "Unigram model, not BPE"),
        (space_sign(fallback=False), "no pieces for bytes"),
        (changed(byte_level(), normalizer={"type": "Lowercase"}), "does not give .* back"),
        (changed(byte_level(), decoder=None), "does not give .* back"),
        (changed(byte_level(), pre_tokenizer={"type": "Nonsense"}), "the tokenizers library refuses it"),
        (changed(byte_level(), added_tokens=[{"id": 3}]), "an added token has no text or no id"),
        ("{}", r"no tokenizer\.json"),
        ("[]", r"no tokenizer\.json"),
        ("junk", "Expecting value"),
    ],
)
def test_what_cannot_spell_any_text_is_refused_in_one_line(description: str, message: str, tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(description)
    with pytest.raises(ValueError, match=message) as caught:
        load_hf_tokenizer(artifact_of(str(path)))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_random_encodings_are_refused() -> None:
    spec = json.loads(byte_level())
    with pytest.raises(ValueError, match=r"dropout of 0\.1"):
        HuggingFaceTokenizer(json.dumps(spec | {"model": spec["model"] | {"dropout": 0.1}}))


@pytest.mark.parametrize("piece", ["".join(json.loads(byte_level())["model"]["merges"][0]), "~"])
def test_a_special_token_that_is_an_ordinary_piece_is_refused(piece: str) -> None:
    spec = json.loads(byte_level())
    special = spec["added_tokens"][0] | {"id": spec["model"]["vocab"][piece], "content": piece}
    with pytest.raises(ValueError, match="also an ordinary piece"):
        HuggingFaceTokenizer(json.dumps(spec | {"added_tokens": [special]}))
    plain = HuggingFaceTokenizer(json.dumps(spec | {"added_tokens": [special | {"special": False}]}))
    assert plain.encode("the ~dog") == opened(byte_level()).encode("the ~dog")


def test_bytes_that_count_as_special_still_spell() -> None:
    spec = json.loads(SPACE_SIGN["llama2"])
    spec["added_tokens"] += [
        spec["added_tokens"][0] | {"id": spec["model"]["vocab"][f"<0x{byte:02X}>"], "content": f"<0x{byte:02X}>"}
        for byte in range(256)
    ]
    tokenizer = HuggingFaceTokenizer(json.dumps(spec))
    assert tokenizer.encode("\u0416 <0x41>") == opened(SPACE_SIGN["llama2"]).encode("\u0416 <0x41>")


def test_merges_as_strings_are_read() -> None:
    spec = json.loads(byte_level())
    old = spec | {"model": spec["model"] | {"merges": [" ".join(pair) for pair in spec["model"]["merges"]]}}
    assert HuggingFaceTokenizer(json.dumps(old)).encode("the dog") == opened(byte_level()).encode("the dog")


def test_nothing_is_added_or_cut_off() -> None:
    library = Tokenizer.from_str(byte_level())
    library.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A <|endoftext|>", special_tokens=[("<|im_start|>", 1), ("<|endoftext|>", 0)]
    )
    library.enable_truncation(4)
    library.enable_padding(length=64)
    text = "the quick brown fox jumps over the lazy dog"
    assert library.encode(text).ids != opened(byte_level()).encode(text)
    assert HuggingFaceTokenizer(library.to_str()).encode(text) == opened(byte_level()).encode(text)
    assert HuggingFaceTokenizer(library.to_str()).encode("") == []


def test_a_file_is_loaded_by_its_hash(tmp_path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level())
    artifact = artifact_of(str(path))
    assert load_hf_tokenizer(artifact).encode("the dog") == opened(byte_level()).encode("the dog")
    path.write_text(byte_level(nfc=True))
    with pytest.raises(ValueError, match="sha256"):
        load_hf_tokenizer(artifact)


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(byte_level())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"tokenizer\.json needs .*interloom\[train\]"):
        load_hf_tokenizer(artifact_of(str(path)))


def test_a_tokenizer_travels_to_a_worker(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = opened(SPACE_SIGN["llama2"])
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert copy.encode("the \u2581 dog") == tokenizer.encode("the \u2581 dog")
    assert capfd.readouterr() == ("", "")
