"""The joint vocabulary of text and speech, laid out as Spirit LM's: text ids, two markers, then Hu, Pi and St blocks.

With a text tokenizer of 32,000 pieces and codebooks of 501, 64 and 100 the ids are those of the released models
(`layout` name: `spiritlm`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from schemas.contract import UnitContract
from stages.interleave import Modality, Piece
from stages.serialise import speech_token, token_rank

BLOCKS = ("hubert", "pitch", "style")
"""Unit blocks in the order of their ids."""


class TextTokenizer(Protocol):
    """What the vocabulary needs of a text tokenizer: ids in [0, vocab_size), spaces kept by a round trip."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def word_by_word(self) -> bool:
        """Whether every text of words joined by single spaces encodes as its words do, one after the other.

        A word holds no whitespace as `str.split()` sees it.
        """
        ...

    def encode(self, text: str) -> list[int]: ...

    def encode_word(self, word: str) -> list[int]:
        """Return the ids that a word has inside a text; only for a tokenizer that is word by word."""
        ...

    def decode(self, ids: list[int]) -> str: ...


class TokenSequence(NamedTuple):
    """A document as token ids.

    Attributes:
        ids: int64, shape (n,); each piece begins with its marker.
        modality: int8, shape (n,): 0 text, 1 speech; a marker counts to what it opens.
        glued: bool, shape (n,): whether the sequence must not be cut before this token. Glued are a token to the marker
            before it, and speech tokens whose order is style < pitch < HuBERT to each other.
    """

    ids: npt.NDArray[np.int64]
    modality: npt.NDArray[np.int8]
    glued: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """Maps pieces to ids and back.

    Attributes:
        tokenizer: the text tokenizer; its size T gives `[Text]` the id T.
        sizes: slot to codebook size; a slot left out has no block.
    """

    tokenizer: TextTokenizer
    sizes: Mapping[str, int]
    _ids: dict[str, int] = field(init=False, repr=False)
    _tokens: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.sizes) - set(BLOCKS)):
            raise ValueError(f"unknown unit streams {unknown}; known are {list(BLOCKS)}")
        tokens = [Modality.TEXT.marker, Modality.SPEECH.marker]
        tokens += [speech_token(slot, unit) for slot in BLOCKS for unit in range(self.sizes.get(slot, 0))]
        object.__setattr__(self, "_tokens", tokens)
        object.__setattr__(self, "_ids", {token: i for i, token in enumerate(tokens, self.tokenizer.vocab_size)})

    @classmethod
    def from_contracts(cls, tokenizer: TextTokenizer, contracts: Mapping[str, UnitContract]) -> Self:
        return cls(tokenizer, {slot: contract.codebook_size for slot, contract in contracts.items()})

    @property
    def size(self) -> int:
        """All ids lie in [0, size)."""
        return self.tokenizer.vocab_size + len(self._tokens)

    def token_id(self, token: str) -> int:
        """Return the id of a marker or a speech token.

        Raises:
            ValueError: if it is not in the vocabulary, e.g. a unit beyond its codebook.
        """
        try:
            return self._ids[token]
        except KeyError:
            raise ValueError(f"{token!r} is not in the vocabulary; codebook sizes are {dict(self.sizes)}") from None

    def marker_id(self, modality: int) -> int:
        """Return the id of the marker of modality 0 (text) or 1 (speech)."""
        return self.tokenizer.vocab_size + modality

    def encode(self, pieces: Iterable[Piece]) -> TokenSequence:
        """Return the ids of a document's pieces, each opened by its marker.

        Text goes through the text tokenizer alone, so a transcript that contains `[Speech]` opens no speech.

        Raises:
            ValueError: if a speech token is not in the vocabulary.
        """
        ids: list[int] = []
        modality: list[int] = []
        glued: list[bool] = []
        for piece in pieces:
            is_speech = piece.modality is Modality.SPEECH
            body = [self.token_id(token) for token in piece.tokens] if is_speech else self.tokenizer.encode(piece.text)
            joins = _joins(piece.tokens) if is_speech else [False] * len(body)
            ids += [self.marker_id(is_speech), *body]
            modality += [int(is_speech)] * (len(body) + 1)
            glued += [False, *([True, *joins[1:]] if body else [])]
        return TokenSequence(
            np.array(ids, dtype=np.int64), np.array(modality, dtype=np.int8), np.array(glued, dtype=bool)
        )

    def decode(self, ids: Iterable[int]) -> list[Piece]:
        """Return the pieces of a sequence that opens with a marker.

        Raises:
            ValueError: if it does not, an id is outside the vocabulary, or a piece holds the other modality's tokens.
        """
        pieces: list[Piece] = []
        for opening, run in groupby(_with_openings(ids, self.tokenizer.vocab_size), key=lambda pair: pair[0]):
            body = [token for _, token in run][1:]
            pieces.append(self._piece(opening, body))
        return pieces

    def _piece(self, opening: tuple[int, int], body: list[int]) -> Piece:
        text_size = self.tokenizer.vocab_size
        is_speech = opening[1] == self.marker_id(1)
        if strange := [i for i in body if not (text_size + 2 <= i < self.size if is_speech else 0 <= i < text_size)]:
            raise ValueError(
                f"id {strange[0]} cannot follow {Modality.SPEECH.marker if is_speech else Modality.TEXT.marker}"
            )
        if is_speech:
            return Piece(modality=Modality.SPEECH, tokens=tuple(self._tokens[i - text_size] for i in body))
        return Piece(modality=Modality.TEXT, text=self.tokenizer.decode(body))


def _with_openings(ids: Iterable[int], text_size: int) -> Iterable[tuple[tuple[int, int], int]]:
    """Yield each id with the place and the id of the marker it belongs to."""
    opening: tuple[int, int] | None = None
    for place, token in enumerate(map(int, ids)):
        if token in (text_size, text_size + 1):
            opening = (place, token)
        if opening is None:
            raise ValueError(
                f"a sequence must open with {Modality.TEXT.marker} or {Modality.SPEECH.marker}, got {token}"
            )
        yield opening, token


def _joins(tokens: Sequence[str]) -> list[bool]:
    """Return whether each token belongs to the one before it: it does if it ranks later among equal times."""
    ranks = [token_rank(token) for token in tokens]
    return [i > 0 and rank > ranks[i - 1] for i, rank in enumerate(ranks)]
