"""Tokenizers for the tests, trained here: `tokenizer.json` of the kinds that language models come with."""

import json
from functools import cache
from typing import Any

from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages.hf_tokenizer import HuggingFaceTokenizer
from stages.hf_word_by_word import PATTERNS

CORPUS = (
    "The quick brown fox jumps over the lazy dog; the dog sleeps.",
    "It's a test, isn't it? Twenty-one of them: 1, 22, 333, 4444!",
    "We'll see what they've said: 'so be it', he'd say.",
    "Un \u00e9t\u00e9 \u00e0 la mer, \u6d77\u8fb9\u7684\u590f\u5929. \u042d\u0442\u043e \u0442\u0435\u0441\u0442.",
) * 6
SPECIAL = ("<|endoftext|>", "<|im_start|>")
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]

characters = st.characters(exclude_categories=["Cs"])
a_word = st.text(characters, min_size=1, max_size=12).filter(
    lambda text: len(text.split()) == 1 and text.strip() == text
)
odd_word = st.sampled_from(
    ["it's", "'s", "'LL", "3.5", "12345", "1st", "a1b22c333", "...", "-", "\u0301a", "a\u0301", "\u180ea", "\u200bx",
     "\u2581", "a\u2581", "\u2581b", "\u2581\u2581", "<|endoftext|>", "<s>", "<0x41>", "[Speech]", "\U0001f98a",
     "caf\u00e9", "\u017fs", "'\u017f", "\u00bd", "\u0660\u0661", "//", "a/b", "Ab\u01c5C", "\x1b", "\x00", "\x7f"]
)  # fmt: skip
words = st.lists(a_word | odd_word | st.sampled_from(" ".join(CORPUS).split()), min_size=1, max_size=8)


def _trained(
    tokenizer: Tokenizer, size: int, *, special: tuple[str, ...] = (), letters: list[str] | None = None
) -> str:
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(special), initial_alphabet=letters or [], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


@cache
def byte_level(pattern: str = "", *, prefix: bool = False, nfc: bool = False, ignore_merges: bool = False) -> str:
    """GPT-2's kind without a pattern, else Llama 3's and Qwen's; `digits` cuts digits out first."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    plain = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=pattern in ("", "digits"))
    if pattern == "digits":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    elif pattern:
        split = pre_tokenizers.Split(Regex(PATTERNS.get(pattern, pattern)), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, plain])
    else:
        tokenizer.pre_tokenizer = plain
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, 420, special=SPECIAL, letters=sorted(pre_tokenizers.ByteLevel.alphabet()))


@cache
def space_sign(kind: str = "always", *, split: bool = True, fallback: bool = True) -> str:
    """Kinds that write a space as U+2581: Metaspace `always`, `first` or `never`, or Llama 2's `legacy` normaliser."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=fallback, unk_token="<unk>", fuse_unk=True))
    if kind == "legacy":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        if split:  # trained within words, then used without cuts, as SentencePiece's models are
            tokenizer.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=split)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if kind != "never" else [])
    )
    spec = json.loads(_trained(tokenizer, 560, special=("<unk>", "<s>", "</s>", *(BYTES if fallback else ()))))
    spec["added_tokens"] = spec["added_tokens"][:3]
    if kind == "legacy":
        spec["pre_tokenizer"] = None
    return json.dumps(spec)


@cache
def opened(description: str) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(description)


@cache
def wordpiece() -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(special_tokens=["[UNK]"], show_progress=False))
    return str(tokenizer.to_str())


@cache
def unigram() -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=60, show_progress=False))
    return str(tokenizer.to_str())


def changed(description: str, **changes: Any) -> str:
    """Return a description with other top-level keys."""
    return json.dumps(json.loads(description) | changes)
