import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import g2p
from stages.g2p_fit import fit

PHONES = {phone for _, phones in g2p.read_dictionary() for phone in phones.split()}


def test_the_shipped_tables_are_small_and_survive_their_encoding():
    data = g2p.TABLES_PATH.read_bytes()
    assert len(data) < 500_000
    assert hashlib.sha256(data).hexdigest() == g2p.tables_sha256()
    assert g2p.encode_tables(g2p.decode_tables(data)) == data


@given(st.text(max_size=60))
def test_any_text_gives_phones_of_the_model(word):
    phones = g2p.load().pronounce(word)
    assert set(phones) <= PHONES
    assert len(phones) <= 2 * len(word)


@given(st.from_regex(re.compile(r"[a-z]{1,12}('[a-z]{1,2})?", re.ASCII), fullmatch=True))
def test_apostrophes_are_passed_over(word):
    assert g2p.load().pronounce(word) == g2p.load().pronounce(word.replace("'", ""))


def test_known_names_sound_right():
    assert " ".join(g2p.load().pronounce("lindenbrook")) == "L IH N D AH N B R UH K"
    assert " ".join(g2p.load().pronounce("wrexlington")) == "R EH K S L IH NG T AH N"


def test_fitting_does_not_depend_on_the_order_of_the_words():
    words = dict(list(g2p.training_words().items())[::200])
    assert fit(words) == fit(dict(reversed(words.items())))


def test_fitted_tables_reproduce_regular_words():
    words = {"bat": ("B", "AE", "T"), "tab": ("T", "AE", "B"), "at": ("AE", "T"), "ship": ("SH", "IH", "P")}
    model = g2p.LetterToSound(fit(words))
    assert g2p.error_rate(model, words) == (0.0, 1.0)
    assert model.pronounce("abt") == ("AE", "B", "T")


def test_the_error_rate_counts_edits():
    model = g2p.LetterToSound(fit({"at": ("AE", "T")}))
    assert g2p.error_rate(model, {"at": ("AE", "T"), "ta": ("T", "AE", "K")}) == (1 / 5, 0.5)


@pytest.mark.slow
def test_the_shipped_tables_are_rebuilt_byte_for_byte(tmp_path):
    assert g2p.main(["--out", str(tmp_path / "tables.txt")]) == 0
    assert (tmp_path / "tables.txt").read_bytes() == g2p.TABLES_PATH.read_bytes()


@pytest.mark.slow
def test_held_out_words_are_pronounced_with_few_errors():
    report = g2p.held_out_report()
    assert report["words"] > 2000
    assert report["phone_error_rate"] < 0.10
