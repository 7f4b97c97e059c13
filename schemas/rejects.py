"""Why an input did not become a record: a closed list of reasons, and the reject that carries one."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from schemas.records import Utterance
from schemas.urls import public_url

MOST_SHOWN = 200


def one_line(text: str) -> str:
    """Return a name as a message shows it: whole if it is short and plain, else cut and with `?` for what is neither
    a letter nor a sign (line ends, controls, marks that turn the direction of writing).
    """
    shown = text if len(text) <= MOST_SHOWN else text[: MOST_SHOWN - 3] + "..."
    return shown if shown.isprintable() else "".join(c if c.isprintable() else "?" for c in shown)


class Reason(StrEnum):
    """The closed list; `docs/rejects.md` says what to do about each."""

    BAD_ROW = "bad_row"
    """The manifest row cannot be read or a field has the wrong type."""
    DUPLICATE_ID = "duplicate_id"
    MISSING_AUDIO = "missing_audio"
    UNREADABLE_AUDIO = "unreadable_audio"
    """The file is there and no decoder can read it, or it breaks off."""
    EMPTY_AUDIO = "empty_audio"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    NOT_FINITE = "not_finite"
    """Samples are NaN or infinite."""
    CLIPPED = "clipped"
    SILENT = "silent"
    EMPTY_TEXT = "empty_text"
    NO_WORDS = "no_words"
    """Nothing in the text can be spoken: punctuation only."""
    UNSUPPORTED_SCRIPT = "unsupported_script"
    """The aligner's language has no letters of this script."""
    TOO_MANY_WORDS = "too_many_words"
    """More words than can be spoken in the time."""
    NO_ALIGNMENT = "no_alignment"
    """The aligner finds no path through the audio."""
    WRONG_TRANSCRIPT = "wrong_transcript"
    """A path exists, but its score says that the text is not what is spoken."""
    DOUBTFUL_WORDS = "doubtful_words"
    """Too large a share of the words has a doubtful score."""
    UNIT_COUNT = "unit_count"
    """An extractor gave another number of frames than the clip's length asks for."""
    UNEXPECTED = "unexpected"
    """A stage raised; the detail names the exception class."""
    CRASHED = "crashed"
    """The record killed, hung or starved its worker more often than allowed."""
    REMOVED = "removed"
    """Taken down by `interloom remove`; the reject names a hash, not the id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """An input that ended without a record.

    Attributes:
        key: the record key of the input.
        id: its id in the manifest.
        stage: the name of the stage that rejected it, or `plan`.
        reason: from the closed list.
        detail: one line for a person that names the file. A pure function of the input: no time, no pid,
            no free text of an exception, because rejects must be byte-identical on every engine.
    """

    key: str
    id: str
    stage: str
    reason: Reason
    detail: str

    @classmethod
    def of(cls, utterance: Utterance, stage: str, reason: Reason, detail: str) -> Self:
        """Reject an utterance; the detail is prefixed with the name of its file, without credentials."""
        name = one_line(public_url(utterance.audio))
        return cls(key=utterance.key, id=utterance.id, stage=stage, reason=reason, detail=f"{name}: {detail}")

    def to_json(self) -> dict[str, str]:
        """Return the line of a `rejects-*.jsonl` file."""
        return {
            "detail": self.detail,
            "id": self.id,
            "key": self.key,
            "reason": self.reason.value,
            "stage": self.stage,
        }
