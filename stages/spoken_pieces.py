"""Inside one token: numbers, amounts, times, initials, words and symbols, each read in its own way."""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from stages import spoken_numbers as numbers
from stages import spoken_tables as tables
from stages.spoken_numbers import Words

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
AMOUNT = re.compile(rf"[$£€¥](?:{NUMBER}(?:\.\d+)?|\.\d+)", re.ASCII)
_SCALE = r"(?:k|mn|m|bn|b)"
_UNIT = "|".join(re.escape(unit) for unit in sorted(tables.UNITS, key=lambda unit: (-len(unit), unit)))
_PIECES = re.compile(
    rf"""
    (?P<phone>(?<!\d)(?:\d{{3}}-)?\d{{3}}-\d{{4}}(?!\d))
  | (?P<iso>(?<!\d)(?:1[1-9]|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d))
  | (?P<clock>(?<!\d)(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?!\d))
  | (?P<money>{AMOUNT.pattern}(?:{_SCALE}(?![A-Za-z]))?)
  | (?P<ordinal>{NUMBER}(?:st|nd|rd|th)(?![A-Za-z]))
  | (?P<decade>(?<!\d)'?(?:(?:1[1-9]|20)\d|[2-9])0'?s(?![A-Za-z]))
  | (?P<fraction>(?<![\d/])\d{{1,4}}/\d{{1,4}}(?![\d/]))
  | (?P<number>(?:{NUMBER}(?:\.\d+)*|\.\d+)[$£€¥¢]?)
  | (?P<unit>(?<=\d)(?:{_UNIT})(?![A-Za-z0-9]))
  | (?P<initials>(?<![A-Za-z])[A-Za-z](?:\.[A-Za-z])+(?![A-Za-z])\.?)
  | (?P<word>'?[A-Za-z]+(?:'[A-Za-z]+)*'?)
  | (?P<to>(?<=\d)-(?=[$£€¥]?\d))
  | (?P<minus>^-(?=[$£€¥]?\.?\d))
  | (?P<hash>\#(?=[A-Za-z0-9]))
  | (?P<symbol>[&+@=])
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_CAPITALS = re.compile(r"'?([A-Z]{2,})('?s)?'?")
_LONGEST_INITIALISM = 5


class Place(NamedTuple):
    """A token, its neighbours without their punctuation, and what is known about the transcript.

    Attributes:
        token: the folded token.
        bare: the token without the punctuation at its edges.
        before: the bare token before it, or "".
        after: the bare token after it, or "".
        second: there is a token before the one before.
        known: tells whether a lower-case word is in the dictionary.
        shouted: the transcript has no small letters, so that capitals mean nothing.
    """

    token: str
    bare: str
    before: str
    after: str
    second: bool
    known: Callable[[str], bool]
    shouted: bool


def read_pieces(place: Place) -> Words:
    """Return the words of a token that no rule about its neighbours has claimed."""
    spoken: list[str] = []
    for words in _readings(place):
        if words == ("'s",) and spoken:
            spoken[-1] += "'s"
        else:
            spoken += (word.strip("'") if word == "'s" else word for word in words)
    return tuple(spoken)


def _readings(place: Place) -> Iterator[Words]:
    last = ""
    for match in _PIECES.finditer(place.token):
        kind = match.lastgroup or ""
        if kind == "fraction" and (last == "number" or (not last and place.before.isdigit())):
            yield ("and",)
        yield _READERS[kind](match, place)
        last = kind


def _iso(match: re.Match[str], _: Place) -> Words:
    years, month, day = match[0].split("-")
    return (tables.MONTHS[int(month) - 1], *numbers.ordinal(str(int(day))), *numbers.year(years))


def _clock(match: re.Match[str], place: Place) -> Words:
    hour, minute, *second = match[0].split(":")
    follows = place.token[match.end() :].strip().lower() or place.after.lower()
    bare_hour = follows.startswith(("am", "pm", "a.m", "p.m", "o'clock"))
    return numbers.clock(hour, minute, second[0] if second else "", bare_hour=bare_hour)


def _money(match: re.Match[str], place: Place) -> Words:
    amount = match[0][1:].rstrip("kKmMnNbB")
    scale = match[0][1 + len(amount) :].lower()
    if not scale and owes_unit(place.bare, place.after):
        return numbers.decimal(amount)
    return numbers.money(amount, match[0][0], scale)


def owes_unit(amount: str, magnitude: str) -> bool:
    """Tell whether two bare tokens read like "$5 million": the name of the currency is said after the second."""
    return magnitude.lower() in tables.MAGNITUDES | numbers.SCALES.keys() and AMOUNT.fullmatch(amount) is not None


def _fraction(match: re.Match[str], _: Place) -> Words:
    above, below = match[0].split("/")
    return numbers.fraction(above, below)


def _number(match: re.Match[str], place: Place) -> Words:
    text, symbol = (match[0][:-1], match[0][-1]) if match[0][-1] in numbers.CURRENCIES else (match[0], "")
    if symbol:
        return numbers.money(text, symbol, "") if text.count(".") < 2 else numbers.decimal(text)
    rest = place.token[match.end() :]
    following = rest.strip("\"'()[]{},.;:!?").lower() or place.after.lower()
    counted = following in tables.COUNTED or following in tables.UNITS
    if len(text) == 4 and text.isdigit() and "1100" <= text <= "2099" and not counted:
        return numbers.year(text)
    return numbers.decimal(text)


def _unit(match: re.Match[str], place: Place) -> Words:
    if match[0].isupper() and len(match[0]) == 1 and match[0].isalpha():
        return (match[0].lower(),)
    single = re.search(r"(?<![\d.,])1$", place.token[: match.start()]) is not None
    return tuple(tables.UNITS[match[0].lower()][not single].split())


def _word(match: re.Match[str], place: Place) -> Words:
    text, low = match[0], match[0].lower()
    before, after = place.token[: match.start()][-1:], place.token[match.end() :][:1]
    numbered = before.isdigit() or after.isdigit()
    if low in {"am", "pm"} and before.isdigit():
        return (low[0], low[1])
    if capitals := _CAPITALS.fullmatch(text):
        stem, ending = capitals[1].lower(), capitals[2]
        if _is_initialism(stem, numbered, place):
            return (*stem[:-1], stem[-1] + "'s") if ending else tuple(stem)
        if ending and not place.known(low) and place.known(stem):
            return (stem + "'s",)
    if low == "'s":
        return ("'s",)
    for form in (low, low.rstrip("'"), low.lstrip("'")):
        if place.known(form):
            return (form,)
    return (low.strip("'"),)


def _is_initialism(stem: str, numbered: bool, place: Place) -> bool:
    if numbered and len(stem) <= 3:
        return True
    if stem in tables.INITIALISMS and not place.shouted:
        return True
    if place.known(stem) or len(stem) > _LONGEST_INITIALISM:
        return False
    return not set(stem) & set("aeiouy") or (len(stem) <= 3 and not place.shouted)


_READERS: dict[str, Callable[[re.Match[str], Place], Words]] = {
    "phone": lambda match, _: numbers.digits(match[0]),
    "iso": _iso,
    "clock": _clock,
    "money": _money,
    "ordinal": lambda match, _: numbers.ordinal(match[0][:-2]),
    "decade": lambda match, _: numbers.decade(match[0].strip("'sS")),
    "fraction": _fraction,
    "number": _number,
    "unit": _unit,
    "initials": lambda match, _: tuple(c for c in match[0].lower() if c != "."),
    "word": _word,
    "to": lambda match, place: ("to",),
    "minus": lambda match, place: ("minus",),
    "hash": lambda match, place: ("number",) if place.token[match.end()].isdigit() else ("hashtag",),
    "symbol": lambda match, _: (tables.SYMBOLS[match[0]],),
}
