r"""Whether a Hugging Face BPE tokenizer encodes a text as its words, one after the other.

It is decided from the tokenizer's description. The text is words joined by single spaces, with one space before the
first; no word holds whitespace. What is not known to hold counts as not holding.

Byte-level tokenizers cut the text by a pattern and merge within its parts. In the patterns listed here whitespace that
is not at the beginning of a match is only found with other whitespace or with a newline, and the one assertion,
`(?!\S)`, looks past whitespace only. So a match ends before each space, the next one begins with it, and how a word is
cut depends on that word alone: runs of digits, contractions and punctuation end with it. NFC never joins a space to
what follows, nor to what it follows.
"""

from typing import Any

from stages.sentencepiece_file import SPACE

_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_END = r"\s+(?!\S)|\s+"
_LINES = r"\s*[\r\n]+|" + _END
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_OPTIONAL = r"[^\r\n\p{L}\p{N}]?"
_CASED = (_OPTIONAL + _UPPER + "*" + _LOWER + "+", _OPTIONAL + _UPPER + "+" + _LOWER + "*")

PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|" + _END,
    "llama3": _CONTRACTION + "|" + _OPTIONAL + r"\p{L}+|\p{N}{1,3}|" + _SIGNS + _LINES,
    "qwen2": _CONTRACTION + "|" + _OPTIONAL + r"\p{L}+|\p{N}|" + _SIGNS + _LINES,
    "gpt4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|" + _END,
    "gpt4o": "|".join(part + _CONTRACTION + "?" for part in _CASED)
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _LINES,
}
"""Patterns of known tokenizers that keep words apart, by the first model known by them."""


def is_word_by_word(spec: dict[str, Any]) -> bool:
    """Return whether texts encode word by word.

    Args:
        spec: a `tokenizer.json` with BPE and no added tokens, as the library writes it.
    """
    model = spec["model"]
    if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return False
    if spec["normalizer"] in (None, {"type": "NFC"}) and _cuts_before_spaces(spec["pre_tokenizer"]):
        return True
    # Without cuts BPE sees the whole text; nothing crosses from word to word if U+2581 only begins pieces. A word never
    # holds one, since it would be spelled in bytes.
    whole = _writes_space_only(spec["normalizer"]) and spec["pre_tokenizer"] is None
    whole = whole or (spec["normalizer"] is None and _is_metaspace(spec["pre_tokenizer"]))
    return whole and bool(model["byte_fallback"]) and not any(SPACE in piece.lstrip(SPACE) for piece in model["vocab"])


def _cuts_before_spaces(cutter: dict[str, Any] | None) -> bool:
    match cutter:
        case {"type": "ByteLevel", "use_regex": True}:
            return True
        case {"type": "Metaspace", "replacement": "\u2581", "split": True}:
            return True
        case {"type": "Sequence", "pretokenizers": [first, {"type": "ByteLevel", "add_prefix_space": False} as second]}:
            # Digits are cut out of whatever surrounds them; a space before them stays alone.
            return (first["type"] == "Digits" and second["use_regex"]) or (_is_known(first) and not second["use_regex"])
    return False


def _is_known(cutter: dict[str, Any]) -> bool:
    match cutter:
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}:
            return pattern in PATTERNS.values()
    return False


def _is_metaspace(cutter: dict[str, Any] | None) -> bool:
    return cutter is not None and cutter["type"] == "Metaspace" and cutter["replacement"] == SPACE


def _writes_space_only(normalizer: dict[str, Any] | None) -> bool:
    """Whether it does nothing but write spaces as U+2581, perhaps with one more before the text."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prepend = {"type": "Prepend", "prepend": SPACE}
    return normalizer in (replace, {"type": "Sequence", "normalizers": [prepend, replace]})
