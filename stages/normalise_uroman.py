"""Text normalisation for any script: every token of a transcript is romanised to the letters that aligners know.

The romaniser is uroman (Hermjakob, May and Knight, ACL 2018), as in the training of MMS's aligner (arXiv 2305.13516).
It gives roughly the sound of a text, without a dictionary: vowels that Arabic and Hebrew do not write are missing, and
Han characters are read as Mandarin in every language. Whole numbers are read as cardinals by num2words.

Tokens are what lies between white space. Text in scripts without spaces has to be divided into words beforehand.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from schemas.records import Clip, Spoken, Token
from schemas.rejects import Reason, Reject
from stages.normalise import most_characters

LONGEST_UNSPACED = 20
"""Letters of a script without spaces in one token: a longer one is a sentence, and one time for it is of no use."""

_UNSPACED = ("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI ", "LAO ", "KHMER ", "MYANMAR ")
_LANGUAGE = re.compile(r"([a-z]{2,3})(?:[-_].*)?")
_WORD = re.compile(r"[a-z](?:[a-z']*[a-z])?")
_APOSTROPHES = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\u02bb\u2032`\u00b4", "'"))
_SAID = set("%‰٪#@&*/\\-+_")
"""Punctuation that is read aloud beside a number, so that it cannot be left out."""
_MOST_DIGITS = 12
"""Longer numbers, and numbers with leading zeros, are read digit by digit."""
_LONGEST_NUMBER = 30

_THREE_LETTERS = dict(
    pair.split(":")
    for line in (
        "ar:ara as:asm az:aze be:bel bg:bul bn:ben ca:cat ce:che cs:ces cy:cym da:dan de:deu el:ell en:eng eo:epo",
        "es:spa fa:fas fi:fin fr:fra gu:guj he:heb hi:hin hu:hun id:ind is:isl it:ita ja:jpn kk:kaz kn:kan ko:kor",
        "ks:kas ky:kir lt:lit lv:lav mk:mkd nl:nld no:nor os:oss pa:pan pl:pol ps:pus pt:por ro:ron ru:rus sa:san",
        "sk:slk sl:slv sr:srp sv:swe te:tel tg:tgk th:tha tr:tur ug:uig uk:ukr vi:vie yi:yid zh:zho",
    )
    for pair in line.split()
)
"""ISO 639-1 to 639-3 where uroman (which knows the latter) or num2words (the former) has rules for the language.

Amharic is not among them: num2words takes minutes for some of its numbers.
"""
_TWO_LETTERS = {three: two for two, three in _THREE_LETTERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class UromanConfig:
    """How transcripts are romanised.

    Attributes:
        language: ISO 639 code of two or three letters, or "" for each row's own. It decides how digits are read, and
            some letters (Serbian, Persian, ...).
    """

    name: ClassVar[str] = "normalise"
    version: ClassVar[int] = 1

    language: str = ""

    def __post_init__(self) -> None:
        if self.language and not re.fullmatch("[a-z]{2,3}", self.language):
            raise ValueError(f"language must be an ISO 639 code such as 'fr' or 'fra', or empty, got {self.language!r}")

    def setup(self) -> "UromanNormaliser":
        return UromanNormaliser(self, load_romaniser())


class UromanNormaliser:
    """Live normaliser. `romanise` takes a text and a code of three letters (or "")."""

    def __init__(self, config: UromanConfig, romanise: Callable[[str, str], str]) -> None:
        self._config = config
        self._romanise = romanise

    def process(self, batch: Sequence[Clip]) -> list[Spoken | Reject]:
        return [self._outcome(clip) for clip in batch]

    def _outcome(self, clip: Clip) -> Spoken | Reject:
        text = clip.utterance.text
        if not text or text.isspace():
            return self._reject(clip, Reason.EMPTY_TEXT, "the transcript is empty")
        if len(text) > (most := most_characters(clip)):
            detail = f"the transcript has {len(text)} characters, more than {most}"
            return self._reject(clip, Reason.TOO_MANY_WORDS, detail)
        texts = text.split()
        if (longest := max(map(_unspaced, texts))) > LONGEST_UNSPACED:
            detail = f"{longest} letters of a script without spaces in a row: divide the text into words by spaces"
            return self._reject(clip, Reason.UNSUPPORTED_SCRIPT, detail)
        language = language_code(self._config.language or clip.utterance.language)
        tokens = tuple(Token(token, self._spoken(token, language)) for token in texts)
        if not any(token.spoken for token in tokens):
            return self._reject(clip, Reason.NO_WORDS, f"{len(texts)} tokens and no word among them")
        return Spoken(clip=clip, tokens=tokens)

    def _spoken(self, token: str, language: str) -> tuple[str, ...]:
        """Return a token's words. One that mixes digits with anything else has none: its reading is not known."""
        plain = unicodedata.normalize("NFKC", token)
        if any(_is_number(char) for char in plain):
            said = number_words(_bare(plain), language)
            return tuple(word for part in said for word in self._words(part, language))
        return self._words(token, language) if any(char.isalpha() for char in token) else ()

    def _words(self, text: str, language: str) -> tuple[str, ...]:
        text = re.sub("(.)\u3005", r"\1\1", text)  # Han: the repetition mark
        return tuple(_WORD.findall(self._romanise(text, language).translate(_APOSTROPHES).lower()))

    def _reject(self, clip: Clip, reason: Reason, detail: str) -> Reject:
        return Reject.of(clip.utterance, self._config.name, reason, detail)


def load_romaniser() -> Callable[[str, str], str]:
    """Load uroman's tables from its wheel: about 3 s and 60 MB.

    Raises:
        ValueError: if uroman is not installed.
    """
    try:
        from uroman import Uroman
    except ModuleNotFoundError:
        raise ValueError("uroman is not installed: pip install 'interloom[models]'") from None
    tables = Uroman(load_log=False)
    tables.num_props.clear()  # or it writes Han numerals as digits: a sound is wanted

    def romanise(text: str, language: str) -> str:
        return str(tables.romanize_string(text, lcode=language or None))

    return romanise


def language_code(tag: str) -> str:
    """Return the ISO 639-3 code of a language tag, or "" for one that is no tag.

    >>> language_code("sr-Cyrl"), language_code("fra"), language_code("Serbian")
    ('srp', 'fra', '')
    """
    match = _LANGUAGE.fullmatch(tag.lower())
    return _THREE_LETTERS.get(match[1], match[1]) if match else ""


def number_words(number: str, language: str) -> tuple[str, ...]:
    """Return how a language says a whole number, in its own script; nothing where num2words cannot tell.

    Separators and signs are not read: what they mean depends on country and context.

    Args:
        number: decimal digits of any script.
        language: ISO 639-3 code.
    """
    from num2words import num2words

    code = _TWO_LETTERS.get(language)
    if code is None or not number.isdecimal() or len(number) > _LONGEST_NUMBER:
        return ()
    digits = "".join(str(unicodedata.decimal(char)) for char in number)
    one_by_one = len(digits) > _MOST_DIGITS or (digits[0] == "0" and len(digits) > 1)
    parts = list(digits) if one_by_one else [digits]
    try:
        return tuple(num2words(int(part), lang="kz" if code == "kk" else code) for part in parts)
    except (NotImplementedError, OverflowError):
        return ()


def _bare(text: str) -> str:
    """Return a number without the punctuation around it, such as quotes and full stops."""
    dropped = {char for char in text if unicodedata.category(char)[0] == "P" and char not in _SAID}
    return text.strip("".join(dropped)) if dropped else text


def _is_number(char: str) -> bool:
    return char != "\u3007" and unicodedata.category(char)[0] == "N"


def _unspaced(token: str) -> int:
    return sum(unicodedata.name(char, "").startswith(_UNSPACED) for char in token if char > "\u0e00")
