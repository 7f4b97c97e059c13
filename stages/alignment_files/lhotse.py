"""Lhotse's supervisions and cuts, one JSON object a line, with word alignments.

Facts from `lhotse/supervision.py`: `alignment` maps a kind such as `word` to items [symbol, start, duration, score], or
to objects with these fields (before version 1.8). Times count from the start of the recording; inside a
cut, all times of a supervision count from the start of the cut.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from stages.alignment_files.entry import (
    BadAlignment,
    Entry,
    ImportedWord,
    checked_seconds,
    decode_json,
    json_list,
    json_object,
    timed_word,
)

_FIELDS = ("symbol", "start", "duration", "score")


def lhotse_keys(line: bytes, file: str, number: int) -> tuple[str, ...]:
    """Return the ids that a line can be looked up by: of supervisions with words, their recordings, and the cut."""
    if not line.strip():
        return ()
    value = json_object(decode_json(line, file, number), file, number)
    found: dict[str, None] = {}
    for names, _, supervision in _supervisions(value, file, number):
        if isinstance(supervision.get("alignment"), dict):
            found.update(dict.fromkeys(names))
    return tuple(found)


def read_lhotse(file: str, lines: Iterable[tuple[int, bytes]], key: str, tier: str) -> Entry:
    """Read the words of the supervisions that have this id, or are of this cut or recording; `lane` is the speaker.

    Raises:
        BadAlignment: if a line is damaged, or has alignments but none of words.
    """
    words: list[ImportedWord] = []
    for number, line in lines:
        value = json_object(decode_json(line, file, number), file, number)
        for names, shift, supervision in _supervisions(value, file, number):
            if key in names and supervision.get("alignment") is not None:
                words += _words(supervision, shift, tier, file, number)
    return Entry(file=file, words=tuple(words), on_recording=True)


def _supervisions(value: dict[str, Any], file: str, number: int) -> Iterator[tuple[list[str], float, dict[str, Any]]]:
    """Yield (ids, what to add to its times in seconds, supervision)."""
    if "supervisions" not in value:
        yield _ids(value.get("id"), value.get("recording_id")), 0.0, value
        return
    if "tracks" in value:
        raise BadAlignment(file, number, "a mixed cut has no time of its own; give the supervisions")
    shift = checked_seconds(value.get("start", 0.0), file, number)
    for item in json_list(value["supervisions"], file, number):
        supervision = json_object(item, file, number)
        yield _ids(supervision.get("id"), supervision.get("recording_id"), value.get("id")), shift, supervision


def _ids(*values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str) and value]


def _words(supervision: dict[str, Any], shift: float, tier: str, file: str, number: int) -> Iterator[ImportedWord]:
    kinds = json_object(supervision["alignment"], file, number)
    kind = next((kind for kind in (tier, "word", "words") if kind in kinds), None)
    if kind is None:
        raise BadAlignment(file, number, f"no alignment of kind 'word', there are {sorted(kinds)[:5]}")
    for item in json_list(kinds[kind], file, number):
        values = [item.get(name) for name in _FIELDS] if isinstance(item, dict) else json_list(item, file, number)
        if not 3 <= len(values) <= 4:
            raise BadAlignment(file, number, "an alignment item must be [symbol, start, duration, score]")
        text, begin, duration = values[:3]
        # A cut may begin inside a word, whose time is then negative in the cut, and not on the recording.
        start = checked_seconds(_plus(begin, shift), file, number)
        end = _plus(checked_seconds(duration, file, number), start)
        lane = supervision.get("speaker")
        yield timed_word(text, start, end, values[3] if len(values) == 4 else None, lane, file=file, line=number)


def _plus(value: Any, shift: float) -> Any:
    """Add, rounded as Lhotse rounds; what is no number is left for the check."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e9 < value < 1e9:
        return value
    return round(value + shift, 8)
