"""Policies of interleaving: which words of a document become speech and which become text, in which order.

Each is a pure function of counts, closed boundaries and a generator, linear in the words. What the papers say and what
they leave open is told in docs/policies.md.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, compress, pairwise
from typing import assert_never

import numpy as np

from schemas.sequence import (
    AsrPolicy,
    BernoulliPolicy,
    PoissonPolicy,
    Policy,
    SpeechOnlyPolicy,
    SpiritLmPolicy,
    TextOnlyPolicy,
    TtsPolicy,
    WordTranscriptionPolicy,
)
from stages.interleave import Modality, Span, Task

Words = tuple[int, int]
"""Words [start, end)."""

_MODALITIES = (Modality.TEXT, Modality.SPEECH)

_WORD = 1 << 32


def draw_spans(
    num_words: int,
    closed: Collection[int],
    policy: Policy,
    rng: np.random.Generator,
    utterances: Sequence[int] = (),
) -> tuple[Span, ...]:
    """Return the spans of words [0, num_words): a partition of them, or pairs of spans that hold the same words.

    Args:
        num_words: at least 1.
        closed: each i for which no switch may lie between words i-1 and i.
        policy: what to draw.
        rng: used up by as many draws as the policy needs.
        utterances: each i with which an utterance begins; only for the policies that know utterances.
    """
    if num_words < 1:
        raise ValueError(f"a document needs at least one word, got {num_words}")
    match policy:
        case SpiritLmPolicy():
            return _alternating(num_words, closed, policy, rng)
        case PoissonPolicy():
            return _poisson(num_words, closed, policy, rng)
        case BernoulliPolicy():
            return _bernoulli(num_words, closed, policy, rng)
        case WordTranscriptionPolicy():
            return _pairs(_open_edges(num_words, closed), Modality(policy.first), "")
        case AsrPolicy():
            return _pairs(_utterance_edges(num_words, closed, utterances), Modality.SPEECH, "asr")
        case TtsPolicy():
            return _pairs(_utterance_edges(num_words, closed, utterances), Modality.TEXT, "tts")
        case SpeechOnlyPolicy():
            return (Span(Modality.SPEECH, 0, num_words),)
        case TextOnlyPolicy():
            return (Span(Modality.TEXT, 0, num_words),)
    assert_never(policy)


def _alternating(
    num_words: int, closed: Collection[int], policy: SpiritLmPolicy, rng: np.random.Generator
) -> tuple[Span, ...]:
    """Partition the words into alternating spans whose lengths are uniform within the policy's ranges.

    A switch drawn at a closed boundary moves forward to the next open one that keeps the span within its range; if
    there is none, back to the nearest open one that does; if there is none either, forward beyond the range, or to the
    end of the document. So a length lies outside its range only next to closed boundaries or in the last span, which
    may be short (`remainder="keep"`) or be merged into the one before it, then too long (`remainder="merge"`).

    One draw for the first modality, then one per span, whatever is closed.
    """
    limits = (policy.text_words, policy.speech_words)
    widths = [high + 1 - low for low, high in limits]
    bits = _bits(rng, 3 + 2 * num_words // (limits[0][0] + limits[1][0]))
    turn = _below(2, bits)
    if policy.start != "random":
        turn = int(policy.start == "speech")
    spans: list[Span] = []
    start = 0
    while start < num_words:
        low, high = limits[turn]
        end = start + low + _below(widths[turn], bits)
        if end >= num_words or end in closed:
            end = _open_boundary(end, start + low, start + high, num_words, closed)
        if policy.remainder == "merge" and spans and end - start < low:
            spans[-1] = spans[-1]._replace(end_word=end)
        else:
            spans.append(Span(_MODALITIES[turn], start, end))
        start, turn = end, 1 - turn
    return tuple(spans)


def _bits(rng: np.random.Generator, count: int) -> Iterator[int]:
    """Yield 32 random bits at a time, those that a fresh generator gives one by one, which cost as much as ten do.

    At least `count` are drawn at the beginning.
    """
    drawn = rng.bit_generator.random_raw(-(-count // 2)).astype("<u8").view("<u4")
    yield from drawn.tolist()
    while True:
        yield int(rng.integers(_WORD, dtype=np.uint32))


def _below(width: int, bits: Iterator[int]) -> int:
    """Draw from `range(width)`, all equally likely: what `Generator.integers(width)` makes of the same bits.

    Lemire's method, https://arxiv.org/abs/1805.10941.
    """
    if width == 1:
        return 0
    while True:
        product = next(bits) * width
        if product % _WORD >= _WORD % width:
            return product // _WORD


def _open_boundary(target: int, low: int, high: int, num_words: int, closed: Collection[int]) -> int:
    if target >= num_words:
        return num_words
    if target not in closed:
        return target
    candidates = chain(range(target + 1, high + 1), range(target - 1, low - 1, -1), range(high + 1, num_words))
    return next((i for i in candidates if i >= num_words or i not in closed), num_words)


def _poisson(
    num_words: int, closed: Collection[int], policy: PoissonPolicy, rng: np.random.Generator
) -> tuple[Span, ...]:
    """Make spans of Poisson length speech until the share of the words is speech; the rest is text.

    The number of speech words is the share of `num_words`, rounded up or down at random so that its mean is exact, and
    one span is cut so that the lengths add up to it. All arrangements of the spans with text between any two are
    equally likely; where the text is too short for that, spans may touch and become one.

    Closed boundaries move the ends of spans to the nearest open ones; the next span makes up for it. In the end the
    number of speech words is as wanted, or no run of words between open boundaries could be turned to bring it nearer.
    """
    wanted = min(int(num_words * policy.speech_share + rng.random()), num_words)
    lengths: list[int] = []
    left = wanted
    while left:
        # A span of no words is none: drawn again.
        if length := min(int(rng.poisson(policy.mean_words)), left):
            lengths.append(length)
            left -= length
    count = len(lengths)
    if count > 1:
        # The one that was cut would otherwise always be the document's last.
        cut = int(rng.random() * count)
        lengths[cut], lengths[-1] = lengths[-1], lengths[cut]
    starts, before = [], 0
    for place, length in zip(_places(count, num_words - wanted + 1, rng), lengths, strict=True):
        starts.append(place + before)
        before += length
    if not closed:
        return _partition(num_words, ((start, start + length) for start, length in zip(starts, lengths, strict=True)))
    return _partition(num_words, _on_open_edges(starts, lengths, _open_edges(num_words, closed)))


def _places(count: int, places: int, rng: np.random.Generator) -> list[int]:
    """Return `count` of `range(places)`, ascending: distinct and all sets equally likely, or with repeats if too few.

    Floyd's sampling (CACM 30(9), 1987): as many draws as places are wanted.
    """
    draws = rng.random(count).tolist() if count else []
    if count > places:
        return sorted(int(draw * places) for draw in draws)
    chosen: set[int] = set()
    for highest, draw in enumerate(draws, places - count):
        place = int(draw * (highest + 1))
        chosen.add(highest if place in chosen else place)
    return sorted(chosen)


def _on_open_edges(starts: Sequence[int], lengths: Sequence[int], edges: Sequence[int]) -> list[Words]:
    """Return speech spans near to those wanted that begin and end at open edges and hold nearly as many words."""
    spans: list[Words] = []
    end = missing = 0
    for wanted_start, length in zip(starts, lengths, strict=True):
        start = _nearest(max(wanted_start, end), edges)
        end = _nearest(max(start + length + missing, start), edges)
        missing += length - (end - start)
        spans.append((start, end))
    return _evened_out(spans, missing, edges) if missing else spans


def _nearest(target: int, edges: Sequence[int]) -> int:
    after = bisect_left(edges, target)
    if after == len(edges):
        return edges[-1]
    if after and target - edges[after - 1] < edges[after] - target:
        return edges[after - 1]
    return edges[after]


def _evened_out(spans: Sequence[Words], missing: int, edges: Sequence[int]) -> list[Words]:
    """Make whole runs between open edges speech or text until no other one would bring the count of words nearer."""
    runs = list(pairwise(edges))
    spoken = [False] * len(runs)
    for start, end in spans:
        first, stop = bisect_left(edges, start), bisect_left(edges, end)
        spoken[first:stop] = [True] * (stop - first)
    while abs(left := _turn_runs(runs, spoken, missing)) < abs(missing):
        missing = left
    return list(compress(runs, spoken))


def _turn_runs(runs: Sequence[Words], spoken: list[bool], missing: int) -> int:
    """Turn runs of the modality that has too many words as long as that helps; return what is missing then.

    It begins beside the switches, so that spans grow and shrink, and makes new ones only where that is not enough.
    """
    too_many, lacking = missing < 0, abs(missing)

    def turn(i: int, most: int) -> bool:
        nonlocal lacking
        words = runs[i][1] - runs[i][0]
        if spoken[i] != too_many or words > most:
            return False
        spoken[i] = not too_many
        lacking -= words
        return True

    for switch in [i for i in range(1, len(runs)) if spoken[i] != spoken[i - 1]]:
        place, step = (switch, 1) if spoken[switch] == too_many else (switch - 1, -1)
        while 0 <= place < len(runs) and turn(place, lacking):
            place += step
    for place in range(len(runs)):
        turn(place, lacking)
    left = [(end - start, i) for i, (start, end) in enumerate(runs) if spoken[i] == too_many]
    if left:
        turn(min(left)[1], 2 * lacking - 1)
    return -lacking if too_many else lacking


def _bernoulli(
    num_words: int, closed: Collection[int], policy: BernoulliPolicy, rng: np.random.Generator
) -> tuple[Span, ...]:
    """Draw the modality of each word; words that no switch may part are drawn as one, so the mean share is exact."""
    edges = _open_edges(num_words, closed)
    spoken = (rng.random(len(edges) - 1) < policy.speech_probability).tolist()
    return _partition(num_words, compress(pairwise(edges), spoken))


def _pairs(edges: Iterable[int], first: Modality, task: Task) -> tuple[Span, ...]:
    return tuple(
        span
        for start, end in pairwise(edges)
        for span in (Span(first, start, end, task), Span(first.other, start, end))
    )


def _partition(num_words: int, speech: Iterable[Words]) -> tuple[Span, ...]:
    """Return the partition in which these words are speech: ascending, possibly touching or empty."""
    spans: list[Span] = []
    begin = done = 0
    for start, end in speech:
        if start == end:
            continue
        if start > done:
            if done > begin:
                spans.append(Span(Modality.SPEECH, begin, done))
            spans.append(Span(Modality.TEXT, done, start))
            begin = start
        done = end
    if done > begin:
        spans.append(Span(Modality.SPEECH, begin, done))
    if done < num_words:
        spans.append(Span(Modality.TEXT, done, num_words))
    return tuple(spans)


def _open_edges(num_words: int, closed: Collection[int]) -> Sequence[int]:
    """Return where a span may begin or end, ascending, with both ends of the document."""
    if not closed:
        return range(num_words + 1)
    return [i for i in range(num_words + 1) if i not in closed or i in (0, num_words)]


def _utterance_edges(num_words: int, closed: Collection[int], utterances: Iterable[int]) -> list[int]:
    return [0, *sorted({i for i in utterances if 0 < i < num_words and i not in closed}), num_words]
