import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.clock import Samples
from schemas.records import Word
from schemas.words import Words

times = st.one_of(st.none(), st.integers(0, 1000).map(Samples))
lists_of_words = st.lists(st.builds(Word, st.text(), times, times, st.one_of(st.none(), st.floats(-9, 0))), max_size=6)


@given(words=lists_of_words, start=st.integers(-3, 7), stop=st.integers(-3, 7))
def test_columns_are_the_words(words: list[Word], start: int, stop: int) -> None:
    columns = Words.of(words)
    assert len(columns) == len(words)
    assert [columns[i] for i in range(len(words))] == words
    assert columns == words
    assert tuple(columns) == tuple(words)
    assert [columns[i] for i in range(-len(words), 0)] == words
    assert columns[start:stop] == words[start:stop]
    assert columns != [*words, Word("x", None, None, None)]
    assert hash(columns) == hash(tuple(words))
    assert Words.from_json([list(word) for word in words]) == words
    assert Words.of(columns) is columns


@given(parts=st.lists(st.tuples(lists_of_words, st.integers(0, 99)), max_size=3))
def test_joined_words_are_moved(parts: list[tuple[list[Word], int]]) -> None:
    def moved(time: Samples | None, by: int) -> Samples | None:
        return None if time is None else Samples(time + by)

    wanted = [Word(w.text, moved(w.start, by), moved(w.end, by), w.score) for words, by in parts for w in words]
    untimed = [i for i, w in enumerate(wanted) if w.start is None or w.end is None]
    parsed = [(Words.from_json([list(word) for word in words]), by) for words, by in parts]
    for joined in (Words.joined(parts), Words.joined(parsed), Words.joined([*parsed[:1], *parts[1:]])):
        assert joined == wanted
        assert joined.without_time() == untimed
        assert Words.of(joined).without_time() == untimed


@pytest.mark.parametrize(
    "rows",
    [
        [["a", 1, 2]],
        [["a", 1, 2, -1.0, 3]],
        [["a", 1, 2, -1.0], ["b", 1, 2]],
        [["a", 1, 2, -1.0], ["b", 1, 2, -1.0, 3]],
        [["a", 1.0, 2, -1.0]],
        [["a", 1, True, -1.0]],
        [["a", 1, "2", -1.0]],
        [[5, 1, 2, -1.0]],
        [[None, 1, 2, -1.0]],
        [["a", 1, 2, "x"]],
        3,
        [3],
    ],
)
def test_rows_that_are_no_words_are_refused(rows: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Words.from_json(rows)
