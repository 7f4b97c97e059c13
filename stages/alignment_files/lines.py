"""Files with a line or more per recording: one pass over them finds the offsets of each key's lines."""

import gzip
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from stages.alignment_files.ctm import ctm_keys, read_ctm
from stages.alignment_files.entry import MAX_FILE, BadAlignment, Entry
from stages.alignment_files.lhotse import lhotse_keys, read_lhotse
from stages.alignment_files.librispeech import librispeech_keys, read_librispeech

MAX_LINE = 16 << 20
"""Bytes of a line: a cut of ten hours with its words takes 5 MB."""
MAX_KEY = 1000
MAX_UNPACKED = 32 << 30
"""Bytes that compressed files may unpack to, in a temporary file."""
_BLOCK = 1 << 20

_KEYS: dict[str, Callable[[bytes, str, int], tuple[str, ...]]] = {
    "ctm": ctm_keys,
    "librispeech": librispeech_keys,
    "lhotse": lhotse_keys,
}
LINE_FORMATS = frozenset(_KEYS)


class Span(NamedTuple):
    """Lines of a file: bytes [start, end), of which the first is line `line`, counted from 1."""

    file: int
    start: int
    end: int
    line: int


class LineFiles:
    """The files of a source in one of LINE_FORMATS; compressed ones are unpacked into one temporary file."""

    def __init__(self, root: Path, files: tuple[str, ...], kind: str) -> None:
        self._root = root
        self._files = files
        self._kind = kind
        self._unpacked: IO[bytes] | None = None

    def scan(self, file: int) -> Iterator[tuple[tuple[str, ...], Span] | BadAlignment]:
        """Yield runs of lines with their keys, and what is wrong with lines whose keys cannot be told.

        Raises:
            BadAlignment: if a compressed file is damaged or unpacks to too much.
        """
        name = self._files[file]
        if not _is_packed(name):
            with open(self._root / name, "rb") as handle:
                yield from self._scan(handle, file)
            return
        self._unpacked = self._unpacked or tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
        start = self._unpacked.seek(0, 2)
        _unpack(self._root / name, name, self._unpacked)
        self._unpacked.seek(start)
        yield from self._scan(self._unpacked, file)

    def read(self, spans: list[Span], key: str, tier: str) -> Entry:
        """Parse the lines of a key.

        Raises:
            BadAlignment: if they are damaged, too many, or lie in several files.
        """
        name = self._files[spans[0].file]
        if other := next((span for span in spans if span.file != spans[0].file), None):
            raise BadAlignment(name, spans[0].line, f"the same id is in {self._files[other.file]!r} too")
        if sum(span.end - span.start for span in spans) > MAX_FILE:
            raise BadAlignment(name, spans[0].line, f"more than {MAX_FILE >> 20} MiB for one id")
        lines = self._lines(spans)
        if self._kind == "ctm":
            return read_ctm(name, lines)
        return read_librispeech(name, lines) if self._kind == "librispeech" else read_lhotse(name, lines, key, tier)

    def _scan(self, handle: IO[bytes], file: int) -> Iterator[tuple[tuple[str, ...], Span] | BadAlignment]:
        keys: tuple[str, ...] = ()
        same = b""
        start, number = handle.tell(), 0
        begin, first = start, 1
        while line := handle.readline(MAX_LINE + 1):
            number += 1
            if same and line.startswith(same) and len(line) <= MAX_LINE:  # most lines of a CTM
                start += len(line)
                continue
            if keys:
                yield keys, Span(file, begin, start, first)
            begin, first = start, number
            start += len(line)
            keys, same = (), b""
            found = self._keys_of(line, self._files[file], number)
            if isinstance(found, BadAlignment):
                yield found
                start = _skip_line(handle, start, line)
                continue
            keys = found
            if keys and self._kind == "ctm":
                same = line.split(None, 1)[0] + b" "
        if keys:
            yield keys, Span(file, begin, start, first)

    def _keys_of(self, line: bytes, name: str, number: int) -> tuple[str, ...] | BadAlignment:
        if len(line) > MAX_LINE:
            return BadAlignment(name, number, f"longer than {MAX_LINE >> 20} MiB")
        try:
            keys = _KEYS[self._kind](line, name, number)
        except BadAlignment as bad:
            return bad
        if any(len(key) > MAX_KEY for key in keys):
            return BadAlignment(name, number, f"an id is longer than {MAX_KEY} characters")
        return keys

    def _lines(self, spans: list[Span]) -> Iterator[tuple[int, bytes]]:
        name = self._files[spans[0].file]
        if self._unpacked is not None and _is_packed(name):
            yield from _cut(self._unpacked, spans)
            return
        with open(self._root / name, "rb") as handle:
            yield from _cut(handle, spans)


def _is_packed(name: str) -> bool:
    return name.lower().endswith(".gz")


def _cut(handle: IO[bytes], spans: list[Span]) -> Iterator[tuple[int, bytes]]:
    for span in spans:
        handle.seek(span.start)
        text = handle.read(span.end - span.start)
        yield from enumerate(text.removesuffix(b"\n").split(b"\n"), span.line)


def _skip_line(handle: IO[bytes], end: int, part: bytes) -> int:
    """Read up to the end of a line of which a part was read; returns the offset after it."""
    while part and not part.endswith(b"\n"):
        part = handle.readline(_BLOCK)
        end += len(part)
    return end


def _unpack(path: Path, name: str, to: IO[bytes]) -> None:
    try:
        with gzip.open(path, "rb") as packed:
            while block := packed.read(_BLOCK):
                to.write(block)
                if to.tell() > MAX_UNPACKED:
                    raise BadAlignment(name, None, f"compressed files unpack to more than {MAX_UNPACKED >> 30} GiB")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise BadAlignment(name, None, "a damaged .gz file") from None
