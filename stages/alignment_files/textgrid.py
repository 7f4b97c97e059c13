"""Praat's TextGrid, long and short, and the CSV and JSON that the Montreal Forced Aligner writes in its place.

Praat reads a text file as a series of free-standing numbers, strings in double quotes (a doubled quote stands for one)
and flags such as <exists>; all else is comment (Praat manual, "TextGrid file formats"). One reader serves both forms.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from stages.alignment_files.entry import (
    BadAlignment,
    Entry,
    ImportedWord,
    checked_seconds,
    decode_json,
    decode_text,
    json_list,
    json_object,
    parse_number,
    shown,
    timed_word,
)

_TOKEN = re.compile(r'"([^"]*(?:""[^"]*)*)("?)|!.*|[^\s"!][^\s"]*')
_NUMBER = re.compile(r"[+-]?\.?\d.*", re.ASCII | re.DOTALL)
_FLAG = re.compile(r"<[A-Za-z]+>")
_MOST_FIELD = 131_072
"""Characters, csv's own limit; it holds for the whole process, and who reads a manifest raises it."""
_CSV_HEADER = ["Begin", "End", "Label", "Type", "Speaker"]


class _Token(NamedTuple):
    kind: str
    """`string`, `number` or `flag`."""
    text: str
    line: int


def read_textgrid(file: str, data: bytes, tier: str) -> Entry:
    """Read the interval tiers called `tier`, or `speaker - tier`, where `lane` is the speaker.

    Raises:
        BadAlignment: if it is no TextGrid, or has no such tier.
    """
    tokens = _Tokens(file, decode_text(data, file))
    if not tokens.take("string").text.startswith("ooTextFile") or tokens.take("string").text != "TextGrid":
        raise BadAlignment(file, 1, "no TextGrid in Praat's long or short text format")
    tokens.seconds()
    length, flag = tokens.seconds(), tokens.take("flag")
    count = tokens.count() if flag.text == "<exists>" else 0
    tiers: dict[str, list[ImportedWord]] = {}
    others: list[str] = []
    for _ in range(count):
        kind, name = tokens.take("string").text, tokens.take("string").text
        words = _intervals(tokens) if kind == "IntervalTier" else _points(tokens)
        lane = _lane(name, tier)
        if lane is None or kind != "IntervalTier":
            others.append(name)
        elif lane in tiers:
            raise BadAlignment(file, None, f"two tiers are called {shown(name)}")
        else:
            tiers[lane] = [ImportedWord(w.text, w.start, w.end, None, lane) for w in words if w.text.strip()]
    return _joined(file, tiers, others, tier, length)


def read_mfa_csv(file: str, data: bytes, tier: str) -> Entry:
    """Read `Begin,End,Label,Type,Speaker` rows whose type is `tier`; `lane` is the speaker.

    Raises:
        BadAlignment: if it is another table.
    """
    reader = csv.reader(io.StringIO(decode_text(data, file), newline=""), strict=True)
    words = []
    try:
        if next(reader, None) != _CSV_HEADER:
            raise BadAlignment(file, 1, f"the header must be {','.join(_CSV_HEADER)}")
        for row in filter(None, reader):
            if max(map(len, row)) > _MOST_FIELD:
                raise csv.Error
            if len(row) != len(_CSV_HEADER):
                raise BadAlignment(file, reader.line_num, f"{len(_CSV_HEADER)} columns are expected, found {len(row)}")
            start, end = (parse_number(text, file, reader.line_num) for text in row[:2])
            if row[3] == tier and row[2].strip():
                words.append(timed_word(row[2], start, end, None, row[4], file=file, line=reader.line_num))
    except csv.Error:
        raise BadAlignment(file, reader.line_num, "no CSV; is a quote left open?") from None
    return Entry(file=file, words=tuple(words))


def looks_like_mfa(value: Any) -> bool:
    """True for a JSON value with tiers."""
    return isinstance(value, dict) and isinstance(value.get("tiers"), dict)


def read_mfa_json(file: str, data: bytes, tier: str) -> Entry:
    """Read `{"end": seconds, "tiers": {name: {"entries": [[start, end, label]]}}}`.

    Raises:
        BadAlignment: if it is another JSON file, or has no such tier.
    """
    value = json_object(decode_json(data, file), file)
    if not looks_like_mfa(value):
        raise BadAlignment(file, None, "no 'tiers' in it")
    length = None if value.get("end") is None else checked_seconds(value["end"], file, None)
    tiers: dict[str, list[ImportedWord]] = {}
    others: list[str] = []
    for name, content in value["tiers"].items():
        lane = _lane(name, tier)
        if lane is None:
            others.append(name)
            continue
        tiers[lane] = []
        for item in json_list(json_object(content, file).get("entries"), file):
            entry = json_list(item, file)
            if len(entry) != 3:
                raise BadAlignment(file, None, f"an entry of {shown(name)} must be [start, end, label]")
            word = timed_word(entry[2], entry[0], entry[1], None, lane, file=file, line=None)
            tiers[lane] += [word] if word.text.strip() else []
    return _joined(file, tiers, others, tier, length)


def _lane(name: str, tier: str) -> str | None:
    """Return the speaker of a tier that holds words, "" where it names none; None for other tiers."""
    if name == tier:
        return ""
    return name.removesuffix(f" - {tier}") if name.endswith(f" - {tier}") else None


def _joined(
    file: str, tiers: dict[str, list[ImportedWord]], others: Iterable[str], tier: str, length: float | None
) -> Entry:
    if not tiers:
        found = ", ".join(shown(name) for name in list(others)[:8])
        raise BadAlignment(file, None, f"no interval tier {shown(tier)}; it has {found or 'none'}")
    return Entry(file=file, words=tuple(word for words in tiers.values() for word in words), seconds=length)


class _Tokens:
    """The numbers, strings and flags of a text file, taken one by one."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._line = 1
        self._rest = self._tokens(text)

    def _tokens(self, text: str) -> Iterator[_Token]:
        done = 0
        for match in _TOKEN.finditer(text):
            self._line += text.count("\n", done, match.start())
            done = match.start()
            word = match.group()
            if word[0] == '"':
                if not match.group(2):
                    raise BadAlignment(self._file, self._line, "a quote is left open")
                yield _Token("string", match.group(1).replace('""', '"'), self._line)
            elif _NUMBER.match(word):
                yield _Token("number", word, self._line)
            elif _FLAG.fullmatch(word):
                yield _Token("flag", word, self._line)

    def take(self, kind: str) -> _Token:
        token = next(self._rest, None)
        if token is None:
            raise BadAlignment(self._file, self._line, f"the file ends where a {kind} is expected")
        if token.kind != kind:
            raise BadAlignment(self._file, token.line, f"a {kind} is expected, found {shown(token.text)}")
        return token

    def seconds(self) -> float:
        token = self.take("number")
        return parse_number(token.text, self._file, token.line)

    def count(self) -> int:
        token = self.take("number")
        if not token.text.isdecimal() or len(token.text) > 9:
            raise BadAlignment(self._file, token.line, f"{shown(token.text)} is no count")
        return int(token.text)

    def word(self) -> ImportedWord:
        start, end = self.seconds(), self.seconds()
        token = self.take("string")
        return timed_word(token.text, start, end, None, "", file=self._file, line=token.line)


def _intervals(tokens: _Tokens) -> list[ImportedWord]:
    tokens.seconds(), tokens.seconds()
    return [tokens.word() for _ in range(tokens.count())]


def _points(tokens: _Tokens) -> list[ImportedWord]:
    tokens.seconds(), tokens.seconds()
    for _ in range(tokens.count()):
        tokens.seconds()
        tokens.take("string")
    return []
