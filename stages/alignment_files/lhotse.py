"""Lhotse's supervisions and cuts, one JSON object a line, with word alignments.

Facts from `lhotse/supervision.py`: `alignment` maps a kind such as `word` to items [symbol, start, duration, score], or
to objects with these fields (before version 1.8). Times count from the start of the recording, in cuts too since pull
request 1193 (2023); earlier cuts counted from the cut's start, and some tools count from the supervision's. Where the
words lie in their supervision tells which it is.
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
    shown,
    timed_word,
)

_FIELDS = ("symbol", "start", "duration", "score")
_SLACK = 0.1
"""Seconds by which words may reach beyond their supervision."""


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
        BadAlignment: if a line is damaged, has alignments but none of words, or words outside their supervision.
    """
    words: list[ImportedWord] = []
    for number, line in lines:
        value = json_object(decode_json(line, file, number), file, number)
        for names, cut_start, supervision in _supervisions(value, file, number):
            if key in names and supervision.get("alignment") is not None:
                words += _words(supervision, cut_start, tier, file, number)
    return Entry(file=file, words=tuple(words), on_recording=True)


def _supervisions(value: dict[str, Any], file: str, number: int) -> Iterator[tuple[list[str], float, dict[str, Any]]]:
    """Yield (ids, start of the cut in seconds, supervision)."""
    if "supervisions" not in value:
        yield _ids(value.get("id"), value.get("recording_id")), 0.0, value
        return
    if "tracks" in value:
        raise BadAlignment(file, number, "a mixed cut has no time of its own; give the supervisions")
    start = checked_seconds(value.get("start", 0.0), file, number)
    for item in json_list(value["supervisions"], file, number):
        supervision = json_object(item, file, number)
        yield _ids(supervision.get("id"), supervision.get("recording_id"), value.get("id")), start, supervision


def _ids(*values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str) and value]


def _words(supervision: dict[str, Any], cut_start: float, tier: str, file: str, number: int) -> list[ImportedWord]:
    kinds = json_object(supervision["alignment"], file, number)
    kind = next((kind for kind in (tier, "word", "words") if kind in kinds), None)
    if kind is None:
        found = ", ".join(shown(name) for name in sorted(kinds)[:5])
        raise BadAlignment(file, number, f"no alignment of kind 'word', there are: {found or 'none'}")
    items = [_item(item, file, number) for item in json_list(kinds[kind], file, number)]
    shift = _shift(items, supervision, cut_start, file, number)
    lane = supervision.get("speaker")
    words = []
    for text, start, duration, score in items:
        at = max(0.0, round(start + shift, 8))
        word = timed_word(text, at, round(at + duration, 8), score, lane, file=file, line=number)
        words += [word] if word.text.strip() else []
    return words


def _item(item: Any, file: str, number: int) -> tuple[Any, float, float, Any]:
    values = [item.get(name) for name in _FIELDS] if isinstance(item, dict) else json_list(item, file, number)
    if not 3 <= len(values) <= 4:
        raise BadAlignment(file, number, "an alignment item must be [symbol, start, duration, score]")
    symbol, begin, duration = values[:3]
    start = _signed(begin, file, number)
    return symbol, start, checked_seconds(duration, file, number), values[3] if len(values) == 4 else None


def _signed(value: Any, file: str, number: int) -> float:
    """Return a time that may be negative: a cut may begin inside a word or a supervision."""
    if isinstance(value, int | float) and value < 0:
        return -checked_seconds(-value, file, number)
    return checked_seconds(value, file, number)


def _shift(
    items: list[tuple[Any, float, float, Any]], supervision: dict[str, Any], cut_start: float, file: str, number: int
) -> float:
    """Return what to add to the items' times to get times on the recording, in seconds."""
    begin, duration = supervision.get("start"), supervision.get("duration")
    if not items or begin is None or duration is None:
        return 0.0
    begin = _signed(begin, file, number) + cut_start
    end = begin + checked_seconds(duration, file, number)
    first, last = min(item[1] for item in items), max(item[1] + item[2] for item in items)
    for shift in (0.0, cut_start, begin):
        if begin - _SLACK <= first + shift and last + shift <= end + _SLACK:
            return shift
    raise BadAlignment(
        file, number, f"words from {first:.2f} s to {last:.2f} s are not of a supervision at {begin:.2f} s"
    )
