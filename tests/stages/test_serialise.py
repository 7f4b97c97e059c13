import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.serialise import parse_speech_tokens, speech_tokens

ids = st.lists(st.integers(0, 499), max_size=120)
few = st.lists(st.integers(0, 3), max_size=120)


def reference(streams: list[tuple[str, list[int], float, bool]]) -> list[str]:
    """The plain reading of the rule: list (time, tie, token), drop repeats, sort."""
    items = []
    for tie, (prefix, units, rate, dedup) in enumerate(streams):
        for i, unit in enumerate(units):
            if not (dedup and i and units[i - 1] == unit):
                items.append((i / rate, tie, i, f"[{prefix}{unit}]"))
    return [item[-1] for item in sorted(items)]


def test_the_released_string_form() -> None:
    text = "".join(speech_tokens([99, 99, 49, 38], [39, 39], [71]))
    assert text == "[St71][Pi39][Hu99][Hu49][Hu38]"


def test_streams_meet_by_time() -> None:
    got = speech_tokens(list(range(26)), [1, 2, 2, 3] + [3] * 8 + [4], [7, 7])
    assert got[:6] == ["[St7]", "[Pi1]", "[Hu0]", "[Hu1]", "[Pi2]", "[Hu2]"]
    assert got[-4:] == ["[Pi4]", "[Hu24]", "[St7]", "[Hu25]"]
    assert got.count("[St7]") == 2, "style is not deduplicated"


@given(hubert=few, pitch=few, style=few, dedup=st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_merging_is_a_sort_by_time(
    hubert: list[int], pitch: list[int], style: list[int], dedup: tuple[bool, bool, bool]
) -> None:
    got = speech_tokens(hubert, pitch, style, dedup_style=dedup[0], dedup_pitch=dedup[1], dedup_hubert=dedup[2])
    streams = [("St", style, 1.0, dedup[0]), ("Pi", pitch, 12.5, dedup[1]), ("Hu", hubert, 24.99, dedup[2])]
    assert got == reference(streams)


@given(hubert=ids, pitch=ids, style=ids)
def test_parsing_gives_back_full_rate_streams(hubert: list[int], pitch: list[int], style: list[int]) -> None:
    tokens = speech_tokens(hubert, pitch, style, dedup_hubert=False, dedup_pitch=False)
    for form in (tokens, "".join(tokens)):
        streams = parse_speech_tokens(form)
        assert {slot: got.tolist() for slot, got in streams.items()} == {
            "hubert": hubert, "pitch": pitch, "style": style,
        }  # fmt: skip
        assert all(got.dtype == np.uint16 for got in streams.values())


@given(hubert=few, pitch=few)
def test_parsing_a_deduplicated_string_gives_the_runs(hubert: list[int], pitch: list[int]) -> None:
    streams = parse_speech_tokens(speech_tokens(hubert, pitch))
    for slot, units in (("hubert", hubert), ("pitch", pitch)):
        assert streams[slot].tolist() == [u for i, u in enumerate(units) if i == 0 or units[i - 1] != u]


rates = st.sampled_from([1, 12.5, 24.99, 25, 50, Fraction(25, 2), Fraction(62, 3)])


@given(hubert=ids, pitch=ids, style=ids, rates=st.tuples(rates, rates, rates))
def test_full_rate_tokens_come_again_from_what_is_parsed(
    hubert: list[int], pitch: list[int], style: list[int], rates: tuple[float, float, float]
) -> None:
    options = dict(zip(("hubert_rate", "pitch_rate", "style_rate"), rates, strict=True))
    options |= {"dedup_hubert": False, "dedup_pitch": False, "dedup_style": False}
    tokens = speech_tokens(hubert, pitch, style, **options)
    assert speech_tokens(**parse_speech_tokens(tokens), **options) == tokens
    assert len(tokens) == len(hubert) + len(pitch) + len(style)


@given(hubert=few)
def test_a_base_string_is_its_own_serialisation(hubert: list[int]) -> None:
    tokens = speech_tokens(hubert)
    assert speech_tokens(parse_speech_tokens(tokens)["hubert"]) == tokens


@given(hubert=few, pitch=few, style=few)
def test_serialising_what_is_parsed_loses_nothing_more(hubert: list[int], pitch: list[int], style: list[int]) -> None:
    once = parse_speech_tokens(speech_tokens(hubert, pitch, style, dedup_style=True))
    twice = parse_speech_tokens(speech_tokens(**once, dedup_style=True))
    assert {slot: units.tolist() for slot, units in twice.items()} == {slot: u.tolist() for slot, u in once.items()}


@pytest.mark.parametrize("units", [[-1], [0, 65_536], [1.5], [True], [[1, 2]], ["1"], [None]])
def test_ids_that_no_token_could_hold_are_refused(units: list) -> None:
    with pytest.raises(ValueError, match="pitch: ids must"):
        speech_tokens([1], units)


def test_ids_of_any_integer_type_are_taken() -> None:
    assert speech_tokens(np.array([65_535, 0], dtype=np.uint16), np.array([3], dtype=np.int8), []) == [
        "[Pi3]", "[Hu65535]", "[Hu0]",
    ]  # fmt: skip
    assert speech_tokens([]) == []
    assert {slot: ids.size for slot, ids in parse_speech_tokens("").items()} == {"hubert": 0, "pitch": 0, "style": 0}


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_rate_that_is_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="style: the rate must be positive"):
        speech_tokens([1], None, [2], style_rate=rate)


@given(seconds=st.integers(1, 99), seed=st.integers(0, 100))
def test_the_released_rate_orders_like_the_exact_one_below_100_s(seconds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    streams = [rng.integers(0, 64, size=n) for n in (25 * seconds, 25 * seconds // 2, seconds)]
    assert speech_tokens(*streams) == speech_tokens(*streams, hubert_rate=25)


@pytest.mark.parametrize(
    "text", ["[Hu1", "[Hu-1]", "[Hu01]", "x[Hu1]", "[Hu1] [Hu2]", "[Xx1]", "[Hu65536]", "[Text]", f"[Hu{'9' * 5000}]"]
)
def test_what_is_no_speech_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.compile("not a speech token at character")):
        parse_speech_tokens(text)
