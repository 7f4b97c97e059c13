"""The text tokenizer: SentencePiece BPE with byte fallback (Kudo and Richardson 2018, arXiv 1808.06226).

U+2581, by which SentencePiece writes a space, is spelled in bytes where a transcript holds it; so decoding gives the
text back.
"""

import io
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from schemas.records import Artifact
from stages.artifacts import verified_bytes
from stages.sentencepiece_file import SPACE, ModelFacts, encode_sign

RESERVED = 3 + 256
"""Pieces that every model has: <unk>, <s>, </s> and one for each byte."""

MIN_VOCAB = RESERVED + 4
"""Room for the space, one character more, and merges."""


def fit_sentencepiece(texts: Iterable[str], vocab_size: int) -> bytes:
    """Train BPE in memory and return the model file; the same texts in the same order give the same bytes.

    Text is not normalised. At most half of the pieces beside the reserved ones are single characters, the most
    frequent first; rarer ones are spelled in bytes. A corpus that is too small for `vocab_size` gives a smaller model.

    Raises:
        ValueError: if `vocab_size` is below 263 or there is no text.
    """
    if vocab_size < MIN_VOCAB:
        raise ValueError(f"vocab_size must be at least {MIN_VOCAB}: {RESERVED} pieces are reserved; got {vocab_size}")
    sentences = _common_parts(list(texts), (vocab_size - RESERVED) // 2)
    if not sentences:
        raise ValueError("the tokenizer needs text to be fitted on, but every transcript is empty")
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


class SentencePieceTokenizer:
    """A SentencePiece model, ours or a given one such as Llama's `tokenizer.model`."""

    def __init__(self, model: bytes) -> None:
        from sentencepiece import SentencePieceProcessor

        self._processor: Any = SentencePieceProcessor(model_proto=model)
        self._model = model

    @property
    def vocab_size(self) -> int:
        """Ids lie in [0, vocab_size)."""
        return int(self._processor.vocab_size())

    @cached_property
    def word_by_word(self) -> bool:
        """Whether every text of words joined by single spaces encodes as its words do, one after the other."""
        return ModelFacts.of(self._model).is_word_by_word()

    def encode(self, text: str) -> list[int]:
        """Return token ids, without <s> and </s>."""
        if SPACE in text and self._byte_ids:
            return encode_sign(self._ids, text, self._byte_ids)
        return self._ids(text)

    def encode_word(self, word: str) -> list[int]:
        """Return the ids that a word has inside a text, if the model is word by word."""
        return self.encode(word)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token ids."""
        return str(self._processor.decode(list(ids)))

    @cached_property
    def _byte_ids(self) -> tuple[int, ...]:
        """The id of each byte; empty if there is no byte fallback."""
        ids = tuple(int(self._processor.piece_to_id(f"<0x{byte:02X}>")) for byte in range(256))
        return ids if all(map(self._processor.is_byte, ids)) else ()

    def _ids(self, text: str) -> list[int]:
        return list(self._processor.encode(text))


def load_sentencepiece(artifact: Artifact) -> SentencePieceTokenizer:
    """Load a model file.

    Raises:
        ValueError: if the file is missing, changed or no SentencePiece model.
    """
    data = verified_bytes(artifact)
    try:
        if data:  # SentencePiece takes an empty model for none given
            return SentencePieceTokenizer(data)
    except RuntimeError as error:
        raise ValueError(f"{artifact.path} is not a SentencePiece model") from error
    raise ValueError(f"{artifact.path} is empty")


def check_sentencepiece(artifact: Artifact) -> None:
    """Check that a given model can spell any text.

    Raises:
        ValueError: if the file is missing, changed or no SentencePiece model, or loses what it has no piece for.
    """
    tokenizer = load_sentencepiece(artifact)
    if any(character not in tokenizer.decode(tokenizer.encode(f"a {character}")) for character in RARE):
        raise ValueError(
            f"{artifact.path} has no byte fallback: it would lose every character that it has no piece for; use "
            "another SentencePiece model"
        )


RARE = "\u0416\u4e2d\U0001f98a"
"""A Cyrillic letter, a Han character and an emoji."""


def _common_parts(texts: list[str], budget: int) -> list[str]:
    """Cut texts at line ends and at all but the space and the `budget - 1` most frequent characters.

    SentencePiece gives each character of its training text a piece, and refuses a vocabulary that cannot hold them.
    """
    counts = Counter("".join(texts))
    for never_kept in (" ", "\n", "\0", "\u2581"):
        del counts[never_kept]
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    cut = dict.fromkeys(map(ord, [*ranked[budget - 1 :], "\0", "\u2581"]), "\n")
    parts = (part for text in texts for part in text.translate(cut).split("\n"))
    return [part for part in parts if part.strip()]
