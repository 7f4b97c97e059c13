"""Speech tokens: unit streams merged by time into the bracketed string form of Spirit LM, and back.

Frame i of a stream takes its place at the time i / rate, the beginning of what it covers, whatever sample it stands
for. At equal times style comes before pitch and pitch before HuBERT, so speech opens with all three.
Source: arXiv 2402.05755, 3.1 and 3.2, and the order of the released tokeniser's output.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

MERGE_ORDER = ("style", "pitch", "hubert")
"""Streams by the order of their tokens at equal times."""

PREFIX = {"hubert": "Hu", "pitch": "Pi", "style": "St"}
_SLOT = {prefix: slot for slot, prefix in PREFIX.items()}
_RANK = {PREFIX[slot]: rank for rank, slot in enumerate(MERGE_ORDER)}
_TOKEN = re.compile(r"\[(Hu|Pi|St)(0|[1-9][0-9]{0,4})\]")

MAX_ID = 2**16 - 1

RELEASED_HUBERT_RATE = 24.99
"""The rate by which the release sorts; under 100 s it gives the order that the exact 25 Hz gives."""


class Timed(NamedTuple):
    """One stream to be merged.

    Attributes:
        ids: integers, shape (n,).
        times: when each begins, in any unit that the streams share; ascending, shape (n,).
    """

    ids: npt.NDArray[Any]
    times: npt.NDArray[Any]


def speech_token(slot: str, unit: int) -> str:
    """Return the token of a unit.

    >>> speech_token("hubert", 99)
    '[Hu99]'
    """
    return f"[{PREFIX[slot]}{unit}]"


def token_rank(token: str) -> int:
    """Return a speech token's place among tokens of equal time: 0 for style, 1 for pitch, 2 for HuBERT."""
    return _RANK[token[1:3]]


def speech_tokens(
    hubert: Sequence[int] | npt.NDArray[Any],
    pitch: Sequence[int] | npt.NDArray[Any] | None = None,
    style: Sequence[int] | npt.NDArray[Any] | None = None,
    *,
    hubert_rate: float | Fraction = RELEASED_HUBERT_RATE,
    pitch_rate: float | Fraction = 12.5,
    style_rate: float | Fraction = 1.0,
    dedup_hubert: bool = True,
    dedup_pitch: bool = True,
    dedup_style: bool = False,
) -> list[str]:
    """Return the tokens of a whole clip, e.g. ["[St71]", "[Pi39]", "[Hu99]", ...].

    Args:
        hubert: full-rate ids, from the beginning of the clip.
        pitch: the same, or None to leave the stream out.
        style: the same, or None to leave the stream out.
        hubert_rate: frames per second.
        pitch_rate: frames per second.
        style_rate: frames per second.
        dedup_hubert: keep the first of each run of equal ids.
        dedup_pitch: the same.
        dedup_style: the same.

    Raises:
        ValueError: if a stream is no row of integers that fit 16 bits, or a rate is not positive.
    """
    given = {"style": (style, style_rate), "pitch": (pitch, pitch_rate), "hubert": (hubert, hubert_rate)}
    streams = {slot: _clip(slot, ids, rate) for slot, (ids, rate) in given.items() if ids is not None}
    wanted = {"hubert": dedup_hubert, "pitch": dedup_pitch, "style": dedup_style}
    return merge_streams(streams, deduplicate={slot for slot, on in wanted.items() if on})


def merge_streams(streams: Mapping[str, Timed], *, deduplicate: Collection[str]) -> list[str]:
    """Deduplicate the streams named, then merge all by time; ties and equal times within a stream keep their order."""
    kept = [
        (slot, _first_of_runs(streams[slot]) if slot in deduplicate else streams[slot]) for slot in _present(streams)
    ]
    if not kept:
        return []
    tokens = [speech_token(slot, unit) for slot, stream in kept for unit in stream.ids.tolist()]
    # A stable sort over streams laid end to end in tie order needs no second key.
    order = np.argsort(np.concatenate([stream.times for _, stream in kept]), kind="stable")
    return [tokens[i] for i in order.tolist()]


def parse_speech_tokens(tokens: str | Iterable[str]) -> dict[str, npt.NDArray[np.uint16]]:
    """Return the ids of each stream in order, uint16: what is left of the frames that `speech_tokens` was given.

    Of a stream that was not deduplicated these are its frames, frame i beginning at i / rate; if none was,
    `speech_tokens` with the same rates gives the same tokens again. Of a deduplicated stream they are the ids of its
    runs: how long a run lasted is lost, save for what the order among the streams' tokens bounds. A stream that was
    left out cannot be told from an empty one.

    Args:
        tokens: the string form or its tokens; speech alone, without markers and text.

    Raises:
        ValueError: naming what is not a speech token, or an id that does not fit 16 bits.
    """
    text = tokens if isinstance(tokens, str) else "".join(tokens)
    streams: dict[str, list[int]] = {slot: [] for slot in PREFIX}
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or int(match[2]) > MAX_ID:
            raise ValueError(f"not a speech token at character {position}: {text[position : position + 20]!r}")
        streams[_SLOT[match[1]]].append(int(match[2]))
        position = match.end()
    return {slot: np.array(ids, dtype=np.uint16) for slot, ids in streams.items()}


def _clip(slot: str, ids: Sequence[int] | npt.NDArray[Any], rate: float | Fraction) -> Timed:
    units = np.asarray(ids)
    if units.ndim != 1 or (len(units) and units.dtype.kind not in "iu"):
        raise ValueError(f"{slot}: ids must be a row of integers, got {units.dtype} of shape {units.shape}")
    if len(units) and not 0 <= units.min() <= units.max() <= MAX_ID:
        raise ValueError(f"{slot}: ids must lie in [0, {MAX_ID}], got {units.min()} to {units.max()}")
    if rate <= 0:
        raise ValueError(f"{slot}: the rate must be positive, got {rate}")
    return Timed(units.astype(np.int64), np.arange(len(units)) / float(rate))


def _present(streams: Mapping[str, Timed]) -> list[str]:
    if unknown := sorted(set(streams) - set(MERGE_ORDER)):
        raise ValueError(f"unknown streams {unknown}; known are {list(MERGE_ORDER)}")
    return [slot for slot in MERGE_ORDER if slot in streams]


def _first_of_runs(stream: Timed) -> Timed:
    keep = np.ones(len(stream.ids), dtype=bool)
    keep[1:] = stream.ids[1:] != stream.ids[:-1]
    return Timed(stream.ids[keep], stream.times[keep])
