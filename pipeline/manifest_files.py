"""The kinds of files that manifests come in, each as a stream of raw rows whose fields are not checked yet."""

import csv
import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline.manifest_tables import DamagedTable, parquet_rows
from schemas.path_errors import OF_THE_PATH
from schemas.rejects import one_line
from schemas.store_errors import is_away, is_unknown
from schemas.urls import public_url

MAX_LINE = 2**24
"""Bytes of a row, and characters of a field in a CSV: a transcript of 1 MB fits many times over."""
AUDIO_SUFFIXES = ("flac", "wav", "ogg", "mp3", "opus")
NUMBERS = (("offset", float), ("duration", float), ("channel", int))


class ManifestError(ValueError):
    """The manifest as a whole cannot be used; the message names the file and the fix."""


class RawRow(NamedTuple):
    """A row before its fields are checked: where it stands, and its fields or what is wrong with it."""

    where: str
    fields: dict[str, Any] | None
    problem: str = ""


def raw_rows(path: str) -> Iterator[RawRow]:
    """Return the rows of a manifest in order.

    Raises:
        ManifestError: if it is missing, damaged as a whole, or of an unknown kind; some only when rows are taken.
    """
    place = Path(path)
    if "://" not in path and place.is_dir():
        parts = sorted(str(part) for part in place.glob("*.parquet"))
        return _parquet_parts(parts) if parts else _librispeech_rows(place)
    readers: dict[str, Callable[[str], Iterator[RawRow]]] = {
        ".jsonl": _jsonl_rows,
        ".json": _jsonl_rows,
        ".csv": _table_rows,
        ".tsv": _table_rows,
        ".parquet": lambda one: _parquet_parts([one]),
    }
    suffix = _suffix(path)
    if suffix not in readers:
        raise ManifestError(
            f"{public_url(path)}: unknown kind of manifest; use .jsonl, .csv, .tsv, .parquet or a folder with "
            "*.parquet or *.trans.txt files"
        )
    return readers[suffix](path)


def _open(path: str) -> io.BufferedReader:
    """Open a local regular file or a URL; a fifo or device would never end."""
    if "://" in path:
        return _open_url(path)
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ManifestError(f"{path}: not a regular file; give --manifest a file or folder")
        return open(path, "rb")
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; give --manifest an existing file or folder") from None


def _open_url(path: str) -> io.BufferedReader:
    import fsspec

    try:
        return io.BufferedReader(fsspec.open(path, "rb").open(), 1 << 20)
    except Exception as error:
        if not (isinstance(error, OSError) or is_away(error) or is_unknown(error)):
            raise
        cause: BaseException = error
        # Whatever a web server says, the client finds no file.
        while cause.__cause__ is not None and not is_away(cause):
            cause = cause.__cause__
        status = getattr(cause, "status", 404 if isinstance(cause, FileNotFoundError) else None)
        told = f"cannot be reached ({type(cause).__name__})" if status is None else f"the server answers {status}"
        if status in (404, 410):
            told = "no such manifest; give --manifest an existing file or folder"
        raise ManifestError(f"{public_url(path)}: {told}") from None


def _suffix(path: str) -> str:
    """Return how a file's name ends; a web server's is told before its query."""
    return Path(path.partition("?")[0] if path.startswith(("http://", "https://")) else path).suffix.lower()


def _lines(path: str) -> Iterator[bytes]:
    """Yield lines with their ends; one longer than MAX_LINE comes as its first MAX_LINE + 1 bytes."""
    with _open(path) as file:
        while line := file.readline(MAX_LINE + 1):
            rest = line
            while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
                rest = file.readline(MAX_LINE + 1)
            yield line


def _jsonl_rows(path: str) -> Iterator[RawRow]:
    name = _name(path)
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        if len(line) > MAX_LINE:
            yield RawRow(where=where, fields=None, problem=f"a line of more than {MAX_LINE >> 20} MiB")
            continue
        try:
            value = json.loads(line.decode("utf-8-sig"))  # of bytes, json takes some lines of UTF-16 too
        except (ValueError, RecursionError):
            yield RawRow(where=where, fields=None, problem="not valid JSON")
            continue
        if not isinstance(value, dict):
            yield RawRow(where=where, fields=None, problem="not a JSON object")
            continue
        yield RawRow(where=where, fields=value)


def _table_rows(path: str) -> Iterator[RawRow]:
    separator = "\t" if _suffix(path) == ".tsv" else ","
    csv.field_size_limit(MAX_LINE)
    quoting: Literal[0, 3] = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(_text_lines(path), delimiter=separator, quoting=quoting, strict=True)
    try:
        yield from _checked_rows(path, reader)
    except csv.Error as error:
        raise ManifestError(f"{public_url(path)}: line {reader.line_num}: {error}; is a quote left open?") from None


def _text_lines(path: str) -> Iterator[str]:
    for number, line in enumerate(_lines(path), 1):
        if len(line) > MAX_LINE:
            told = f"line {number} has more than {MAX_LINE >> 20} MiB; is this a table?"
            raise ManifestError(f"{public_url(path)}: {told}")
        yield line.decode("utf-8", "replace").removeprefix("\ufeff")


def _checked_rows(path: str, reader: "csv.DictReader[str]") -> Iterator[RawRow]:
    name, header = _name(path), reader.fieldnames or []
    if missing := {"audio_filepath", "text"} - set(header):
        has = one_line(", ".join(header)) or "nothing"
        raise ManifestError(f"{public_url(path)}: the header lacks {', '.join(sorted(missing))}; it has {has}")
    if twice := sorted({column for column in header if column and header.count(column) > 1}):
        raise ManifestError(f"{public_url(path)}: the header has {one_line(', '.join(twice))} twice; rename one column")
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
    for name, kind in NUMBERS:
        if name in out:
            try:
                out[name] = kind(out[name])
            except ValueError:
                continue
    return out


def _parquet_parts(paths: list[str]) -> Iterator[RawRow]:
    for path in paths:
        name = _name(path)
        try:
            with _open(path) as file:
                for number, (fields, problem) in enumerate(parquet_rows(file), 1):
                    yield RawRow(where=f"{name}:row {number}", fields=fields, problem=problem)
        except DamagedTable as error:
            raise ManifestError(f"{public_url(path)}: {error}") from None


def _librispeech_rows(root: Path) -> Iterator[RawRow]:
    """Rows of a tree with `speaker-chapter.trans.txt` files beside `speaker-chapter-0000.flac`."""
    transcripts = sorted(path for path in root.rglob("*.trans.txt") if path.is_file())
    if not transcripts:
        raise ManifestError(
            f"{root}: no *.parquet file in it and no *.trans.txt below it; use these, or a .jsonl, .csv or .tsv file"
        )
    for transcript in transcripts:
        relative = transcript.parent.relative_to(root)
        for number, line in enumerate(_lines(str(transcript)), 1):
            if not line.strip():
                continue
            row_id, _, text = line.decode("utf-8", "replace").removesuffix("\n").partition(" ")
            stem = transcript.parent / row_id
            found = next((e for e in AUDIO_SUFFIXES if _exists(f"{stem}.{e}")), "flac")
            fields = {
                "audio_filepath": str(relative / f"{row_id}.{found}"),
                "text": text,
                "id": row_id,
                "recording": row_id.rpartition("-")[0] or row_id,
                "speaker": row_id.partition("-")[0],
            }
            where = f"{_name(transcript)}:{number}"
            if len(line) > MAX_LINE:
                yield RawRow(where=where, fields=None, problem=f"a line of more than {MAX_LINE >> 20} MiB")
                continue
            yield RawRow(where=where, fields=fields)


def _exists(path: str) -> bool:
    """Whether there is such a file; an error that is not of its name is raised, since a guess would be planned."""
    try:
        os.stat(path)
    except ValueError:
        return False
    except OSError as error:
        if error.errno not in OF_THE_PATH:
            raise
        return False
    return True


def _name(path: str | Path) -> str:
    """Return a file's name for a message: one line of valid Unicode."""
    return one_line(Path(public_url(str(path))).name.encode("utf-8", "replace").decode())
