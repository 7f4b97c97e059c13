"""Text ids of spans of words, from a table of words where the tokenizer takes words one by one."""

from collections.abc import Sequence

import numpy as np

from stages.vocabulary import TextTokenizer

MAX_WORDS = 500_000
"""Words that a table holds before it begins anew: some 200 bytes each, and more than most corpora's running words."""


class WordIds:
    """The ids of words joined by single spaces, as the bytes of an int64 array."""

    def __init__(self, tokenizer: TextTokenizer, max_words: int = MAX_WORDS) -> None:
        self._tokenizer = tokenizer
        self._max_words = max_words
        self._by_word = tokenizer.word_by_word
        self._known: dict[str, bytes] = {}

    def encode(self, words: Sequence[str]) -> bytes:
        """Return the ids of at least one word."""
        try:
            return b"".join(map(self._known.__getitem__, words))
        except KeyError:
            pass
        new = [word for word in dict.fromkeys(words) if word not in self._known] if self._by_word else []
        # A word with whitespace in it is none to the tokenizer; it stays out of the table, so it always comes by here.
        if not self._by_word or any(word.split() != [word] for word in new):
            return _as_bytes(self._tokenizer.encode(" ".join(words)))
        if len(self._known) + len(new) > self._max_words:
            self._known.clear()
            new = list(dict.fromkeys(words))
        for word in new:
            self._known[word] = _as_bytes(self._tokenizer.encode_word(word))
        return b"".join(map(self._known.__getitem__, words))


def _as_bytes(ids: list[int]) -> bytes:
    return np.array(ids, dtype=np.int64).tobytes()
