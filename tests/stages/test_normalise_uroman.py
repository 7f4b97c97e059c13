import copy
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import Spoken
from schemas.rejects import Reason, Reject
from stages.normalise import MAX_CHARACTERS
from stages.normalise_uroman import (
    LONGEST_UNSPACED,
    UromanConfig,
    UromanNormaliser,
    language_code,
    load_romaniser,
    number_words,
)
from tests.feature_builders import clip as clip_of
from tests.feature_builders import noise

PCM = noise(16_000)


@pytest.fixture(scope="module")
def romanise():
    return load_romaniser()


@pytest.fixture(scope="module")
def stage(romanise):
    return UromanNormaliser(UromanConfig(), romanise)


def clip(text, language="", key="u0"):
    made = clip_of(PCM, key=key)
    utterance = copy.copy(made.utterance)
    for name, value in (("text", text), ("language", language)):
        object.__setattr__(utterance, name, value)
    return type(made)(utterance=utterance, pcm=PCM, source_rate=16_000, source_channels=1)


def outcome(stage, text, language=""):
    (found,) = stage.process([clip(text, language)])
    return found


def spoken(stage, text, language=""):
    """The words of each token, as one string per token."""
    found = outcome(stage, text, language)
    assert isinstance(found, Spoken), found
    return [" ".join(token.spoken) for token in found.tokens]


# ---------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("text", "want"),
    [
        # examples in the package's README
        ("Νεπάλ नेपाल", ["nepal", "nepaal"]),
        ("Игорь Стравинский", ["igor", "stravinsky"]),
        # right to left, marks and joiners
        ("مرحبا بالعالم", ["mrhba", "bal'alm"]),
        ("שָׁלוֹם עולם", ["shalom", "vlm"]),
        ("می\u200cخواهم", ["mikhwahm"]),
        ("\u200fшум\u200e", ["shum"]),
        # scripts without spaces, divided by spaces
        ("我 喜欢 北京", ["wo", "xihuan", "beijing"]),
        ("東京 に 行き ます", ["dongjing", "ni", "xingki", "masu"]),
        ("สวัสดี ครับ", ["swatdii", "khrap"]),
        ("안녕 하세요", ["annyeong", "haseyo"]),
        # Latin with marks, ligatures, wide and mathematical letters
        ("Straße naïve ﬁsh Ｗｉｄｅ 𝐁𝐨𝐥𝐝", ["strasse", "naive", "fish", "wide", "bold"]),
        ("e\u0301te\u0301 été", ["ete", "ete"]),
        # apostrophes inside words stay, quotes around them go
        ("l’été 'tis rock’n’roll ʻokina", ["l'ete", "tis", "rock'n'roll", "okina"]),
        ("well-known «слово»", ["well known", "slovo"]),
        # mixed scripts
        ("USB-кабель", ["usb kabel"]),
        # Han numerals are words; the repetition mark repeats
        ("三万一 人 二〇二四 人々", ["sanwanyi", "ren", "erlingersi", "renren"]),
    ],
)
def test_any_script_is_romanised(stage, text, want):
    assert spoken(stage, text) == want


def test_what_is_not_spoken_has_no_words(stage):
    found = spoken(stage, "ok — … 🎉 👩‍👩‍👧 ☕ ★ \u0301 ー")
    assert found == ["ok", *[""] * 8]


def test_the_language_changes_letters(stage):
    assert spoken(stage, "Ђорђе щ", "bg")[1] == "sht"
    assert spoken(stage, "Ђорђе щ", "ru")[1] == "shch"


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "language", "want"),
    [
        ("21", "de", "einundzwanzig"),
        ("21", "deu", "einundzwanzig"),
        ("21", "de-AT", "einundzwanzig"),
        ("21", "fr", "vingt et un"),
        ("21", "ru", "dvadtsat odin"),
        ("21", "vi", "hai muoi mot"),
        ("٢١", "ar", "wahd w shrwn"),
        ("„21“,", "de", "einundzwanzig"),
        ("（２１）。", "de", "einundzwanzig"),
        ("①", "de", "eins"),
        ("007", "de", "null null sieben"),
        ("1234567890123", "de", "eins zwei drei vier fuenf sechs sieben acht neun null eins zwei drei"),
    ],
)
def test_whole_numbers_are_read_in_the_language(stage, text, language, want):
    assert spoken(stage, f"x {text}", language) == ["x", want]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("21", ""),
        ("21", "zh"),
        ("21", "hi"),
        ("21", "am"),
        ("21", "xx"),
        ("3.5", "de"),
        ("1.000", "de"),
        ("10:30", "de"),
        ("50%", "de"),
        ("5€", "de"),
        ("-5", "de"),
        ("x²", "de"),
        ("½", "de"),
        ("Ⅷ", "de"),
        ("covid19", "de"),
        ("a㏠", "de"),
        ("2-й", "ru"),
        ("9" * 31, "de"),
    ],
)
def test_a_token_with_digits_of_unknown_reading_is_left_to_the_aligner(stage, text, language):
    assert spoken(stage, f"x {text}", language) == ["x", ""]


def test_the_recipe_s_language_goes_before_the_row_s(romanise):
    stage = UromanNormaliser(UromanConfig(language="fra"), romanise)
    assert spoken(stage, "x 21", "de") == ["x", "vingt et un"]


@given(st.integers(0, 10**12 - 1), st.sampled_from(["deu", "fra", "rus", "ara", "tel", "jpn", "fas", "vie", "kan"]))
def test_numbers_are_words_or_nothing(number, language):
    said = number_words(str(number), language)
    assert not any(char.isdecimal() for part in said for char in part)
    if number < 1_000_000:
        assert said


@pytest.mark.parametrize(
    ("tag", "code"),
    [("de", "deu"), ("DE", "deu"), ("deu", "deu"), ("zh-Hans-CN", "zho"), ("pt_BR", "por"), ("xx", "xx"), ("", "")],
)
def test_language_tags(tag, code):
    assert language_code(tag) == code


@pytest.mark.parametrize("tag", ["German", "d", "12", "ü", "-", "e n"])
def test_what_is_no_tag_is_no_language(tag):
    assert language_code(tag) == ""


# ---------------------------------------------------------------- rejects


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        ("", Reason.EMPTY_TEXT, "u0: the transcript is empty"),
        (" \t\n", Reason.EMPTY_TEXT, "u0: the transcript is empty"),
        ("— … 🎉", Reason.NO_WORDS, "u0: 3 tokens and no word among them"),
        ("21", Reason.NO_WORDS, "u0: 1 tokens and no word among them"),
        (
            "a " * (MAX_CHARACTERS // 2 + 1),
            Reason.TOO_MANY_WORDS,
            "u0: the transcript has 20002 characters, more than 20000",
        ),
        (
            "a " + "我" * (LONGEST_UNSPACED + 1),
            Reason.UNSUPPORTED_SCRIPT,
            "u0: 21 letters of a script without spaces in a row: divide the text into words by spaces",
        ),
    ],
)
def test_reasons(stage, text, reason, detail):
    found = outcome(stage, text)
    assert isinstance(found, Reject)
    assert (found.reason, found.detail, found.stage) == (reason, detail, "normalise")


@pytest.mark.parametrize("char", ["我", "あ", "カ", "ก", "ລ", "ក", "က"])
def test_the_longest_token_of_a_script_without_spaces(stage, char):
    assert isinstance(outcome(stage, char * LONGEST_UNSPACED), Spoken)
    assert outcome(stage, char * (LONGEST_UNSPACED + 1)).reason is Reason.UNSUPPORTED_SCRIPT


@pytest.mark.parametrize("char", ["d", "д", "ا", "अ", "한", "ä"])
def test_long_words_of_other_scripts_pass(stage, char):
    assert isinstance(outcome(stage, char * 60), Spoken)


# ---------------------------------------------------------------- properties

scripts = st.sampled_from("aé'’ßдשاअक्षกำ我〇々あー한ཀ²½5٣Ⅷ一\u0301\u0650\u200d\u200f\u00ad🎉—.,%-_ \u3000\u2028")
texts = st.one_of(st.text(), st.text(scripts), st.text(st.characters(categories=["L", "M", "N"], min_codepoint=0x300)))
languages = st.sampled_from(["", "de", "ru", "ar", "zh", "eng", "hi", "bo", "nonsense"])


@given(texts, languages)
@example("\ud800 \udfff", "")
@example("\x00\x1c\x85 a", "de")
@example("က" * 5 + "\u1039" * 5, "")
@example("⠃⠼⠁⠛", "")
def test_any_text_has_an_outcome_and_loses_no_token(stage, text, language):
    found = outcome(stage, text, language)
    if isinstance(found, Reject):
        return
    assert [token.text for token in found.tokens] == text.split()
    for token in found.tokens:
        for word in token.spoken:
            assert set(word) <= set("abcdefghijklmnopqrstuvwxyz'")
            assert word.strip("'") == word != ""
        if token.spoken:
            assert any(unicodedata.category(char)[0] in "LN" for char in token.text)
    assert any(token.spoken for token in found.tokens)


@given(st.lists(st.tuples(texts, languages), min_size=1, max_size=6), st.randoms())
def test_nothing_depends_on_what_came_before(romanise, rows, shuffler):
    """The romaniser keeps tables that grow while it works."""
    clips = [clip(text, language, key=f"u{i}") for i, (text, language) in enumerate(rows)]

    def by_key(order):
        found = UromanNormaliser(UromanConfig(), romanise).process(order)
        return {c.utterance.key: o if isinstance(o, Reject) else o.tokens for c, o in zip(order, found, strict=True)}

    want = by_key(clips)
    shuffler.shuffle(clips)
    assert by_key(clips) == want


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_letters_stay(romanise, text):
    assert romanise(text, "") == text


@pytest.mark.parametrize("language", ["english", "e", "EN", "en-US", "12"])
def test_bad_languages_are_named(language):
    with pytest.raises(ValueError, match=f"language must.*{language}"):
        UromanConfig(language=language)


def test_the_romaniser_s_tables_do_not_depend_on_order(romanise):
    """A consonant of Devanagari first met with a hyphen must read like one first met without."""
    words = ["क", "कमल", "क-", "नमस्ते", "ब", "বাংলা", "தமிழ்", "བོད"]
    forward = [romanise(word, "") for word in words]
    assert [romanise(word, "") for word in reversed(words)] == forward[::-1]
