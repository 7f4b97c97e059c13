"""What is scored: rows of a file or utterances of a dataset, as token ids, or why a row cannot be."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from jobs.train_vocabulary import Carried
from pipeline.dataset import Dataset
from pipeline.reader import draw_sequence
from pipeline.reader.opening import require_streams
from schemas.sequence import SequenceSection
from stages.documents import documents_from
from stages.interleave import Modality, Piece
from stages.vocabulary import Vocabulary

FORMS = ("text", "speech", "sequence", "ids")
PAIR = ("good", "bad")
_OPENING = re.compile(r"(?:\[(ASR|TTS)\])?\[(Text|Speech)\]")
_UNIT = re.compile(r"\[(?:Hu|Pi|St)[0-9]+\]")


class Refused(StrEnum):
    """Why a row has no score."""

    NOT_JSON = "not_json"
    BAD_ROW = "bad_row"
    BAD_SEQUENCE = "bad_sequence"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"


class BadRow(ValueError):
    """A row cannot be scored."""

    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """An input.

    Attributes:
        line: number of the line in its file, from 1, or of the utterance.
        id: the row's own name, or the line.
        sequences: token ids by name: "" for a sequence alone, `good` and `bad` for a pair. Empty if refused.
        refused: why it cannot be scored, or None.
    """

    line: int
    id: Any
    sequences: Mapping[str, Sequence[int]]
    refused: BadRow | None = None


def rows_of_json(path: Path, vocabulary: Vocabulary, context: int) -> Iterator[Row]:
    """Yield a row for each line of a JSON Lines file that is not blank.

    Raises:
        ValueError: if the file is missing.
    """
    for number, line in _lines(path):
        identifier: Any = number
        try:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadRow(Refused.NOT_JSON, str(error)) from None
            if not isinstance(value, dict):
                raise BadRow(Refused.BAD_ROW, f"a row is a JSON object, got {type(value).__name__}")
            identifier = _identifier(value.pop("id", number), number)
            sequences = _sequences(value, vocabulary)
            yield Row(line=number, id=identifier, sequences=_checked(sequences, context))
        except BadRow as error:
            yield Row(line=number, id=identifier, sequences={}, refused=error)


def rows_of_text(path: Path, vocabulary: Vocabulary, context: int) -> Iterator[Row]:
    """Yield a row for each line of a text file that is not blank.

    Raises:
        ValueError: if the file is missing.
    """
    for number, line in _lines(path):
        try:
            sequence = {"": _text_ids(line.decode("utf-8"), vocabulary)}
            yield Row(line=number, id=number, sequences=_checked(sequence, context))
        except UnicodeDecodeError as error:
            yield Row(line=number, id=number, sequences={}, refused=BadRow(Refused.BAD_ROW, str(error)))
        except BadRow as error:
            yield Row(line=number, id=number, sequences={}, refused=error)


def rows_of_dataset(
    dataset: Dataset, sequence: SequenceSection, carried: Carried, context: int, *, seed: int, checkpoint: str
) -> Iterator[Row]:
    """Yield a row for each utterance of a dataset, drawn in epoch 0 as a document: recordings are not joined.

    Raises:
        ValueError: if the dataset's units are not those of the checkpoint.
    """
    carried.require_contracts(dataset.contracts, here=checkpoint, there=dataset.root)
    require_streams([dataset], sequence)
    number = 0
    for split in range(dataset.num_splits):
        for document in documents_from(dataset.records(split), dataset.contracts, join=False):
            if not document.words:
                continue
            number += 1
            ids = draw_sequence(document, sequence, carried.vocabulary, seed=seed, epoch=0).ids.tolist()
            try:
                yield Row(line=number, id=document.key, sequences=_checked({"": ids}, context))
            except BadRow as error:
                yield Row(line=number, id=document.key, sequences={}, refused=error)


def parse_sequence(text: str, vocabulary: Vocabulary) -> list[int]:
    """Return the ids of a sequence in the released string form, e.g. `[Text]the cat[Speech][Hu1][Hu2]`.

    Text loses the spaces at its ends, as no text span of a dataset has any.

    Raises:
        BadRow: if it does not open with a marker, or holds what is no token of the vocabulary.
    """
    openings = list(_OPENING.finditer(text))
    if not openings or openings[0].start():
        raise BadRow(
            Refused.BAD_SEQUENCE,
            f'a sequence opens with [Text] or [Speech], got {text[:20]!r}; plain text is written {{"text": ...}}',
        )
    ends = [opening.start() for opening in openings[1:]] + [len(text)]
    pieces = [
        _piece(opening[1], opening[2], text[opening.end() : end]) for opening, end in zip(openings, ends, strict=True)
    ]
    return _encoded(pieces, vocabulary)


def _piece(task: str | None, marker: str, body: str) -> Piece:
    named: Any = (task or "").lower()
    if marker == "Text":
        return Piece(modality=Modality.TEXT, text=body.strip(), task=named)
    return Piece(modality=Modality.SPEECH, tokens=_speech(body), task=named)


def _speech(body: str) -> tuple[str, ...]:
    tokens = tuple(match[0] for match in _UNIT.finditer(body))
    if "".join(tokens) != body:
        raise BadRow(Refused.BAD_SEQUENCE, f"speech is tokens such as [Hu7] without spaces, got {body[:40]!r}")
    return tokens


def _text_ids(text: str, vocabulary: Vocabulary) -> list[int]:
    return _encoded([Piece(modality=Modality.TEXT, text=text.strip())], vocabulary)


def _encoded(pieces: Sequence[Piece], vocabulary: Vocabulary) -> list[int]:
    try:
        for piece in pieces:
            piece.text.encode()  # a lone surrogate is no text
        ids: list[int] = vocabulary.encode(pieces).ids.tolist()
    except ValueError as error:
        raise BadRow(Refused.BAD_SEQUENCE, str(error)) from None
    return ids


def _identifier(value: Any, line: int) -> Any:
    """Return a row's own name; what cannot be written down again is refused under its line."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(Refused.BAD_ROW, f"line {line}: the id is no text: {value[:40]!r}") from None
    elif isinstance(value, (list, dict)):
        raise BadRow(Refused.BAD_ROW, f"line {line}: an id is a string or a number, got {type(value).__name__}")
    return value


def _sequences(value: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, list[int]]:
    if not set(PAIR) & value.keys():
        return {"": _side(value, vocabulary)}
    if set(value) != set(PAIR):
        raise BadRow(Refused.BAD_ROW, f"a pair has good and bad, got {sorted(value)}")
    return {name: _side(value[name], vocabulary) for name in PAIR}


def _side(value: Any, vocabulary: Vocabulary) -> list[int]:
    if isinstance(value, str):
        return parse_sequence(value, vocabulary)
    if not isinstance(value, Mapping) or len(value) != 1 or not set(value) <= set(FORMS):
        found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise BadRow(Refused.BAD_ROW, f"exactly one of {', '.join(FORMS)} is needed, got {found}")
    (form,) = value
    content = value[form]
    if form == "ids":
        return _given_ids(content, vocabulary)
    if not isinstance(content, str):
        raise BadRow(Refused.BAD_ROW, f"{form} must be a string, got {type(content).__name__}")
    if form == "text":
        return _text_ids(content, vocabulary)
    return parse_sequence(content if form == "sequence" else f"[Speech]{content}", vocabulary)


def _given_ids(value: Any, vocabulary: Vocabulary) -> list[int]:
    if not isinstance(value, list) or not all(type(i) is int for i in value):
        raise BadRow(Refused.BAD_ROW, "ids must be a list of integers")
    if strange := [i for i in value if not 0 <= i < vocabulary.size]:
        raise BadRow(Refused.BAD_SEQUENCE, f"id {strange[0]} lies outside the vocabulary of {vocabulary.size}")
    return value


def _checked(sequences: dict[str, list[int]], context: int) -> dict[str, list[int]]:
    for ids in sequences.values():
        if len(ids) < 2:
            raise BadRow(Refused.TOO_SHORT, f"a sequence of {len(ids)} tokens: nothing follows the first")
        if len(ids) > context:
            raise BadRow(Refused.TOO_LONG, f"{len(ids)} tokens, the checkpoint takes {context}")
    return sequences


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
