"""Read manifests: JSON Lines, CSV / TSV with a header, Parquet, or a LibriSpeech-style tree. One row in, one row out.

Rows are streamed; `pipeline/manifest_files.py` reads the kinds of files, this module checks what they hold.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.distinct import Distinct
from pipeline.manifest_files import ManifestError, RawRow, raw_rows
from schemas.canonical import sha256_hex
from schemas.clock import samples_from_seconds
from schemas.records import Utterance
from schemas.rejects import Reason, Reject
from schemas.urls import public_url
from stages.audio_sources import scheme_of

__all__ = ["SAFE_ID", "ManifestError", "locate", "manifest_base", "read_manifest", "record_key", "reject_key"]

SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
MAX_SECONDS = 10_000_000.0


class BadRow(ValueError):
    """One row cannot be used; the message names the field."""


def record_key(row_id: str) -> str:
    """Return the record key of an id: the id where it is safe, else a cleaned prefix and 12 digits of its sha256.

    Keys hold no dot and no slash (WebDataset ends a key at the first dot).
    """
    if SAFE_ID.fullmatch(row_id):
        return row_id
    cleaned = re.sub(r"[^A-Za-z0-9_-]+", "_", row_id)[:60].strip("_") or "id"
    return f"{cleaned}-{sha256_hex(row_id.encode('utf-8', 'surrogatepass'))[:12]}"


def reject_key(row_id: str, index: int) -> str:
    """Return the key of a row that the plan rejects; the tilde keeps it apart from every record's key."""
    return f"{record_key(row_id)}~{index}"


def read_manifest(path: str) -> Iterator[Utterance | Reject]:
    """Yield one utterance or one reject for every row, in order. Duplicate ids are rejected from the second on.

    Raises:
        ManifestError: if the file is missing, empty, damaged, of an unknown kind or has no usable row, or if it names
            audio in a store that no installed package reads.
    """
    seen = Distinct()
    schemes = {""}
    recordings = _Recordings(seen)
    usable = 0
    base = manifest_base(path)
    for index, raw in enumerate(raw_rows(path)):
        row = _row(raw, index, base)
        if isinstance(row, Utterance):
            _require_package(scheme_of(row.location), schemes, raw.where)
            if not seen.add(row.key):
                detail = f"{raw.where}: id {row.id[:100]!r} was used by an earlier row"
                yield Reject(
                    key=reject_key(row.id, index), id=row.id, stage="plan", reason=Reason.DUPLICATE_ID, detail=detail
                )
                continue
            usable += 1
            row = recordings.name(row)
        yield row
    if not usable:
        raise ManifestError(f"{public_url(path)}: no usable row; each needs at least 'audio_filepath' and 'text'")


class _Recordings:
    """Names the recordings of rows that do not: consecutive rows of one file are one recording.

    Names and keys are remembered together, in the memory of one; a slash, which no key has, keeps them apart.
    """

    def __init__(self, seen: Distinct) -> None:
        self._seen = seen
        self._audio, self._name = "", ""

    def name(self, row: Utterance) -> Utterance:
        if row.recording:
            self._audio = ""
            return row
        audio = public_url(row.audio)
        if audio != self._audio:
            # A file that comes again later is another recording: its utterances are not known to follow those before.
            self._audio = self._name = audio
            if not self._seen.add(f"/{self._name}"):
                self._name = f"{audio}#{row.index}"
                while not self._seen.add(f"/{self._name}"):  # a file may be called so too
                    self._name += "#"
        return replace(row, recording=self._name)


def manifest_base(path: str) -> str:
    """Return the folder that relative audio paths start from."""
    if "://" in path:
        return path.rsplit("/", 1)[0]
    found = Path(path)
    return str((found if found.is_dir() else found.parent).resolve())


def locate(audio: str, base: str) -> str:
    """Resolve an `audio_filepath` against the manifest's folder; `file:///x` is the path `/x`."""
    audio = audio.removeprefix("file://")
    if "://" in audio or audio.startswith("/"):
        return audio
    return f"{base}/{audio}"


def _require_package(scheme: str, known: set[str], where: str) -> None:
    """Raise ManifestError unless a package for this kind of store is installed; asked once for each."""
    if scheme in known:
        return
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except (ImportError, ValueError) as error:
        raise ManifestError(f"{where}: nothing installed reads {scheme}://; {' '.join(str(error).split())}") from None
    known.add(scheme)


def _row(raw: RawRow, index: int, base: str) -> Utterance | Reject:
    fields = raw.fields or {}
    given = fields.get("id")
    fallback_id = given if isinstance(given, str) and given else f"row-{index}"
    try:
        if raw.fields is None:
            raise BadRow(raw.problem)
        return _utterance(fields, index, base)
    except BadRow as bad:
        key = reject_key(fallback_id, index)
        return Reject(key=key, id=fallback_id, stage="plan", reason=Reason.BAD_ROW, detail=f"{raw.where}: {bad}")


def _utterance(fields: dict[str, Any], index: int, base: str) -> Utterance:
    audio = _text(fields, "audio_filepath")
    if not audio:
        raise BadRow("'audio_filepath' is missing or empty")
    if "\0" in audio:
        raise BadRow("'audio_filepath' holds a NUL character")
    location = locate(audio, base)
    try:
        scheme_of(location)
    except ValueError as error:
        raise BadRow(f"'audio_filepath' {error}") from None
    offset, duration = _seconds(fields, "offset"), _seconds(fields, "duration")
    channel = fields.get("channel")
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or not 0 <= channel < 1024):
        raise BadRow("'channel' must be a small whole number, counted from 0")
    start = samples_from_seconds(offset or 0.0)
    place = f"@{start}" if start else ""
    row_id = _text(fields, "id") or public_url(audio) + place + ("" if channel is None else f"#{channel}")
    return Utterance(
        key=record_key(row_id),
        id=row_id,
        audio=audio,
        location=location,
        text=_text(fields, "text"),
        recording=_text(fields, "recording"),
        index=index,
        offset=start,
        length=None if duration is None else samples_from_seconds(duration),
        channel=channel,
        speaker=_text(fields, "speaker"),
        language=_text(fields, "language"),
        license=_text(fields, "license"),
        source=_text(fields, "source"),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if type(value) is str and value.isascii():  # nearly all; the rest takes twice as long
        return value
    if isinstance(value, int) and not isinstance(value, bool) and name in ("id", "speaker", "recording"):
        return str(value)
    if not isinstance(value, str):
        raise BadRow(f"'{name}' must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"'{name}' is not valid Unicode") from None
    return value


def _seconds(fields: dict[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise BadRow(f"'{name}' must be a number of seconds")
    if isinstance(value, int) and abs(value) > MAX_SECONDS:  # it may be too large for a float
        raise BadRow(f"'{name}' must lie between 0 and {MAX_SECONDS:.0f} seconds")
    if not 0 <= value <= MAX_SECONDS:
        raise BadRow(f"'{name}' must lie between 0 and {MAX_SECONDS:.0f} seconds, got {value:g}")
    return float(value)
