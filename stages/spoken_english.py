"""English text to the words that are spoken for it, token by token.

A token is what lies between white space; each gives zero, one or more lower-case words of a to z and apostrophes. Where
a reading spans tokens ("$5 million", "March 3rd, 1984") every token keeps the words said in its place.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

from stages import spoken_numbers as numbers
from stages import spoken_tables as tables
from stages.spoken_numbers import Words
from stages.spoken_pieces import NUMBER, Place, owes_unit, read_pieces

_ADDRESS = re.compile(
    r"(?:https?://|www\.)\S+|[^\s@]+@[^\s@]+\.[^\s@]+|[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io)(?:/\S*)?", re.I
)
_LONGEST_ADDRESS = 200
_IN_ADDRESS = {".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore"}
_ROMAN = re.compile(r"X{0,3}(?:IX|IV|V?I{0,3})")
_DAY = re.compile(r"0?[1-9]|[12][0-9]|3[01]")
_COUNT = re.compile(rf"[-+]?(?:{NUMBER}(?:\.\d+)?|\.\d+)|\d+[-/]\d+", re.ASCII)
_CLOCK = re.compile(r"\d?\d(?::\d\d)?", re.ASCII)
_EDGES = " \"'()[]{}<>*_~.,;:!?|\\^"


def fold(text: str) -> str:
    """Return a token with plain letters: no accents, control characters, curly quotes or compatibility forms.

    Letters of other scripts stay, so that they can be recognised.
    """
    parts = []
    for char in text.translate(tables.FOLD):
        plain = unicodedata.normalize("NFKD", char).translate(tables.FOLD)
        parts.append(f" {plain}" if len(plain) > 1 and "/" in plain else plain)
    return "".join(c for c in "".join(parts) if unicodedata.category(c)[0] != "C" and unicodedata.category(c) != "Mn")


def is_foreign(folded: str) -> bool:
    """Tell whether a folded token holds letters or digits that English does not have."""
    return any(ord(c) > 127 and unicodedata.category(c)[0] in "LN" for c in folded)


def has_letters(folded: str) -> bool:
    """Tell whether a folded token holds any letter or digit, of any script."""
    return any(unicodedata.category(c)[0] in "LN" for c in folded)


def spoken_forms(folded: Sequence[str], known: Callable[[str], bool]) -> list[Words]:
    """Return the spoken words of every folded token; a foreign token has none.

    Args:
        folded: the tokens of one transcript, after `fold`.
        known: tells whether a lower-case word is in the aligner's dictionary; decides between acronym and initialism.
    """
    # A transcript without any small letter (LibriSpeech's) says nothing about acronyms.
    shouted = not any(c.islower() for token in folded for c in token)
    bare = ["", *(token.strip(_EDGES) for token in folded), ""]
    return [
        ()
        if is_foreign(token)
        else _read(Place(token, bare[i], bare[i - 1], bare[i + 1], second=i > 2, known=known, shouted=shouted))
        for i, token in enumerate(folded, 1)
    ]


def _read(place: Place) -> Words:
    for rule in (_abbreviation, _saint_or_street, _day_of_month, _after_number, _roman):
        if (words := rule(place)) is not None:
            return words
    if not has_letters(place.token):
        return (tables.SYMBOLS[place.bare],) if place.bare in tables.SYMBOLS else ()
    if len(place.bare) <= _LONGEST_ADDRESS and _ADDRESS.fullmatch(place.bare):
        return _address(place)
    return read_pieces(place)


def _abbreviation(place: Place) -> Words | None:
    low, stop = place.bare.lower(), f"{place.bare}." in place.token
    numbered = place.after[:1].isdigit()
    if low in tables.ALWAYS:
        return tables.ALWAYS[low]
    if low in tables.MONTH_OF and (stop or numbered) and place.bare[0].isupper():
        return (tables.MONTH_OF[low],)
    if not stop:
        return None
    if low == "ft" and place.after[:1].isupper() and not _COUNT.fullmatch(place.before):
        return ("fort",)
    return tables.BEFORE_NUMBER[low] if numbered and low in tables.BEFORE_NUMBER else tables.WITH_STOP.get(low)


def _saint_or_street(place: Place) -> Words | None:
    if place.bare.lower() != "st":
        return None
    follows_a_name = place.second and place.before[:1].isupper()
    closes_a_phrase = place.token.rstrip("\"')]")[-1] in ",;:!?"
    named = place.after[:1].isupper() and not (follows_a_name and closes_a_phrase)
    return ("saint",) if named else ("street",)


def _is_month(bare: str) -> bool:
    low = bare.lower()
    return bare[:1].isupper() and (low in tables.MONTHS or low in tables.MONTH_OF)


def _day_of_month(place: Place) -> Words | None:
    if not _DAY.fullmatch(place.bare) or not (_is_month(place.before) or _is_month(place.after)):
        return None
    counts = place.after.lower() in tables.COUNTED or place.after.lower() in tables.UNITS
    return None if counts else numbers.ordinal(place.bare)


def _after_number(place: Place) -> Words | None:
    """Read the unit, currency or magnitude that stands alone after a number."""
    unit = place.token.strip(_EDGES)
    if owes_unit(place.before, unit):
        return (numbers.SCALES.get(unit.lower(), unit.lower()), numbers.CURRENCIES[place.before[0]].units)
    if unit.lower() in {"am", "pm"} and _CLOCK.fullmatch(place.before):
        return (unit[0].lower(), "m")
    if not _COUNT.fullmatch(place.before):
        return None
    if unit in numbers.CURRENCIES:
        return (numbers.CURRENCIES[unit].unit if place.before == "1" else numbers.CURRENCIES[unit].units,)
    if unit in tables.UNITS or (len(unit) > 1 and unit.lower() in tables.UNITS):
        return tuple(tables.UNITS[unit.lower()][place.before != "1"].split())
    return None


def _roman(place: Place) -> Words | None:
    bare, before = place.bare, place.before
    if place.shouted or len(bare) < 2 or not _ROMAN.fullmatch(bare) or not before[:1].isupper():
        return None
    value = sum({"I": 1, "V": 5, "X": 10}[c] for c in bare) - 2 * ("IV" in bare or "IX" in bare)
    if before.lower() in tables.REGNAL:
        return ("the", *numbers.ordinal(str(value)))
    return numbers.cardinal(str(value)) if before.lower() in tables.NUMBERED else None


def _address(place: Place) -> Words:
    words: list[str] = []
    for part in re.findall(r"[A-Za-z]+|[0-9]+|[.@/_-]", re.sub("^https?://", "", place.bare, flags=re.I).rstrip("/")):
        low = part.lower()
        if part in _IN_ADDRESS:
            words.append(_IN_ADDRESS[part])
        elif part.isdigit():
            words += numbers.cardinal(part)
        elif len(part) <= 5 and not place.known(low) and not set(low) & set("aeiouy"):
            words += low
        else:
            words.append(low)
    return tuple(words)
