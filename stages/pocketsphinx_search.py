"""The pocketsphinx decoder as a search for the best path through given words."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Decoder = Any
"""A `pocketsphinx.Decoder`; the binding has no type hints."""
DecoderEntry = Any
"""An entry of `Decoder.seg()`."""

_NOT_A_WORD = re.compile(r"<.*>|\[.*\]|\(NULL\)")
_VARIANT = re.compile(r"\(\d+\)$")
_WORD = re.compile(r"[a-z']+")
_MAX_LETTERS = 100
_MAX_ADDED = 20_000


class Segment(NamedTuple):
    """A word or a filler on the frame axis, [start, end), with its total log-likelihood in nats."""

    word: str
    start: int
    end: int
    nats: float

    @property
    def is_word(self) -> bool:
        """False for silence, noise and the sentence marks."""
        return not _NOT_A_WORD.fullmatch(self.word)


class WordSearch:
    """The best path through a text, from the first frame to the last.

    Args:
        pruned: False tries every path. The default beams are fast and take memory in proportion to the length, but
            lose the path in a tenth of formant-synthesised clips and in most clips whose text is wrong.
    """

    def __init__(self, *, pruned: bool = True) -> None:
        from stages.g2p import load

        self._beams = {} if pruned else {"beam": 0.0, "wbeam": 0.0, "pbeam": 0.0}
        self._letter_to_sound = load()
        self._added: set[str] = set()
        self._decoder = _new_decoder(**self._beams)

    def knows(self, word: str) -> bool:
        """Tell whether a word is in the dictionary or can be pronounced by rule; others crash the decoder."""
        if len(word) > _MAX_LETTERS or not _WORD.fullmatch(word):
            return False
        return self._lookup(word) is not None or bool(self._pronounce(word))

    def _lookup(self, word: str) -> str | None:
        """Return the dictionary's own pronunciation: what earlier utterances added is not part of it."""
        return None if word in self._added else self._decoder.lookup_word(word)

    def _pronounce(self, word: str) -> str:
        return pronounce(word, self._lookup, self._by_rule)

    def _by_rule(self, letters: str) -> Iterable[str]:
        return self._letter_to_sound.pronounce(letters)

    def _teach(self, words: Sequence[str]) -> None:
        if len(self._added) > _MAX_ADDED:
            # A worker lives for days; names must not fill its memory.
            self._decoder, self._added = _new_decoder(**self._beams), set()
        for word in dict.fromkeys(words):
            if word not in self._added and self._decoder.lookup_word(word) is None:
                self._decoder.add_word(word, self._pronounce(word), False)
                self._added.add(word)

    def run(self, pcm: bytes, words: Sequence[str]) -> list[Segment] | None:
        """Return the segments of the best path through all `words`, or None where there is none.

        Args:
            pcm: 16-bit little-endian mono samples at 16 kHz.
            words: at least one; each satisfies `knows`.
        """
        self._teach(words)
        self._decoder.set_align_text(" ".join(words))
        segments = _decode(self._decoder, pcm)
        found = [segment.word for segment in segments if segment.is_word]
        return segments if found == list(words) else None


def _new_decoder(**beams: float) -> Decoder:
    import pocketsphinx

    from stages.g2p import dictionary_path

    return pocketsphinx.Decoder(
        hmm=pocketsphinx.get_model_path("en-us/en-us"),
        dict=str(dictionary_path()),
        lm=None,
        bestpath=False,
        cmn="batch",
        # Without all senones the scores depend on the beams and cannot be compared.
        compallsen=True,
        loglevel="FATAL",
        **beams,
    )


def _decode(decoder: Decoder, pcm: bytes) -> list[Segment]:
    """Run one pass; no segments where no path reaches the end."""
    # The noise removal keeps its state across utterances: without this, times depend on what was decoded before.
    decoder.reinit_feat()
    decoder.start_utt()
    decoder.process_raw(pcm, no_search=False, full_utt=True)
    decoder.end_utt()
    if decoder.hyp() is None:
        return []
    return [_segment(entry) for entry in decoder.seg()]


def pronounce(word: str, lookup: Callable[[str], str | None], by_rule: Callable[[str], Iterable[str]]) -> str:
    """Return phones, separated by spaces, for a word that the dictionary lacks; empty where there is nothing to say.

    A possessive follows its noun, an apostrophe is dropped where the word is known without it, and the rest is left
    to the letter-to-sound rules.
    """
    if word.endswith("'s") and word.strip("'s"):
        noun = lookup(word[:-2]) or " ".join(by_rule(word[:-2]))
        return f"{noun} {_plural_sound(noun)}"
    for plain in (word.strip("'"), word.replace("'", "")):
        if plain and (phones := lookup(plain)):
            return phones
    return " ".join(by_rule(word))


def _plural_sound(noun: str) -> str:
    last = noun.split()[-1]
    if last in {"S", "Z", "SH", "ZH", "CH", "JH"}:
        return "IH Z"
    return "S" if last in {"P", "T", "K", "F", "TH"} else "Z"


def _segment(entry: DecoderEntry) -> Segment:
    # `ascore` is exp(log / 1024): the decoder keeps scores shifted by ten bits.
    nats = math.log(entry.ascore) * 1024 if entry.ascore > 0 else -math.inf
    return Segment(_VARIANT.sub("", entry.word), entry.start_frame, entry.end_frame + 1, nats)
