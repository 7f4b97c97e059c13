"""Fits letter-to-sound tables: letters and phones are matched by hard EM, then contexts vote.

The idea of letter contexts of shrinking width follows Torkkola (1993), "An efficient way to learn English
grapheme-to-phoneme rules automatically".
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

CONTEXTS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (4, 4))
"""Letters to the left and right of the one being pronounced, from short to long; each includes the one before."""

PAD = "#"
_WIDEST = 4
_EM_WORDS = 20_000
_EM_ROUNDS = 4
_UNSEEN = -12.0
_FIRST_ROUND = (-1.0, -0.5, -3.0)

Tables = list[dict[str, str]]
"""One per context size: letters of the context -> phones of the middle letter, separated by spaces."""


def padded(letters: str) -> str:
    return PAD * _WIDEST + letters + PAD * _WIDEST


def context_key(text: str, index: int, context: tuple[int, int]) -> str:
    """Return the letters around letter `index` of a padded word."""
    left, right = context
    return text[index + _WIDEST - left : index + _WIDEST + 1 + right]


def fit(words: Mapping[str, Sequence[str]]) -> Tables:
    """Return the tables for a pronunciation dictionary; about 30 s of CPU for 100,000 words.

    A pure function of the mapping's content: words are visited in sorted order and ties go to the alphabet.
    """
    order = sorted(words)
    costs = _expectation_maximisation({word: words[word] for word in order[:: max(1, len(order) // _EM_WORDS)]})
    votes: list[dict[str, Counter[str]]] = [defaultdict(Counter) for _ in CONTEXTS]
    for word in order:
        text = padded(word)
        for i, phones in enumerate(_match(word, words[word], costs) or ()):
            for table, context in zip(votes, CONTEXTS, strict=True):
                table[context_key(text, i, context)][phones] += 1
    return _elect(votes)


def _elect(votes: Sequence[Mapping[str, Counter[str]]]) -> Tables:
    """Keep, from short contexts to long, the winners that differ from what the shorter contexts already say."""
    tables: Tables = []
    for table, context in zip(votes, CONTEXTS, strict=True):
        kept = {}
        for key, counts in table.items():
            phones = min(counts, key=lambda choice: (-counts[choice], choice))
            if phones != _shorter(tables, key, context):
                kept[key] = phones
        tables.append(kept)
    return tables


def _shorter(tables: Tables, key: str, context: tuple[int, int]) -> str | None:
    centre = context[0]
    for table, (left, right) in zip(reversed(tables), reversed(CONTEXTS[: len(tables)]), strict=True):
        phones = table.get(key[centre - left : centre + 1 + right])
        if phones is not None:
            return phones
    return None


def _expectation_maximisation(words: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
    costs: dict[tuple[str, str], float] = {}
    for _ in range(_EM_ROUNDS):
        pairs: Counter[tuple[str, str]] = Counter()
        for word, phones in words.items():
            pairs.update(zip(word, _match(word, phones, costs) or (), strict=False))
        totals: Counter[str] = Counter()
        for (letter, _), count in pairs.items():
            totals[letter] += count
        costs = {pair: math.log(count / totals[pair[0]]) for pair, count in pairs.items()}
    return costs


def _match(word: str, phones: Sequence[str], costs: Mapping[tuple[str, str], float]) -> list[str] | None:
    """Return the phones of each letter in the likeliest match, or None where 2 phones a letter are too few."""
    if len(phones) > 2 * len(word):
        return None
    width = len(phones) + 1
    best = [0.0, *[-math.inf] * len(phones)]
    taken: list[list[int]] = []
    for letter in word:
        row, took = [-math.inf] * width, [0] * width
        for j, score in enumerate(best):
            if score == -math.inf:
                continue
            for count in range(min(2, len(phones) - j) + 1):
                chunk = " ".join(phones[j : j + count])
                cost = costs.get((letter, chunk), _UNSEEN) if costs else _FIRST_ROUND[count]
                if score + cost > row[j + count]:
                    row[j + count], took[j + count] = score + cost, count
        best = row
        taken.append(took)
    out, end = [], len(phones)
    for took in reversed(taken):
        out.append(" ".join(phones[end - took[end] : end]))
        end -= took[end]
    return out[::-1]
