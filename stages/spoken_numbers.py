"""How English reads numbers aloud. Words come from num2words, in lower case without commas and hyphens.

Cardinals keep the "and" of British and formal American reading ("two hundred and five").
"""

import re
from typing import NamedTuple

from num2words import num2words

Words = tuple[str, ...]

MAX_DIGITS = 15
"""Longer numbers, and numbers with leading zeros, are read digit by digit."""

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_READ_AS_PARTS = frozenset({2, 3, 4, 5, 6, 7, 8, 9, 10, 16, 32, 64, 100, 1000})


class Currency(NamedTuple):
    unit: str
    units: str
    cent: str
    cents: str


CURRENCIES = {
    "$": Currency("dollar", "dollars", "cent", "cents"),
    "£": Currency("pound", "pounds", "penny", "pence"),
    "€": Currency("euro", "euros", "cent", "cents"),
    "¥": Currency("yen", "yen", "sen", "sen"),
    "¢": Currency("cent", "cents", "cent", "cents"),
}
SCALES = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"}


def _spell(number: int, kind: str) -> Words:
    return tuple(re.findall("[a-z]+", num2words(number, lang="en", to=kind)))


def digits(text: str) -> Words:
    """Return the name of every digit.

    >>> digits("007")
    ('zero', 'zero', 'seven')
    """
    return tuple(_DIGITS[int(c)] for c in text if "0" <= c <= "9")


def cardinal(text: str) -> Words:
    """Read an unsigned integer, with or without thousands separators."""
    plain = text.replace(",", "")
    if len(plain) > MAX_DIGITS or (plain[0] == "0" and len(plain) > 1):
        return digits(plain)
    return _spell(int(plain), "cardinal")


def ordinal(text: str) -> Words:
    """Read an integer as an ordinal: 3 -> third."""
    plain = text.replace(",", "")
    return digits(plain) if len(plain) > MAX_DIGITS else _spell(int(plain), "ordinal")


def year(text: str) -> Words:
    """Read a year: 1984 -> nineteen eighty four, 1905 -> nineteen oh five."""
    return _spell(int(text), "year")


def decimal(text: str) -> Words:
    """Read an integer or a decimal; several points (versions, addresses) are all read.

    >>> decimal("3.50")
    ('three', 'point', 'five', 'zero')
    """
    whole, *rest = text.split(".")
    words = cardinal(whole) if whole else ()
    if len(rest) > 1:
        return words + tuple(word for part in rest for word in ("point", *cardinal(part)))
    return words + tuple(word for part in rest for word in ("point", *digits(part)))


def fraction(above: str, below: str) -> Words:
    """Read a fraction whose parts are usual (3/4 -> three quarters), and others as two numbers (9/11, 24/7)."""
    top, bottom = int(above), int(below)
    if not (0 < top < bottom and bottom in _READ_AS_PARTS):
        return cardinal(above) + cardinal(below)
    part = ("half",) if bottom == 2 else ("quarter",) if bottom == 4 else ordinal(below)
    return cardinal(above) + (part if top == 1 else plural(part))


def plural(words: Words) -> Words:
    """Put the last word in the plural: eighty -> eighties."""
    last = words[-1]
    if last == "half":
        return (*words[:-1], "halves")
    return (*words[:-1], last[:-1] + "ies" if last.endswith("y") else last + "s")


def decade(text: str) -> Words:
    """Read 1980s, 80s (given without the s)."""
    return plural(year(text) if len(text) == 4 else cardinal(text))


def clock(hour: str, minute: str, second: str, *, bare_hour: bool) -> Words:
    """Read a time of day. `bare_hour`: a full hour is read without "o'clock", because "a.m." or "p.m." follows."""
    words = cardinal(str(int(hour)))
    seconds = _below_sixty(second) if second else ()
    if int(minute) or seconds:
        return words + _below_sixty(minute) + seconds
    if 1 <= int(hour) <= 12:
        return words if bare_hour else (*words, "o'clock")
    return (*words, "hundred")


def _below_sixty(text: str) -> Words:
    if text == "00":
        return ("zero", "zero")
    return ("oh", *cardinal(text[1])) if text[0] == "0" else cardinal(text)


def money(amount: str, symbol: str, scale: str) -> Words:
    """Read an amount of money: $3,500.50, £0.99, $5m.

    Args:
        amount: an integer or a decimal.
        symbol: a key of CURRENCIES.
        scale: a key of SCALES, or "".
    """
    names = CURRENCIES[symbol]
    whole, point, part = amount.replace(",", "").partition(".")
    if scale:
        return (*decimal(amount), SCALES[scale], names.units)
    if len(part) != 2:
        return (*decimal(amount), names.unit if not point and whole == "1" else names.units)
    cents = (*cardinal(str(int(part))), names.cent if int(part) == 1 else names.cents) if int(part) else ()
    if cents and not whole.strip("0"):
        return cents
    units = (*cardinal(whole or "0"), names.unit if whole == "1" else names.units)
    return (*units, "and", *cents) if cents else units
