"""Read manifests: JSON Lines, CSV / TSV with a header, or a LibriSpeech-style tree. One row in, one row out, always."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from schemas.canonical import sha256_hex
from schemas.clock import samples_from_seconds
from schemas.records import Utterance
from schemas.rejects import Reason, Reject

SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
MAX_SECONDS = 10_000_000.0
MAX_FIELD = 2**24


class ManifestError(ValueError):
    """The manifest as a whole cannot be used; the message names the file and the fix."""


class BadRow(ValueError):
    """One row cannot be used; the message names the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row before its fields are checked: where it stands, and its fields or what is wrong with it."""

    where: str
    fields: dict[str, Any] | None
    problem: str = ""


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
        ManifestError: if the file is missing, empty, of an unknown kind or has no usable row.
    """
    seen: set[str] = set()
    recordings = _Recordings()
    usable = 0
    base = manifest_base(path)
    for index, raw in enumerate(_raw_rows(path)):
        row = _row(raw, index, base)
        if isinstance(row, Utterance):
            if row.key in seen:
                detail = f"{raw.where}: id {row.id[:100]!r} was used by an earlier row"
                yield Reject(
                    key=reject_key(row.id, index), id=row.id, stage="plan", reason=Reason.DUPLICATE_ID, detail=detail
                )
                continue
            seen.add(row.key)
            usable += 1
            row = recordings.name(row)
        yield row
    if not usable:
        raise ManifestError(f"{path}: no usable row; each needs at least 'audio_filepath' and 'text'")


class _Recordings:
    """Names the recordings of rows that do not: consecutive rows of one file are one recording."""

    def __init__(self) -> None:
        self._names: set[str] = set()
        self._audio, self._name = "", ""

    def name(self, row: Utterance) -> Utterance:
        if row.recording:
            self._audio = ""
            return row
        if row.audio != self._audio:
            # A file that comes again later is another recording: its utterances are not known to follow those before.
            self._name = row.audio if row.audio not in self._names else f"{row.audio}#{row.index}"
            self._audio = row.audio
            self._names.add(row.audio)
        return replace(row, recording=self._name)


def manifest_base(path: str) -> str:
    """Return the folder that relative audio paths start from."""
    if "://" in path:
        return path.rsplit("/", 1)[0]
    found = Path(path)
    return str((found if found.is_dir() else found.parent).resolve())


def locate(audio: str, base: str) -> str:
    """Resolve an `audio_filepath` against the manifest's folder."""
    if "://" in audio or audio.startswith("/"):
        return audio
    return f"{base}/{audio}"


def _raw_rows(path: str) -> Iterator[RawRow]:
    if "://" not in path and Path(path).is_dir():
        return _librispeech_rows(Path(path))
    suffix = Path(path).suffix.lower()
    readers = {".jsonl": _jsonl_rows, ".json": _jsonl_rows, ".csv": _table_rows, ".tsv": _table_rows}
    if suffix not in readers:
        raise ManifestError(
            f"{path}: unknown kind of manifest; use .jsonl, .csv, .tsv or a folder with *.trans.txt files"
        )
    return readers[suffix](path)


def _lines(path: str) -> Iterator[bytes]:
    import fsspec

    try:
        with fsspec.open(path, "rb") as file:
            yield from file
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; give --manifest an existing file or folder") from None


def _jsonl_rows(path: str) -> Iterator[RawRow]:
    name = Path(path).name
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            yield RawRow(where=where, fields=None, problem="not valid JSON")
            continue
        if not isinstance(value, dict):
            yield RawRow(where=where, fields=None, problem="not a JSON object")
            continue
        yield RawRow(where=where, fields=value)


def _table_rows(path: str) -> Iterator[RawRow]:
    separator = "\t" if path.lower().endswith(".tsv") else ","
    lines = (line.decode("utf-8", "replace").removeprefix("\ufeff") for line in _lines(path))
    csv.field_size_limit(MAX_FIELD)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(lines, delimiter=separator, quoting=quoting, strict=True)
    try:
        yield from _checked_rows(path, reader)
    except csv.Error as error:
        raise ManifestError(f"{path}: line {reader.line_num}: {error}; is a quote left open?") from None


def _checked_rows(path: str, reader: "csv.DictReader[str]") -> Iterator[RawRow]:
    name, header = Path(path).name, reader.fieldnames or []
    if missing := {"audio_filepath", "text"} - set(header):
        raise ManifestError(
            f"{path}: the header lacks {', '.join(sorted(missing))}; it has {', '.join(header) or 'nothing'}"
        )
    for row in reader:
        where = f"{name}:{reader.line_num}"
        if None in row or None in row.values():
            yield RawRow(where=where, fields=None, problem=f"{len(header)} columns expected")
            continue
        fields: dict[str, Any] = {k: v for k, v in row.items() if v != "" or k in ("text", "audio_filepath")}
        yield RawRow(where=where, fields=_numbers(fields))


def _numbers(fields: dict[str, Any]) -> dict[str, Any]:
    """Turn a table's numeric columns into numbers where they are; what is not stays text and fails the row's check."""
    out = dict(fields)
    for name, kind in (("offset", float), ("duration", float), ("channel", int)):
        if name in out:
            try:
                out[name] = kind(out[name])
            except ValueError:
                continue
    return out


def _librispeech_rows(root: Path) -> Iterator[RawRow]:
    """Rows of a tree with `speaker-chapter.trans.txt` files beside `speaker-chapter-0000.flac`."""
    transcripts = sorted(path for path in root.rglob("*.trans.txt") if path.is_file())
    if not transcripts:
        raise ManifestError(f"{root}: no *.trans.txt file below it; a folder must be a LibriSpeech-style tree")
    for transcript in transcripts:
        for number, line in enumerate(transcript.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            if not line.strip():
                continue
            row_id, _, text = line.partition(" ")
            relative = transcript.parent.relative_to(root)
            found = next(
                (e for e in ("flac", "wav", "ogg", "mp3", "opus") if (transcript.parent / f"{row_id}.{e}").exists()),
                "flac",
            )
            fields = {
                "audio_filepath": str(relative / f"{row_id}.{found}"),
                "text": text,
                "id": row_id,
                "recording": row_id.rpartition("-")[0] or row_id,
                "speaker": row_id.partition("-")[0],
            }
            yield RawRow(where=f"{_printable(transcript.name)}:{number}", fields=fields)


def _printable(name: str) -> str:
    """Return a file name with what is not valid Unicode replaced."""
    return name.encode("utf-8", "replace").decode()


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
    offset, duration = _seconds(fields, "offset"), _seconds(fields, "duration")
    channel = fields.get("channel")
    if channel is not None and (isinstance(channel, bool) or not isinstance(channel, int) or not 0 <= channel < 1024):
        raise BadRow("'channel' must be a small whole number, counted from 0")
    start = samples_from_seconds(offset or 0.0)
    place = f"@{start}" if start else ""
    row_id = _text(fields, "id") or audio + place + ("" if channel is None else f"#{channel}")
    return Utterance(
        key=record_key(row_id),
        id=row_id,
        audio=audio,
        location=locate(audio, base),
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
