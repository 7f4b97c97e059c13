"""What a SentencePiece model file says about itself, read without a protobuf library.

The file is a `ModelProto` of sentencepiece_model.proto: field 1 pieces, 2 TrainerSpec, 3 NormalizerSpec.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

SPACE = "\u2581"
"""How SentencePiece writes a space inside pieces."""

BPE = 2
NORMAL, USER_DEFINED = 1, 4

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The settings that decide whether a text's encoding is that of its words, one after the other.

    Attributes:
        pieces: each piece and its type, in the order of the ids.
        model_type: 1 unigram, 2 BPE, 3 word, 4 character.
        byte_fallback: whether a character without a piece is spelled in bytes.
        space_is_suffix: whether a space belongs to the word before it.
        normalises: whether there is a table of characters to replace.
        dummy_prefix: whether a space is put before the text.
        writes_space: whether spaces become U+2581.
    """

    pieces: tuple[tuple[str, int], ...]
    model_type: int
    byte_fallback: bool
    space_is_suffix: bool
    normalises: bool
    dummy_prefix: bool
    writes_space: bool

    @classmethod
    def of(cls, model: bytes) -> Self:
        """Read a model that SentencePiece has accepted.

        Raises:
            ValueError: if it is no protobuf message.
        """
        pieces = []
        trainer: dict[int, bytes | int] = {}
        normalizer: dict[int, bytes | int] = {}
        for number, value in _fields(model):
            if number == 1 and isinstance(value, bytes):
                fields = dict(_fields(value))
                text, kind = fields.get(1, b""), fields.get(3, NORMAL)
                pieces.append((text.decode() if isinstance(text, bytes) else "", int(kind)))
            elif number in (2, 3) and isinstance(value, bytes):
                (trainer if number == 2 else normalizer).update(_fields(value))
        return cls(
            pieces=tuple(pieces),
            model_type=int(trainer.get(3, 1)),
            byte_fallback=bool(trainer.get(35, False)),
            space_is_suffix=bool(trainer.get(24, False)),
            normalises=bool(normalizer.get(2, b"")),
            dummy_prefix=bool(normalizer.get(3, True)),
            writes_space=bool(normalizer.get(5, True)),
        )

    def is_word_by_word(self) -> bool:
        """Return whether a text of words joined by single spaces must encode as its words do, one after the other.

        BPE merges neighbours into pieces, so nothing crosses from word to word if U+2581 only begins pieces. Unigram
        models are left out: their float32 sums over the text before a word can break a tie in another way. So are
        models without byte fallback, in which a U+2581 of a word passes for a space.
        """
        texts = [text for text, _ in self.pieces]
        return (
            self.model_type == BPE
            and self.byte_fallback
            and not (self.space_is_suffix or self.normalises)
            and self.dummy_prefix
            and self.writes_space
            and SPACE in texts
            and not any(kind == USER_DEFINED for _, kind in self.pieces)
            and not any(SPACE in text.lstrip(SPACE) or " " in text for text in texts)
        )


def encode_sign(encode: Callable[[str], list[int]], text: str, byte_ids: Sequence[int]) -> list[int]:
    """Encode a text that holds U+2581 so that the sign is spelled in bytes and decodes to itself, not to a space.

    Args:
        encode: encodes texts without the sign, and spells characters without a piece in bytes.
        text: holds the sign.
        byte_ids: the id of each byte, 256 of them.
    """
    for code in range(0x10FFFD, 0x10F000, -1):  # private use: hardly any model has a piece for them
        stand_in = chr(code)
        spelling = [byte_ids[byte] for byte in stand_in.encode()]
        if stand_in not in text and encode(stand_in)[-len(spelling) :] == spelling:
            break
    else:
        return encode(text)
    ids = encode(text.replace(SPACE, stand_in))
    sign = [byte_ids[byte] for byte in SPACE.encode()]
    found: list[int] = []
    place = 0
    while place < len(ids):
        here = ids[place : place + len(spelling)] == spelling
        found += sign if here else ids[place : place + 1]
        place += len(spelling) if here else 1
    return found


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and the value of each field: an integer for varints, else bytes."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == _BYTES:
            size, place = _varint(message, place)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf message: wire type {wire} at byte {place}")
        if place + size > len(message):
            raise ValueError("no protobuf message: it breaks off")
        yield number, message[place : place + size]
        place += size


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the integer at a place, and the place after it."""
    value = shift = 0
    while place < len(message):
        byte = message[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("no protobuf message: it breaks off")
