import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.records import Clip, Spoken, Utterance
from schemas.rejects import Reason, Reject
from stages.normalise import MAX_CHARACTERS, NormaliseConfig
from stages.spoken_numbers import cardinal, ordinal

STAGE = NormaliseConfig().setup()


def clip(text, seconds=1):
    utterance = Utterance(key="u1", id="u/1", audio="a.wav", location="/a.wav", text=text, recording="r", index=0)
    return Clip(utterance=utterance, pcm=np.zeros(seconds * 16_000, np.int16), source_rate=16_000, source_channels=1)


def outcome(text):
    (result,) = STAGE.process([clip(text)])
    return result


def spoken(text):
    result = outcome(text)
    assert isinstance(result, Spoken), result
    assert [token.text for token in result.tokens] == text.split()
    return " | ".join(" ".join(token.spoken) for token in result.tokens)


GOLDEN = """
paid $3,500.50 in 1984. => paid | three thousand five hundred dollars and fifty cents | in | nineteen eighty four
on March 3rd, 1984 => on | march | third | nineteen eighty four
on March 3 we met => on | march | third | we | met
on 3 March 1999 => on | third | march | nineteen ninety nine
Oct. 12th, 1901, => october | twelfth | nineteen oh one
March 10 miles away => march | ten | miles | away
it cost $5 million => it | cost | five | million dollars
about $3.5 billion, => about | three point five | billion dollars
a $5m deal => a | five million dollars | deal
only £2 or €1 => only | two pounds | or | one euro
just $0.99 or $1.01 => just | ninety nine cents | or | one dollar and one cent
paid 20 € for it => paid | twenty | euros | for | it
a 50¢ coin => a | fifty cents | coin
down -$5 today => down | minus five dollars | today
at 7:45 or 9:00 sharp => at | seven forty five | or | nine o'clock | sharp
at 9:00 a.m. today => at | nine | a m | today
by 7:05pm or 12:30 PM => by | seven oh five p m | or | twelve thirty | p m
at 9 AM => at | nine | a m
I am 9 => i | am | nine
at 17:00 hours => at | seventeen hundred | hours
up 50% or 12.5 % => up | fifty percent | or | twelve point five | percent
half is 1/2 => half | is | one half
took 2 1/2 hours => took | two | and one half | hours
took 2½ hours => took | two and one half | hours
about 3/4 of 2/3 => about | three quarters | of | two thirds
open 24/7 since 9/11 => open | twenty four seven | since | nine eleven
pages 10-12 => pages | ten to twelve
from 1914–1918 => from | nineteen fourteen to nineteen eighteen
call 555-1234 now => call | five five five one two three four | now
ran 5km at 60 mph => ran | five kilometers | at | sixty | miles per hour
1 kg and 5 m => one | kilogram | and | five | meters
it is 20°C => it | is | twenty degrees celsius
on 5G and 3D => on | five g | and | three d
Dr. Smith met Mr. and Mrs. Jones => doctor | smith | met | mister | and | missus | jones
at St. Paul on Main St. today => at | saint | paul | on | main | street | today
on Main St., Boston => on | main | street | boston
Prof. Plum vs. him etc. => professor | plum | versus | him | et cetera
No. 5, no. => number | five | no
the U.S.A. and NASA => the | u s a | and | nasa
the U.S. and XQZ ran => the | u s | and | x q z | ran
told us that US law => told | us | that | u s | law
COVID-19 and MP3 players => covid nineteen | and | m p three | players
the CEOs of NASA's board => the | ceo's | of | nasa's | board
IN EIGHTEEN THIRTEEN THE TUE TOLD US => in | eighteen | thirteen | the | tue | told | us
“café” naïve Zürich straße => cafe | naive | zurich | strasse
it’s don’t ’tis => it's | don't | 'tis
she said 'hello there' => she | said | hello | there
the boys' o'clock => the | boys' | o'clock
well-behaved and/or self—made => well behaved | and or | self made
salt & pepper + 3 @ home => salt | and | pepper | plus | three | at | home
he is #1 — yes => he | is | number one |  | yes
wait ... what 🙂 => wait |  | what | 
the word 日本語 means => the | word |  | means
about 1,250 of 350 => about | one thousand two hundred and fifty | of | three hundred and fifty
the 21st or 101st => the | twenty first | or | one hundred and first
since 2003 or 1905 => since | two thousand and three | or | nineteen oh five
some 1500 people => some | one thousand five hundred | people
agent 007 => agent | zero zero seven
id 1234567890123456 => id | one two three four five six seven eight nine zero one two three four five six
the 1980s and '90s => the | nineteen eighties | and | nineties
is 3.50 or .5 => is | three point five zero | or | point five
version 1.2.3 => version | one point two point three
due 2024-03-01 => due | march first twenty twenty four
Henry VIII and Chapter IV => henry | the eighth | and | chapter | four
a 5-year-old => a | five year old
e.g. this, i.e. that => for example | this | that is | that
mail bob@example.com => mail | bob at example dot com
at www.example.org/faq => at | w w w dot example dot org slash faq
J.K. Rowling => j k | rowling
p. 5 of Fig. 3 => page | five | of | figure | three
Ft. Worth is 6 ft. away => fort | worth | is | six | feet | away
_emph_ *bold* (aside) [sic] => emph | bold | aside | sic
soft\u00adhyphen zero\u200bwidth => softhyphen | zerowidth
\u202eleft\u202c \u2066right\u2069 => left | right
"""


@pytest.mark.parametrize("line", GOLDEN.strip("\n").split("\n"))
def test_golden_readings(line):
    text, _, want = line.partition(" => ")
    assert spoken(text) == want


@given(st.text(max_size=200))
@example("٣ 一二 ²³ ½⅓ ⅷ Ⅷ")
@example("$ $5 million million 5 million m % ° £€ 1/0 0/0 0:00 99:99 '' 's '")
@example("\ud800 a\x00b \u202e")
@example("a" * 5000 + " " + "1" * 5000 + " " + "@." * 3000)
def test_any_text_ends_as_words_or_a_reject(text):
    result = outcome(text)
    if isinstance(result, Reject):
        assert "a.wav" in result.detail
        assert (result.key, result.id, result.stage) == ("u1", "u/1", "normalise")
        return
    assert [token.text for token in result.tokens] == text.split()
    words = [word for token in result.tokens for word in token.spoken]
    assert words
    assert all(word and set(word) <= set("abcdefghijklmnopqrstuvwxyz'") and word.strip("'") for word in words)


@given(st.text(alphabet="aB1.$%,-:/'’&#@ éдSt0", max_size=60))
def test_the_bytes_of_the_outcome_are_a_function_of_the_text(text):
    first, second = outcome(text), STAGE.process([clip("Warm up on 5 March."), clip(text)])[1]
    assert getattr(first, "tokens", first) == getattr(second, "tokens", second)


@given(st.integers(0, 10**15 - 1))
def test_thousands_separators_do_not_change_a_number(number):
    assert cardinal(f"{number:,}") == cardinal(str(number))


@given(st.integers(0, 999_999))
def test_an_ordinal_differs_from_its_cardinal_in_the_last_word_only(number):
    assert ordinal(str(number))[:-1] == cardinal(str(number))[:-1]
    assert ordinal(str(number))[-1] != cardinal(str(number))[-1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", Reason.EMPTY_TEXT),
        (" \n\t\u3000", Reason.EMPTY_TEXT),
        ("... — !", Reason.NO_WORDS),
        ("\u200b", Reason.NO_WORDS),
        ("Привет мир", Reason.UNSUPPORTED_SCRIPT),
        ("日本語 です ね ok", Reason.UNSUPPORTED_SCRIPT),
        ("a " * MAX_CHARACTERS, Reason.TOO_MANY_WORDS),
    ],
)
def test_texts_without_english_words_are_rejected(text, reason):
    result = outcome(text)
    assert isinstance(result, Reject)
    assert result.reason == reason
    assert result.detail.startswith("a.wav: ")


def test_half_a_foreign_text_is_kept():
    assert spoken("ok мир") == "ok | "


def test_only_english_is_offered():
    with pytest.raises(ValueError, match="'de'"):
        NormaliseConfig(language="de")


def test_an_hour_may_have_the_transcript_of_an_hour():
    text = "word " * 10_000
    (long,) = STAGE.process([clip(text, seconds=3600)])
    assert len(long.tokens) == 10_000
    assert outcome(text).reason == Reason.TOO_MANY_WORDS
