"""Which imported words are which token of the transcript: the cheapest edit script, found best first.

A token matches a run of imported words that spell it when joined, written (`1984`, `don't`) or spoken (`nineteen`,
`eighty`, `four`; `don`, `'t`). Only letters, digits and marks count, without case.
"""

import heapq
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from schemas.records import Token

MAX_STATES = 300_000
"""Pairs of positions that are visited at most, about 2 s and 150 MB; a text as given needs one for each word."""

_WILDCARDS = {"<unk>", "[unk]", "<oov>", "<star>", "*"}
_SILENCES = {"sil", "sp", "spn", "nsn"}
_BRACKETS = {"<": ">", "[": "]", "{": "}"}
_EDIT = 1_000_000
"""Cost of an edit; a wildcard costs 1, so that it is used only where nothing else fits."""
_START = (-1, -1)


class Match(NamedTuple):
    """How a transcript and imported words go together.

    Attributes:
        pieces: for each token the words that spell it; empty where there are none.
        wild: tokens that a wildcard such as <unk> stood for.
        silences: words that belong to no token and may be left out at no cost.
        edits: tokens without words, words without a token, and pairs that differ.
    """

    pieces: tuple[tuple[int, ...], ...]
    wild: tuple[int, ...]
    silences: frozenset[int]
    edits: int


class Mismatch(NamedTuple):
    """No script is cheap enough, or so many were tried that the search gave up.

    Attributes:
        token: with `word`, the furthest place that was reached with no edit.
    """

    token: int
    word: int
    gave_up: bool


class _Sides(NamedTuple):
    forms: list[frozenset[str]]
    sayable: list[bool]
    words: list[str]
    free: list[bool]
    wild: list[bool]


def is_silence(text: str) -> bool:
    """True for what aligners write for silence and noise: nothing, `sil`, `sp`, `spn`, <eps>, [noise]."""
    label = text.strip()
    if not normal(label):
        return True
    return label.casefold() in _SILENCES or _BRACKETS.get(label[0]) == label[-1]


def is_sayable(token: Token) -> bool:
    """True for a token that has a spoken form, or a letter or digit."""
    return bool(token.spoken) or any(c.isalnum() for c in token.text)


@lru_cache(maxsize=1 << 16)
def normal(text: str) -> str:
    """Return the letters, digits and marks of a word, without case."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")


def match(tokens: Sequence[Token], words: Sequence[str], optional: Sequence[bool], most: int) -> Match | Mismatch:
    """Match words to tokens with at most `most` edits.

    Args:
        tokens: the transcript.
        words: imported words as spelt.
        optional: words that may be left out at no cost, beside silences.
        most: edits allowed.
    """
    wild = [word.strip().casefold() in _WILDCARDS for word in words]
    sides = _Sides(
        forms=[frozenset({normal(t.text), "".join(map(normal, t.spoken))}) - {""} for t in tokens],
        sayable=[is_sayable(token) for token in tokens],
        words=[normal(word) for word in words],
        free=[o or (is_silence(w) and not any_) for w, o, any_ in zip(words, optional, wild, strict=True)],
        wild=wild,
    )
    came_from, edits = _search(sides, most)
    if edits is None:
        token, word = max((place for place, (cost, _) in came_from.items() if cost < _EDIT), default=(0, 0))
        return Mismatch(token, word, len(came_from) >= MAX_STATES)
    return _script(sides, came_from, edits)


def _search(sides: _Sides, most: int) -> tuple[dict[tuple[int, int], tuple[int, tuple[int, int]]], int | None]:
    """Visit places (tokens done, words done) in the order of their cost; places further on first."""
    last = (len(sides.forms), len(sides.words))
    seen: dict[tuple[int, int], tuple[int, tuple[int, int]]] = {}
    queue = [(0, 0, (0, 0), _START)]
    while queue and len(seen) < MAX_STATES:
        cost, _, place, before = heapq.heappop(queue)
        if place in seen:
            continue
        seen[place] = (cost, before)
        if place == last:
            return seen, cost // _EDIT
        for more, after in _steps(sides, *place):
            if after not in seen and (cost + more) // _EDIT <= most:
                heapq.heappush(queue, (cost + more, -sum(after), after, place))
    return seen, None


def _steps(sides: _Sides, i: int, j: int) -> Iterator[tuple[int, tuple[int, int]]]:
    tokens, words = len(sides.forms), len(sides.words)
    if i < tokens and j < words:
        for used in _spellings(sides, i, j):
            yield 0, (i + 1, used[-1] + 1)
        if sides.sayable[i] and not sides.free[j]:
            yield (1 if sides.wild[j] else _EDIT), (i + 1, j + 1)
    if i < tokens:
        yield (_EDIT if sides.sayable[i] else 0), (i + 1, j)
    if j < words:
        yield (0 if sides.free[j] else _EDIT), (i, j + 1)


def _spellings(sides: _Sides, i: int, j: int) -> Iterator[tuple[int, ...]]:
    """Yield the words from `j` that, joined, spell token `i`, shortest run first, without silences between."""
    forms, spelt = sides.forms[i], ""
    used: list[int] = []
    for k in range(j, len(sides.words)):
        longer = spelt + sides.words[k]
        if sides.words[k] and any(form.startswith(longer) for form in forms):
            spelt = longer
            used.append(k)
            if spelt in forms:
                yield tuple(used)
        elif not (used and sides.free[k]):
            return


def _script(sides: _Sides, came_from: dict[tuple[int, int], tuple[int, tuple[int, int]]], edits: int) -> Match:
    pieces: list[tuple[int, ...]] = [()] * len(sides.forms)
    wild, silences = [], set[int]()
    after = (len(sides.forms), len(sides.words))
    while after != (0, 0):
        cost, before = came_from[after]
        more = cost - came_from[before][0]
        (i, j), (i_next, j_next) = before, after
        if i_next > i and j_next > j and more < _EDIT:
            exact = (used for used in _spellings(sides, i, j) if used[-1] + 1 == j_next)
            pieces[i] = (j,) if more else next(exact)
            silences.update(set(range(j, j_next)) - set(pieces[i]))
            if more:
                wild.append(i)
        elif j_next > j and sides.free[j]:
            silences.add(j)
        after = before
    return Match(tuple(pieces), tuple(reversed(wild)), frozenset(silences), edits)
