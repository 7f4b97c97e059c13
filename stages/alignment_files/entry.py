"""What every reader of alignment files gives: words with times in seconds, or one kind of error."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MAX_FILE = 32 << 20
"""Bytes of a file that is read whole: ten hours of words as JSON take 12 MB."""
MAX_SECONDS = 1e7
"""A later time is a damaged file: it is 115 days."""

_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_SLACK = 1e-3


class BadAlignment(ValueError):
    """An alignment file is missing, damaged or of another kind; the message names the file and, if known, the line."""

    def __init__(self, file: str, line: int | None, why: str) -> None:
        super().__init__(f"{printable(file)}{'' if line is None else f', line {line}'}: {why}")


class ImportedWord(NamedTuple):
    """A word of an alignment file.

    Attributes:
        text: as the file spells it.
        start: seconds, finite and not negative; None, with `end`, where the file gives no time.
        end: seconds, not before `start`.
        confidence: what the file gives, normally a probability, or None.
        lane: the speaker, or the channel in a CTM; "" where the file tells none.
    """

    text: str
    start: float | None
    end: float | None
    confidence: float | None = None
    lane: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What one key of an index holds.

    Attributes:
        file: the file, for messages: relative to the folder that was given.
        words: in the order of the file; silences are left out where the format marks them by an empty label.
        seconds: length of the audio that the file states, or None.
        rounding: the step in seconds that times of this file were rounded to, at least 0.001.
        lanes: what `ImportedWord.lane` names, "speaker" or "channel".
        on_recording: True where the times count from the start of the recording whatever the key was.
        has_probabilities: False where a confidence lies outside [0, 1] or there is none: scores of another meaning.
    """

    file: str
    words: tuple[ImportedWord, ...]
    seconds: float | None = None
    rounding: float = 1e-3
    lanes: str = "speaker"
    on_recording: bool = False
    has_probabilities: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "file", printable(self.file))
        known = [word.confidence for word in self.words if word.confidence is not None]
        object.__setattr__(self, "has_probabilities", bool(known) and all(0 <= value <= 1 for value in known))


def printable(text: str) -> str:
    """Return a file name or id on one line of valid Unicode."""
    return " ".join(text.encode("utf-8", "replace").decode().split())[:200]


def shown(value: object) -> str:
    """Return a value from a file as a message quotes it: escaped and short."""
    return repr(value[:40] if isinstance(value, str | bytes) else type(value).__name__)


def parse_number(text: str, file: str, line: int | None) -> float:
    """Read a decimal number of seconds; float() would also take `nan`, `1_0` and digits of other scripts.

    Raises:
        BadAlignment: if it is none, negative or too large.
    """
    if not _NUMBER.fullmatch(text):
        raise BadAlignment(file, line, f"{shown(text)} is no number of seconds")
    return checked_seconds(float(text), file, line)


def checked_seconds(value: Any, file: str, line: int | None) -> float:
    """Return a time from JSON or text; one that a rounding error made negative becomes 0.

    Raises:
        BadAlignment: if it is no number, negative, or later than MAX_SECONDS.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadAlignment(file, line, f"a time must be a number of seconds, found {shown(value)}")
    if not -_SLACK <= value <= MAX_SECONDS:
        raise BadAlignment(file, line, f"a time must lie between 0 and {MAX_SECONDS:.0f} s")
    return max(0.0, float(value))


def timed_word(
    text: Any, start: Any, end: Any, confidence: Any, lane: Any, *, file: str, line: int | None
) -> ImportedWord:
    """Return a word from the values of a JSON file; without both times it has none, and NaN is no confidence.

    Raises:
        BadAlignment: if a value has another type, or the times descend.
    """
    if not isinstance(text, str):
        raise BadAlignment(file, line, f"a word must be text, found {shown(text)}")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float | None):
        raise BadAlignment(file, line, f"the confidence of {shown(text)} must be a number")
    score = float(confidence) if confidence is not None and -1e9 <= confidence <= 1e9 else None
    whose = lane if isinstance(lane, str) else ""
    if start is None or end is None:
        return ImportedWord(text, None, None, score, whose)
    first, last = checked_seconds(start, file, line), checked_seconds(end, file, line)
    if last < first:
        raise BadAlignment(file, line, f"{shown(text)} ends before it starts")
    return ImportedWord(text, first, last, score, whose)


def decode_text(data: bytes, file: str, line: int | None = None) -> str:
    """Decode UTF-8, or UTF-16 with a byte order mark.

    Raises:
        BadAlignment: if it is neither.
    """
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1 if line is None else line
        raise BadAlignment(file, at, "neither UTF-8 nor UTF-16") from None


def decode_json(data: bytes, file: str, line: int | None = None) -> Any:
    """Decode JSON; NaN and infinities, which Whisper's tools write, are told where they stand for a time.

    Raises:
        BadAlignment: if it is no JSON, or nested too deeply.
    """
    text = decode_text(data, file, line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadAlignment(file, line or error.lineno, "no JSON") from None
    except (ValueError, RecursionError):  # a number of 5,000 digits, nesting
        raise BadAlignment(file, line, "no JSON that can be read") from None


def json_object(value: Any, file: str, line: int | None = None) -> dict[str, Any]:
    """Return a JSON object. Raises BadAlignment if it is none."""
    if not isinstance(value, dict):
        raise BadAlignment(file, line, f"a JSON object is expected, found {shown(value)}")
    return value


def json_list(value: Any, file: str, line: int | None = None) -> list[Any]:
    """Return a JSON list; null is an empty one. Raises BadAlignment if it is none."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise BadAlignment(file, line, f"a JSON list is expected, found {shown(value)}")
    return value
