"""The joint vocabulary of text and speech: text ids, two markers, Hu, Pi and St blocks, two tasks.

In the layout `spiritlm` the markers follow the tokenizer's last id: with 32,000 pieces and codebooks of 501, 64 and 100
the ids are those of the released models, and the tasks come after them. `append` puts the same tokens elsewhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import numpy.typing as npt

from schemas.contract import UnitContract
from schemas.sequence import VocabularySection
from stages.interleave import Modality, Piece, Task, task_token
from stages.serialise import speech_token, token_rank

BLOCKS = ("hubert", "pitch", "style")
"""Unit blocks in the order of their ids."""

TASKS: tuple[Task, ...] = ("asr", "tts")
"""Tasks in the order of their tokens' ids."""

SPIRITLM = VocabularySection()
"""The layout of the released models."""


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
        ids: int64, shape (n,); each piece begins with its marker, or with the token of its task and its marker.
        modality: int8, shape (n,): 0 text, 1 speech; a marker and the task before it count to what they open.
        glued: bool, shape (n,): whether the sequence must not be cut before this token. Glued are a token to the marker
            or the task before it, and speech tokens whose order is style < pitch < HuBERT to each other.
    """

    ids: npt.NDArray[np.int64]
    modality: npt.NDArray[np.int8]
    glued: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Vocabulary:
    """Maps pieces to ids and back.

    Attributes:
        tokenizer: the text tokenizer; its ids are those of the text.
        sizes: slot to codebook size; a slot left out has no block.
        section: the layout; its `tokenizer` is not read.
        tokenizer_sha256: of the tokenizer's file; empty if unknown.
    """

    tokenizer: TextTokenizer
    sizes: Mapping[str, int]
    section: VocabularySection = SPIRITLM
    tokenizer_sha256: str = ""
    _ids: dict[str, int] = field(init=False, repr=False)
    _tokens: list[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.sizes) - set(BLOCKS)):
            raise ValueError(f"unknown unit streams {unknown}; known are {list(BLOCKS)}")
        if self.first_id < self.tokenizer.vocab_size:
            raise ValueError(
                f"first_id {self.first_id} is an id of the text tokenizer, whose ids end at "
                f"{self.tokenizer.vocab_size - 1}; set it to {self.tokenizer.vocab_size} or more"
            )
        tokens = [Modality.TEXT.marker, Modality.SPEECH.marker]
        tokens += [speech_token(slot, unit) for slot in BLOCKS for unit in range(self.sizes.get(slot, 0))]
        tokens += [task_token(task) for task in TASKS]
        object.__setattr__(self, "_tokens", tokens)
        object.__setattr__(self, "_ids", {token: i for i, token in enumerate(tokens, self.first_id)})

    @classmethod
    def from_contracts(
        cls,
        tokenizer: TextTokenizer,
        contracts: Mapping[str, UnitContract],
        section: VocabularySection = SPIRITLM,
        tokenizer_sha256: str = "",
    ) -> Self:
        sizes = {slot: contract.codebook_size for slot, contract in contracts.items()}
        return cls(tokenizer, sizes, section, tokenizer_sha256)

    @property
    def first_id(self) -> int:
        """The id of `[Text]`, the first that is not text's."""
        given = self.section.first_id
        return self.tokenizer.vocab_size if given is None else given

    @property
    def size(self) -> int:
        """All ids lie in [0, size): how many rows a model's embeddings need."""
        multiple = self.section.pad_to_multiple
        return -(-(self.first_id + len(self._tokens)) // multiple) * multiple

    def describe(self) -> dict[str, Any]:
        """Return the layout as plain JSON: each block as [first id, id after its last], and the size.

        Two vocabularies that describe themselves alike give the same ids, if the hash of the tokenizer is known.
        """
        blocks = {"text": [0, self.tokenizer.vocab_size]}
        for modality in Modality:
            blocks[modality.marker] = _only(self.token_id(modality.marker))
        for slot in BLOCKS:
            if count := self.sizes.get(slot, 0):
                blocks[slot] = [self.unit_offset(slot), self.unit_offset(slot) + count]
        for task in TASKS:
            blocks[task_token(task)] = _only(self.task_id(task))
        return {
            "layout": self.section.layout,
            "size": self.size,
            "blocks": blocks,
            "tokenizer_sha256": self.tokenizer_sha256,
        }

    def token_id(self, token: str) -> int:
        """Return the id of a marker, a task or a speech token.

        Raises:
            ValueError: if it is not in the vocabulary, e.g. a unit beyond its codebook.
        """
        try:
            return self._ids[token]
        except KeyError:
            raise ValueError(f"{token!r} is not in the vocabulary; codebook sizes are {dict(self.sizes)}") from None

    def marker_id(self, modality: int) -> int:
        """Return the id of the marker of modality 0 (text) or 1 (speech)."""
        return self.first_id + modality

    def task_id(self, task: Task) -> int:
        """Return the id of a task's token.

        Raises:
            ValueError: if there is no such task.
        """
        return self.token_id(task_token(task))

    def unit_offset(self, slot: str) -> int:
        """Return the id of a stream's unit 0; unit u has the id `unit_offset(slot) + u`.

        Raises:
            ValueError: if the vocabulary has no such stream.
        """
        if not self.sizes.get(slot):
            raise ValueError(f"no {slot!r} units in the vocabulary; codebook sizes are {dict(self.sizes)}")
        return self._ids[speech_token(slot, 0)]

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
            opening = [self.task_id(piece.task)] if piece.task else []
            opening.append(self.marker_id(is_speech))
            body = [self.token_id(token) for token in piece.tokens] if is_speech else self.tokenizer.encode(piece.text)
            joins = _joins(piece.tokens) if is_speech else [False] * len(body)
            ids += [*opening, *body]
            modality += [int(is_speech)] * (len(opening) + len(body))
            glued += [False, *[True] * (len(opening) - 1), *([True, *joins[1:]] if body else [])]
        return TokenSequence(
            np.array(ids, dtype=np.int64), np.array(modality, dtype=np.int8), np.array(glued, dtype=bool)
        )

    def decode(self, ids: Iterable[int]) -> list[Piece]:
        """Return the pieces of a sequence that opens with a marker or a task.

        Raises:
            ValueError: if it does not, a task has no marker after it, an id has no token, or a piece holds the other
                modality's tokens.
        """
        given = [int(i) for i in ids]
        markers = {self.token_id(modality.marker): modality for modality in Modality}
        tasks = {self.task_id(task): task for task in TASKS}
        openings = markers.keys() | tasks.keys()
        pieces: list[Piece] = []
        place = 0
        while place < len(given):
            task = tasks.get(given[place], "")
            place += bool(task)
            if place == len(given) or given[place] not in markers:
                found = given[place] if place < len(given) else "the end"
                after = f"after {task_token(task)} comes" if task else "a sequence must open with"
                raise ValueError(f"{after} {Modality.TEXT.marker} or {Modality.SPEECH.marker}, got {found}")
            end = next((i for i in range(place + 1, len(given)) if given[i] in openings), len(given))
            pieces.append(self._piece(task, markers[given[place]], given[place + 1 : end]))
            place = end
        return pieces

    def repaired(self, ids: Iterable[int]) -> list[int]:
        """Return ids that `decode` takes, of any: those of a model that has not learnt what may follow what.

        Where a token of the other modality comes without its marker, the marker is put in. Ids without a token are left
        out, and so are tasks without a marker after them. Ids that `decode` takes come back as they are.
        """
        given = [int(i) for i in ids]
        text, speech = (self.token_id(modality.marker) for modality in (Modality.TEXT, Modality.SPEECH))
        tasks = {self.task_id(task) for task in TASKS}
        others = range(self.first_id, self.first_id + len(self._tokens))
        found: list[int] = []
        opened = None
        for i, after in zip_longest(given, given[1:]):
            if i in tasks:
                if after in (text, speech):
                    found.append(i)
                continue
            if i in (text, speech):
                opened = i
            elif 0 <= i < self.tokenizer.vocab_size or i in others:
                needed = speech if i in others else text
                if opened != needed:
                    found.append(needed)
                opened = needed
            else:
                continue
            found.append(i)
        return found

    def _piece(self, task: Task, modality: Modality, body: list[int]) -> Piece:
        text, others = range(self.tokenizer.vocab_size), range(self.first_id, self.first_id + len(self._tokens))
        for i in body:
            if i not in text and i not in others:
                raise ValueError(f"id {i} has no token; see the blocks of `Vocabulary.describe`")
            if i not in (others if modality is Modality.SPEECH else text):
                raise ValueError(f"id {i} cannot follow {modality.marker}")
        if modality is Modality.TEXT:
            return Piece(modality=modality, text=self.tokenizer.decode(body), task=task)
        return Piece(modality=modality, tokens=tuple(self._tokens[i - self.first_id] for i in body), task=task)


def _only(token_id: int) -> list[int]:
    return [token_id, token_id + 1]


def _joins(tokens: Sequence[str]) -> list[bool]:
    """Return whether each token belongs to the one before it: it does if it ranks later among equal times."""
    ranks = [token_rank(token) for token in tokens]
    return [i > 0 and rank > ranks[i - 1] for i, rank in enumerate(ranks)]
