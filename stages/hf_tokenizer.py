"""Hugging Face tokenizers: a `tokenizer.json`, read by the `tokenizers` library. No network, no code from its folder.

Only BPE tokenizers that can spell any byte are taken: byte-level ones (GPT-2, Llama 3, Qwen) and those that write a
space as U+2581 (Llama 2, Mistral). A text is encoded with exactly one space before its first word, the tokenizer's own
or ours, so a word has the same ids wherever a span begins; decoding takes that space off again.

Special tokens are taken out of the tokenizer before it encodes, so no transcript can spell one.
"""

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from schemas.records import Artifact
from stages.artifacts import verified_bytes
from stages.hf_word_by_word import is_word_by_word
from stages.sentencepiece_file import SPACE, encode_sign

SAMPLE = "Ab it's 3, \u0416\u4e2d\U0001f98a"
"""Both cases, an apostrophe, a digit, a comma, a Cyrillic letter, a Han character and an emoji."""


class HuggingFaceTokenizer:
    """A BPE tokenizer of the `tokenizers` library."""

    def __init__(self, description: str) -> None:
        """Build the tokenizer.

        Args:
            description: the content of a `tokenizer.json`.

        Raises:
            ImportError: if the `tokenizers` library is not installed.
            ValueError: if it is no BPE tokenizer, or one that cannot spell any text.
        """
        spec = json.loads(description)
        _require_bpe(spec)
        self._added = _take_out_added_tokens(spec)
        self._tokenizer = _build(spec)
        canonical = json.loads(self._tokenizer.to_str())
        self._size = 1 + max(int(i) for i in (*self._tokenizer.get_vocab().values(), *self._added))
        self._byte_ids = self._require_bytes(canonical)
        self._prefix = "" if self._puts_a_space_first() else " "
        self._own_space = self._tokenizer.decode(self._raw_ids("a")) == " a"
        self._word_by_word = is_word_by_word(canonical)
        if self.decode(self.encode(SAMPLE)) != SAMPLE:
            raise ValueError(f"it does not give {SAMPLE!r} back, but {self.decode(self.encode(SAMPLE))!r}")

    @property
    def vocab_size(self) -> int:
        """Ids, special tokens' included, lie in [0, vocab_size); not all need be in use."""
        return self._size

    @property
    def word_by_word(self) -> bool:
        """Whether every text of words joined by single spaces encodes as its words do, one after the other."""
        return self._word_by_word

    def encode(self, text: str) -> list[int]:
        """Return token ids, without special tokens; what looks like one in the text is spelled as text."""
        if not text:
            return []
        if SPACE in text and self._byte_ids:
            return encode_sign(self._raw_ids, text, self._byte_ids)
        return self._raw_ids(text)

    def encode_word(self, word: str) -> list[int]:
        """Return the ids that a word has inside a text, if the tokenizer is word by word."""
        return self.encode(word)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids, less the space before its first word; special tokens appear by name."""
        parts = [
            "".join(self._added[i] for i in run) if is_added else str(self._tokenizer.decode(list(run)))
            for is_added, run in groupby(map(int, ids), key=self._added.__contains__)
        ]
        text = "".join(parts)
        return text.removeprefix(" ") if self._own_space else text

    def _raw_ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(self._prefix + text, add_special_tokens=False).ids)

    def _puts_a_space_first(self) -> bool:
        """Whether the tokenizer itself makes a word at the beginning one after a space."""
        normalizer, cutter = self._tokenizer.normalizer, self._tokenizer.pre_tokenizer
        text = normalizer.normalize_str("a") if normalizer else "a"
        return text != "a" or (cutter is not None and cutter.pre_tokenize_str(text)[0][0] != "a")

    def _require_bytes(self, spec: dict[str, Any]) -> tuple[int, ...]:
        """Return the ids of the pieces <0x00> to <0xFF>; none for a byte-level tokenizer, which needs them not."""
        id_of = self._tokenizer.token_to_id
        byte_ids = [id_of(f"<0x{byte:02X}>") for byte in range(256)]
        if spec["model"]["byte_fallback"] and None not in byte_ids:
            return tuple(byte_ids)
        byte_level = '"ByteLevel"' in json.dumps([spec["pre_tokenizer"], spec["normalizer"]])
        if byte_level and None not in map(id_of, _library().pre_tokenizers.ByteLevel.alphabet()):
            return ()
        raise ValueError("it has no pieces for bytes, so it would lose every character that it has no piece for")


def load_hf_tokenizer(artifact: Artifact) -> HuggingFaceTokenizer:
    """Load a `tokenizer.json`.

    Raises:
        ImportError: if the `tokenizers` library is not installed.
        ValueError: if the file is missing or changed, or holds no tokenizer that gives any text back.
    """
    data = verified_bytes(artifact)
    try:
        return HuggingFaceTokenizer(data.decode())
    except ImportError as error:
        raise ImportError(f"{artifact.path} needs the tokenizers library: pip install 'interloom[train]'") from error
    except ValueError as error:
        raise ValueError(f"{artifact.path} cannot be the text tokenizer: {error}; use another one") from error


def _require_bpe(spec: Any) -> None:
    model = spec.get("model") if isinstance(spec, dict) else None
    if not (isinstance(model, dict) and isinstance(model.get("vocab"), dict) and isinstance(model.get("merges"), list)):
        kind = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"it is a {kind} model, not BPE" if kind else "it is no tokenizer.json")
    if model.get("dropout"):
        raise ValueError(f"its BPE dropout of {model['dropout']} would make the ids random")


def _take_out_added_tokens(spec: dict[str, Any]) -> dict[int, str]:
    """Remove from a tokenizer's description what would turn text into added tokens, and truncation and padding.

    Returns:
        id to text of the tokens that the description does not hold any more.

    Raises:
        ValueError: if a special token is also a character or made by merges, so that text spells it.
    """
    model = spec["model"]
    vocab: dict[str, int] = model["vocab"]
    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    merged = {"".join(map(str, pair)) for pair in pairs if isinstance(pair, list)}
    added: dict[int, str] = {}
    for token in spec.get("added_tokens") or ():
        match token:
            case {"content": str(content), "id": int(number)}:
                ordinary = content in merged or (len(content) == 1 and content in vocab)
                if ordinary and token.get("special"):
                    raise ValueError(f"its special token {content!r} is also an ordinary piece")
                if not (ordinary or (_is_byte(content) and content in vocab)):
                    added[number] = content
                    if content in vocab:  # by a name that no text has, since the library complains of missing ids
                        vocab[f"\0 {number}"] = vocab.pop(content)
            case _:
                raise ValueError(f"an added token has no text or no id: {token}")
    spec |= {"added_tokens": [], "truncation": None, "padding": None}
    return added


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")


def _build(spec: dict[str, Any]) -> Any:
    try:
        return _library().Tokenizer.from_str(json.dumps(spec))
    except BaseException as error:
        if type(error) is not Exception:  # the library raises bare Exceptions
            raise
        raise ValueError(f"the tokenizers library refuses it ({error})") from error


def _library() -> Any:
    import tokenizers

    return tokenizers
