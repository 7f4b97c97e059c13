"""The readers of alignment files, the folder and the index."""

import csv
import gzip
import json
import math
import os
import random
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schemas.records import Utterance
from stages.alignment_files import folder as folders
from stages.alignment_files import index as indexes
from stages.alignment_files import lines as line_files
from stages.alignment_files.entry import BadAlignment, Entry, ImportedWord
from stages.alignment_files.folder import alignment_files, alignment_source, source_of
from stages.alignment_files.index import AlignmentIndex, probe
from stages.alignment_files.textgrid import read_textgrid
from tests.stages import alignment_builders as build

LETTERS = st.characters(categories=["L", "N", "M", "P", "S"], exclude_characters=',"')
SEPARATORS = dict.fromkeys(map(ord, "\x85\u00a0\u2028\u2029"))


@st.composite
def alignments(draw):
    """Words on a grid of 0.1 ms without overlaps, and the length of the audio."""
    steps = draw(st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 9000)), min_size=1, max_size=12))
    texts = draw(st.lists(st.text(LETTERS, min_size=1, max_size=8), min_size=len(steps), max_size=len(steps)))
    words, at = [], 0
    for (gap, length), text in zip(steps, texts, strict=True):
        words.append((text, (at + gap) / 10_000, (at + gap + length) / 10_000))
        at += gap + length
    return words, (at + draw(st.integers(0, 3000))) / 10_000


def only(path, **fields) -> Entry:
    config = build.imported(path, **fields)
    index = AlignmentIndex(source_of(config.source.path, config.format), config.tier)
    assert len(index) == 1
    return index.read(0)


def find(index, **fields):
    given_ = {"key": "k", "id": "?", "audio": "?", "location": "", "text": "", "recording": "", "index": 0, **fields}
    return index.find(Utterance(**given_))


def index_of(path, **fields):
    config = build.imported(path, **fields)
    return AlignmentIndex(source_of(config.source.path, config.format), config.tier)


# ---------------------------------------------------------------- formats


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alignment=alignments())
def test_what_is_written_in_any_format_is_read_back(tmp_path, alignment):
    words, seconds = alignment
    for name, path in build.written(tmp_path, words, seconds).items():
        entry = only(path)
        assert [word.text for word in entry.words] == [text for text, _, _ in words], name
        for word, (_, start, end) in zip(entry.words, words, strict=True):
            assert word.start == pytest.approx(start, abs=1e-6), name
            assert word.end == pytest.approx(end, abs=1e-4), name
        states_length = name.endswith((".TextGrid", ".txt")) or name.startswith("json/")
        assert entry.seconds == (seconds if states_length else None), name


# Written by praatio 6.2.2 (short form, blanks included) and by tgt 1.5 (long form).
PRAATIO = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
2
"IntervalTier"
"ann - words"
0
1.5
5
0
0.1
""
0.1
0.35
"so"
0.35
0.4
""
0.4
1
"say ""far\"""
1
1.5
""
"TextTier"
"marks"
0
1.5
1
0.1
"x!"
"""
TGT = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0.0
xmax = 1.5
tiers? <exists>
size = 1
item []:
\titem [1]:
\t\tclass = "IntervalTier"
\t\tname = "words"
\t\txmin = 0.0
\t\txmax = 1.5
\t\tintervals: size = 3
\t\tintervals [1]:
\t\t\txmin = 0.0
\t\t\txmax = 0.1
\t\t\ttext = ""
\t\tintervals [2]:
\t\t\txmin = 0.1
\t\t\txmax = 0.35
\t\t\ttext = "so"
\t\tintervals [3]:
\t\t\txmin = 0.35
\t\t\txmax = 1.5
\t\t\ttext = "far\""""
# In the free form that Praat's manual allows, with comments and several values in a line.
FREE = """"ooTextFile" "TextGrid"
! a comment "with an open quote
0 1.5 <exists> 1 ! one tier
"IntervalTier" "words" 0 1.5 2
0 0.35 "so" .35 15e-1 "far! ""x"" "
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PRAATIO, [ImportedWord("so", 0.1, 0.35, None, "ann"), ImportedWord('say "far"', 0.4, 1.0, None, "ann")]),
        (TGT, [ImportedWord("so", 0.1, 0.35), ImportedWord("far", 0.35, 1.5)]),
        (FREE, [ImportedWord("so", 0.0, 0.35), ImportedWord('far! "x" ', 0.35, 1.5)]),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_textgrids_of_other_writers_in_every_encoding(text, words, encoding):
    data = text.replace("so", "s\u014d").encode(encoding)
    if encoding[-3:] in ("-le", "-be"):
        data = {"l": b"\xff\xfe", "b": b"\xfe\xff"}[encoding[-2]] + data
    entry = read_textgrid("a.TextGrid", data, "words")
    assert entry.seconds == 1.5
    assert list(entry.words) == [word._replace(text=word.text.replace("so", "s\u014d")) for word in words]


def test_a_tier_of_points_holds_no_words():
    with pytest.raises(BadAlignment, match=r"no interval tier 'marks'; it has 'ann - words', 'marks'"):
        read_textgrid("a.TextGrid", PRAATIO.encode(), "marks")


def test_windows_line_ends_change_nothing(tmp_path):
    words = [("so", 0.1, 0.5), ("far", 0.5, 0.75)]
    for name, path in build.written(tmp_path, words, 1.0).items():
        path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
        assert [(w.text, w.start, w.end) for w in only(path).words] == words, name


def test_a_tier_of_many_speakers_names_them(tmp_path):
    tiers = {"ann - words": [("a", 0.0, 1.0)], "bob - words": [("b", 1.0, 2.0)], "ann - phones": [("AH", 0.0, 1.0)]}
    (tmp_path / "u.TextGrid").write_text(build.long_textgrid(tiers, 2.0))
    assert [(w.text, w.lane) for w in only(tmp_path / "u.TextGrid").words] == [("a", "ann"), ("b", "bob")]
    assert [w.text for w in only(tmp_path / "u.TextGrid", tier="phones").words] == ["AH"]
    with pytest.raises(BadAlignment, match=r"no interval tier 'word'; it has 'ann - words', 'bob - words'"):
        only(tmp_path / "u.TextGrid", tier="word")


def test_ctm_fields_of_nist_nemo_and_kaldi(tmp_path):
    (tmp_path / "u.ctm").write_text(
        ";; a comment\n\nu A 1.25 0.50 so 0.75\nu\tA\t1.75\t0.1\tfar\tNA\tlex\tNA\nu A 2 .5 uh -3.5 lex ann\n"
        "u A 3 0.5 [noise] NA non-lex NA\nu A 4 1e-1 end\n"
    )
    index = index_of(tmp_path / "u.ctm")
    words = index.read(find(index, id="u").entry).words
    assert words == (
        ImportedWord("so", 1.25, 1.75, 0.75, "A"),
        ImportedWord("far", 1.75, pytest.approx(1.85), None, "A"),
        ImportedWord("uh", 2.0, 2.5, -3.5, "A"),
        ImportedWord("end", 4.0, 4.1, None, "A"),
    )


# As lhotse 1.33.0 writes a supervision at 2.0 s to 3.5 s of its recording, alone and in a window of a cut at 2.2 s.
SUPERVISION = (
    '{"id": "utt-1", "recording_id": "rec-1", "start": %s, "duration": 1.5, "channel": 0, "text": "so far", '
    '"speaker": "ann", "alignment": {"word": [["so", %s, 0.25, 0.5], ["far", %s, 0.6, null]]}}'
)
CUT = '{"id": "rec-1-0-1", "start": 2.2, "duration": 2.2, "channel": 0, "supervisions": [%s], "type": "MonoCut"}'


@pytest.mark.parametrize(
    "line",
    [
        SUPERVISION % (2.0, 2.1, 2.4),
        CUT % SUPERVISION % (-0.2, 2.1, 2.4),  # as now: times count from the start of the recording
        CUT % SUPERVISION % (-0.2, -0.1, 0.2),  # before 2023: from the start of the cut
        SUPERVISION % (2.0, 0.1, 0.4),  # of an aligner that saw only the supervision
        SUPERVISION.replace('["so", %s, 0.25, 0.5]', '{"symbol": "so", "start": %s, "duration": 0.25, "score": 0.5}')
        % (2.0, 2.1, 2.4),
    ],
)
def test_lhotse_times_are_those_of_the_recording(tmp_path, line):
    (tmp_path / "s.jsonl").write_text(line + "\n\n")
    index = index_of(tmp_path / "s.jsonl")
    for name in ("utt-1", "rec-1"):
        entry = index.read(find(index, id=name).entry)
        assert entry.on_recording
        assert entry.words == (
            ImportedWord("so", pytest.approx(2.1), pytest.approx(2.35), 0.5, "ann"),
            ImportedWord("far", pytest.approx(2.4), pytest.approx(3.0), None, "ann"),
        )


def test_supervisions_of_a_cut_are_told_apart(tmp_path):
    both = [
        json.loads(build.lhotse([(text, at, at + 0.5)], 1.0, key, "rec", start=at))
        for key, text, at in [("u1", "so", 0.0), ("u2", "far", 1.0)]
    ]
    cut = {"id": "cut", "start": 0.0, "duration": 2.0, "supervisions": both}
    (tmp_path / "cuts.jsonl").write_text(json.dumps(cut))
    index = index_of(tmp_path)
    texts = {key: [w.text for w in index.read(find(index, id=key).entry).words] for key in ("u1", "u2", "rec", "cut")}
    assert texts == {"u1": ["so"], "u2": ["far"], "rec": ["so", "far"], "cut": ["so", "far"]}


def test_lhotse_words_of_no_frame_are_refused(tmp_path):
    (tmp_path / "s.jsonl").write_text(SUPERVISION % (2.0, 7.0, 8.0))
    with pytest.raises(BadAlignment, match=r"s\.jsonl, line 1: words from 7\.00 s to 8\.60 s are not of a supervision"):
        indexes.AlignmentIndex(source_of(str(tmp_path / "s.jsonl"), "auto"), "words").read(0)


def test_kinds_of_alignment_are_quoted_short(tmp_path):
    given = SUPERVISION.replace('"word"', json.dumps("x" * 5000)) % (2.0, 2.1, 2.4)
    (tmp_path / "s.jsonl").write_text(given)
    with pytest.raises(BadAlignment, match=r"no alignment of kind 'word', there are: 'x+'") as caught:
        indexes.AlignmentIndex(source_of(str(tmp_path / "s.jsonl"), "auto"), "words").read(0)
    assert len(str(caught.value)) < 300


def test_whisper_words_without_times_and_with_every_name_of_a_score(tmp_path):
    words = [
        {"word": " 1984", "score": None},
        {"word": " so", "start": 0, "end": 1, "score": 0.5},
        {"text": "far", "start": 1.5, "end": 2, "confidence": 0.25},
        {"word": " off", "start": 2, "end": 3, "probability": 1},
        {"word": " end", "start": 3, "end": 4, "score": math.nan},
    ]
    segment = {"words": words, "speaker": "SPEAKER_00", "avg_logprob": math.nan}
    (tmp_path / "u.json").write_text(json.dumps({"segments": [segment]}))
    assert only(tmp_path / "u.json").words == (
        ImportedWord(" 1984", None, None, None, "SPEAKER_00"),
        ImportedWord(" so", 0.0, 1.0, 0.5, "SPEAKER_00"),
        ImportedWord("far", 1.5, 2.0, 0.25, "SPEAKER_00"),
        ImportedWord(" off", 2.0, 3.0, 1.0, "SPEAKER_00"),
        ImportedWord(" end", 3.0, 4.0, None, "SPEAKER_00"),
    )


# ---------------------------------------------------------------- damaged and hostile files

TG = build.short_textgrid({"words": [("so", 0.0, 1.0)]}, 1.0)
BAD = {
    "a.ctm": [
        "a 1 0.0 1.0",
        "a 1 0.0 1.0 x 0.5 lex NA more",
        "a 1 nan 1.0 x",
        "a 1 0 inf x",
        "a 1 -1 1 x",
        "a 1 0 -1 x",
        "a 1 1_0 1 x",
        "a 1 0x1 1 x",
        "a 1 \u0663 1 x",
        "a 1 1e400 1 x",
        "a 1 " + "9" * 400 + " 1 x",
        "a 1 0 1 x high",
        "a 1 * * <ALT_BEGIN>",
        b"a 1 0 1 \xff",
    ],
    "a.alignment.txt": [
        'a ",SO," "0.5,1.0"',
        'a ",SO," "0.5,0.4,1.0"',
        'a ",SO," "0.5,x,1.0"',
        "a SO 0.5",
        'a ",SO,"',
        'a "SO" "0.5" more',
    ],
    "a.jsonl": [
        '{"id": "a", "alignment": {"word": [["so", 0]]}}',
        '{"id": "a", "alignment": {"word": [["so", 0, "1"]]}}',
        '{"id": "a", "alignment": {"word": [["so", true, 1]]}}',
        '{"id": "a", "alignment": {"word": [["so", 0, 1e400]]}}',
        '{"id": "a", "alignment": {"word": [["so", 0, -1]]}}',
        '{"id": "a", "alignment": {"word": [[7, 0, 1]]}}',
        '{"id": "a", "alignment": {"word": 7}}',
        '{"id": "a", "alignment": {"phone": []}}',
    ],
    "a.TextGrid": [
        "",
        "7",
        TG.replace("ooTextFile", "Praat chronological TextGrid text file"),
        TG.replace('"TextGrid"', '"Sound"'),
        TG.replace("<exists>", "<absent>"),
        TG.replace("<exists>\n1", "<exists>\n2"),
        TG.replace("<exists>\n1", "<exists>\n1.5"),
        TG.replace("<exists>\n1", "<exists>\n999999999999"),
        TG.replace('"so"', '"so'),
        TG.replace('0.0\n1.0\n"so"', '1.0\n0.5\n"so"'),
        TG.replace('0.0\n1.0\n"so"', '0.0\n-1.0\n"so"'),
        TG.replace('0.0\n1.0\n"so"', '0.0\n1.0e999\n"so"'),
        TG[: TG.index('"so"')],
        build.short_textgrid({"words": [("so", 0.0, 1.0)]}, 1.0).replace("IntervalTier", "TextTier"),
        TG.encode("utf-16")[:-1],
        b"\xff\xfe\x00",
        b"\x80" + TG.encode(),
        '"' * 100_000,
        '"' * 100_001,
    ],
    "a.csv": [
        "",
        "file,begin,end\n",
        "Begin,End,Label,Type,Speaker\n0,1,so,words\n",
        "Begin,End,Label,Type,Speaker\n0,x,so,words,ann\n",
        "Begin,End,Label,Type,Speaker\n1,0,so,words,ann\n",
        'Begin,End,Label,Type,Speaker\n0,1,"so,words,ann\n',
        "Begin,End,Label,Type,Speaker\n0,1," + "s" * 200_000 + ",words,ann\n",
    ],
    "a.json": [
        "",
        "[]",
        "7",
        "{}",
        "{",
        '{"segments": 7}',
        '{"segments": [7]}',
        '{"segments": [{"words": [7]}]}',
        '{"segments": [{"text": "so"}]}',
        '{"segments": [{"words": [{"start": 0, "end": 1}]}]}',
        '{"segments": [{"words": [{"word": "so", "start": 1, "end": 0}]}]}',
        '{"segments": [{"words": [{"word": "so", "start": NaN, "end": 1}]}]}',
        '{"segments": [{"words": [{"word": "so", "start": 0, "end": 1, "score": "high"}]}]}',
        '{"segments": [{"words": [{"word": "so", "start": 0, "end": Infinity}]}]}',
        '{"segments": [{"words": [{"word": "so", "start": 0, "end": ' + "9" * 5000 + "}]}]}",
        "[" * 100_000,
        '{"segments": ' * 50_000,
    ],
}
FORMAT = {"a.csv": "textgrid", "a.json": "whisperx"}


def test_what_another_reader_set_for_csv_changes_nothing(tmp_path):
    (tmp_path / "a.csv").write_text(BAD["a.csv"][-1])
    said = []
    before = csv.field_size_limit(131_072)
    try:
        for limit in (131_072, 2**24):
            csv.field_size_limit(limit)
            with pytest.raises(BadAlignment) as caught:
                AlignmentIndex(source_of(str(tmp_path / "a.csv"), "textgrid"), "words").read(0)
            said.append(str(caught.value))
    finally:
        csv.field_size_limit(before)
    assert said[0] == said[1]


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, all_ in BAD.items() for i in range(len(all_))])
def test_a_damaged_file_is_named_in_one_line(tmp_path, name, number):
    text = BAD[name][number]
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    source = source_of(str(tmp_path / name), FORMAT.get(name, "auto"))
    began = time.perf_counter()
    with pytest.raises(BadAlignment) as caught:
        AlignmentIndex(source, "words").read(0)
    assert time.perf_counter() - began < 2
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    with pytest.raises(BadAlignment):
        probe(source, "words")


def test_the_message_names_the_line(tmp_path):
    lines = ["u 1 0 1 a", ";; comment", "", "u 1 1 1 b", "u 1 x 1 c"]
    (tmp_path / "a.ctm").write_text("\n".join(lines))
    with pytest.raises(BadAlignment, match=r"^a\.ctm, line 5: 'x' is no number of seconds$"):
        index_of(tmp_path / "a.ctm").read(0)
    with pytest.raises(BadAlignment, match=r"^a\.TextGrid, line 14: a number is expected"):
        read_textgrid("a.TextGrid", TG.replace('0.0\n1.0\n"so"', '1.0\n"so"').encode(), "words")


def mutated(data: bytes, seed: int) -> bytes:
    """Damage some bytes: change, delete, repeat, cut off, or insert what parsers stumble over."""
    random_, out = random.Random(seed), bytearray(data)
    spice = [b'"', b'""', b"\n", b"\0", b"{", b"]", b"-", b"1e309", b"NaN", b"\xff", b"9" * 50, b"<exists>", b"\\u0000"]
    for _ in range(random_.randint(1, 6)):
        at = random_.randrange(len(out) + 1)
        kind = random_.randrange(5)
        if kind == 0:
            out[at : at + 1] = bytes([random_.randrange(256)])
        elif kind == 1:
            del out[at : at + random_.randrange(1, 40)]
        elif kind == 2:
            out[at:at] = out[at : at + random_.randrange(1, 60)]
        elif kind == 3:
            out[at:at] = random_.choice(spice)
        elif random_.random() < 0.2:
            del out[at:]
    return bytes(out)


def survives(folder, damage):
    words = [("so", 0.0, 0.5), ('it "was"', 0.5, 0.75), ("far", 0.9, 1.25)]
    for path in build.written(folder, words, 1.5, [0.5, None, 0.25]).values():
        path.write_bytes(damage(path.read_bytes()))
        tables = "whisperx" if path.parent.name in ("x", "wt") else "textgrid"
        try:
            index = AlignmentIndex(
                source_of(str(path), tables if path.suffix in (".csv", ".json") else "auto"), "words"
            )
            entries = [index.read(number) for number in range(len(index))]
        except BadAlignment as bad:
            assert "\n" not in str(bad)  # noqa: PT017
            continue
        for word in (word for entry in entries for word in entry.words):
            assert (word.start is None) == (word.end is None)
            assert word.start is None or 0 <= word.start <= word.end < 3e7
            assert word.confidence is None or abs(word.confidence) <= 1e9


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), raw=st.none() | st.binary(max_size=200))
def test_whatever_the_bytes_words_or_one_kind_of_error_come_out(tmp_path, seed, raw):
    survives(tmp_path, lambda data: mutated(data, seed) if raw is None else raw)


@pytest.mark.slow
def test_thousands_of_damaged_files_give_words_or_one_kind_of_error(tmp_path):
    for seed in range(300):
        survives(tmp_path, lambda data, seed=seed: mutated(data, seed))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MAX_FILE", 100)
    (tmp_path / "a.TextGrid").write_text(TG + " " * 100)
    with pytest.raises(BadAlignment, match="larger than"):
        only(tmp_path / "a.TextGrid")


def test_a_line_without_an_end_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(line_files, "MAX_LINE", 200)
    text = "a 1 0 1 so\n" + "b 1 0 1 " + "x" * 5000 + "\n" + "c 1 0 1 far\n" + "c 1 1 1 " + "y" * 1000 + "\nc 1 2 1 off"
    (tmp_path / "a.ctm").write_text(text)
    index = index_of(tmp_path / "a.ctm")
    texts = {name: [word.text for word in index.read(find(index, id=name).entry).words] for name in "ac"}
    assert texts == {"a": ["so"], "c": ["far", "off"]}
    assert len(index) == 2
    assert find(index, id="b") is None
    assert "a.ctm, line 2: longer than" in index.missing(
        Utterance(key="b", id="b", audio="b", location="", text="", recording="", index=0)
    )


def test_ids_without_end_are_refused(tmp_path):
    (tmp_path / "a.ctm").write_text("k" * 2000 + " 1 0 1 so\n")
    assert len(index_of(tmp_path / "a.ctm")) == 0


def test_compressed_files_are_read_and_bombs_refused(tmp_path, monkeypatch):
    for name in ("a", "b"):
        with gzip.open(tmp_path / f"{name}.ctm.gz", "wt") as file:
            file.write(build.ctm([(f"so{name}", 0.0, 1.0)], name) + build.ctm([("far", 0.0, 1.0)], f"{name}{name}"))
    index = index_of(tmp_path)
    for name in ("a", "b", "a"):
        assert index.read(find(index, id=name).entry).words[0].text == f"so{name}"
        assert index.read(find(index, id=name * 2).entry).file == f"{name}.ctm.gz"
    monkeypatch.setattr(line_files, "MAX_UNPACKED", 10)
    with pytest.raises(BadAlignment, match=r"a\.ctm\.gz: compressed files unpack to more"):
        index_of(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b", b"no gzip", gzip.compress(b"a 1 0 1 so\n" * 50, mtime=0)[:-9]])
def test_a_damaged_archive_is_named(tmp_path, data):
    (tmp_path / "a.ctm.gz").write_bytes(data)
    source = source_of(str(tmp_path / "a.ctm.gz"), "auto")
    with pytest.raises(BadAlignment, match=r"a\.ctm\.gz|no words in files"):
        probe(source, "words")


# ---------------------------------------------------------------- folders


def test_a_folder_is_walked_without_leaving_it(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    for place in (outside, inside / "ann", inside / ".hidden"):
        place.mkdir(parents=True)
        (place / "u.TextGrid").write_text(TG)
    (inside / "._v.TextGrid").write_text(TG)
    (inside / "w.TEXTGRID").write_text(TG)
    (inside / "README.md").write_text("no alignment")
    (inside / "linked").symlink_to(outside)
    (inside / "out.TextGrid").symlink_to(outside / "u.TextGrid")
    (inside / "in.TextGrid").symlink_to(inside / "ann" / "u.TextGrid")
    (inside / "loop").symlink_to(inside)
    (inside / "dangling.TextGrid").symlink_to(inside / "nothing")
    os.mkfifo(inside / "pipe.TextGrid")
    assert alignment_files(inside) == ["ann/u.TextGrid", "in.TextGrid", "w.TEXTGRID"]
    index = index_of(inside)
    for name in ("../outside/u", str(outside / "u"), "/etc/passwd", "..", "", "/", "linked/u", "ann/../u"):
        assert find(index, id=name) is None, name


def test_names_that_are_no_unicode_can_be_hashed_and_told(tmp_path):
    odd = os.fsencode(tmp_path) + b"/caf\xe9\n.TextGrid"
    Path(os.fsdecode(odd)).write_text("broken")
    with pytest.raises(BadAlignment) as caught:
        build.imported(tmp_path).check()
    str(caught.value).encode()
    assert "\n" not in str(caught.value)


def test_the_sha256_is_that_of_the_alignments_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "u.TextGrid").write_text(TG)
    first = alignment_source(str(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert alignment_source(str(tmp_path), first.sha256) == first
    (tmp_path / "a" / "u.TextGrid").rename(tmp_path / "a" / "v.TextGrid")
    renamed = alignment_source(str(tmp_path))
    (tmp_path / "a" / "v.TextGrid").write_text(TG.replace("so", "no"))
    changed = alignment_source(str(tmp_path))
    assert len({first.sha256, renamed.sha256, changed.sha256}) == 3
    with pytest.raises(BadAlignment, match=f"sha256 is {changed.sha256}, but {first.sha256} was asked for"):
        alignment_source(str(tmp_path), first.sha256)


def test_what_is_missing_or_of_no_kind_is_named(tmp_path):
    with pytest.raises(BadAlignment, match=r"gone\.ctm: missing"):
        alignment_source(str(tmp_path / "gone.ctm"))
    with pytest.raises(BadAlignment, match="no alignment files below it"):
        alignment_source(str(tmp_path))
    (tmp_path / "a.txt").write_text("a 1 0 1 so\n")
    with pytest.raises(BadAlignment, match="set `format`"):
        source_of(str(tmp_path / "a.txt"), "auto")
    assert only(tmp_path / "a.txt", format="ctm").words[0].text == "so"
    (tmp_path / "a.TextGrid").write_text(TG)
    (tmp_path / "a.ctm").write_text("a 1 0 1 so\n")
    with pytest.raises(BadAlignment, match="formats ctm, textgrid below it"):
        source_of(str(tmp_path), "auto")
    assert source_of(str(tmp_path), "textgrid").files == ("a.TextGrid",)
    with pytest.raises(BadAlignment, match="no files of format 'lhotse'"):
        source_of(str(tmp_path), "lhotse")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("u.ctm", "ctm"),
        ("long/u.TextGrid", "textgrid"),
        ("csv/u.csv", "textgrid"),
        ("json/u.json", "textgrid"),
        ("u.alignment.txt", "librispeech"),
        ("x/u.json", "whisperx"),
        ("u.jsonl", "lhotse"),
    ],
)
def test_the_format_is_told_from_a_file_or_its_folder(tmp_path, name, kind):
    path = build.written(tmp_path / "all", [("so", 0.0, 1.0)], 1.0)[name]
    assert source_of(str(path), "auto").format == kind
    alone = tmp_path / "alone" / "deep"
    alone.mkdir(parents=True)
    path.rename(alone / path.name)
    (alone / "notes.json").write_text('{"no": "alignment"}')
    (alone / "alignment_analysis.csv").write_text("file,begin,end\n")
    assert source_of(str(tmp_path / "alone"), "auto").format == kind


# ---------------------------------------------------------------- index


def test_entries_are_found_by_id_then_recording_then_audio(tmp_path):
    for name in ("by-id", "by-recording", "by audio", "NeMo-name"):
        (tmp_path / f"{name}.TextGrid").write_text(TG)
    index = index_of(tmp_path)
    every = {"id": "by-id", "recording": "by-recording", "audio": "x/by audio.wav"}

    def name_of(**fields):
        found = find(index, **fields)
        return index.read(found.entry).file, found.by_recording

    assert name_of(**every) == ("by-id.TextGrid", False)
    assert name_of(**{**every, "id": "?"}) == ("by-recording.TextGrid", True)
    assert name_of(audio=every["audio"]) == ("by audio.TextGrid", True)
    assert name_of(audio="x/NeMo name.flac") == ("NeMo-name.TextGrid", True)
    assert name_of(id="by-id", audio="by-id.wav") == ("by-id.TextGrid", True)
    assert find(index, id="by", recording="audio", audio="by audio/other.wav") is None


def test_folders_must_agree_so_that_namesakes_are_told_apart(tmp_path):
    for name in ("ann/001", "bob/001", "bob/002"):
        (tmp_path / f"{name}.TextGrid").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.TextGrid").write_text(TG)
    index = index_of(tmp_path)

    def file_of(audio):
        found = find(index, audio=audio)
        return found and index.read(found.entry).file

    assert file_of("ann/001.wav") == "ann/001.TextGrid"
    assert file_of("corpus/wav/bob/001.flac") == "bob/001.TextGrid"
    assert file_of("002.wav") == "bob/002.TextGrid"
    assert file_of("ann/002.wav") is None
    utterance = Utterance(key="k", id="k", audio="ann/002.wav", location="", text="", recording="", index=0)
    assert index.missing(utterance) == "no alignment for 'k'; 'bob/002' lies in another folder"
    with pytest.raises(BadAlignment, match="several alignments go by that name: 'ann/001', 'bob/001'"):
        file_of("001.wav")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.sampled_from(["a", "b", "aa", "a.b", "c/d", "\u00e9"]), min_size=1, max_size=30),
    packed=st.booleans(),
)
@example(keys=["a", "b", "a"], packed=True)
def test_the_lines_of_a_recording_are_found_wherever_they_stand(tmp_path, keys, packed):
    lines = [f"{key} 1 {number} 1 w{number}" + (" " * (number % 3)) + "\n" for number, key in enumerate(keys)]
    data = "".join(lines).encode()
    path = tmp_path / ("a.ctm.gz" if packed else "a.ctm")
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    index = index_of(path)
    for key in set(keys):
        want = [f"w{number}" for number, k in enumerate(keys) if k == key]
        assert [word.text for word in index.read(find(index, id=key).entry).words] == want


def test_ids_and_paths_of_odd_shape_are_told_apart(tmp_path):
    (tmp_path / "a.ctm").write_text("/ 1 0 1 so\n. 1 0 1 so\nfile 1 0 1 far\ndir 1 0 1 off\n")
    index = index_of(tmp_path)
    assert find(index, id="?", recording="", audio="?") is None
    assert index.read(find(index, audio="dir.v1/file").entry).words[0].text == "far"
    assert index.read(find(index, audio="./dir.wav").entry).words[0].text == "off"


def test_the_same_utterance_twice_in_a_file_is_refused(tmp_path):
    (tmp_path / "a.alignment.txt").write_text('a "SO" "0.5"\nb "SO" "0.5"\na "SO" "0.6"\n')
    with pytest.raises(BadAlignment, match=r"a\.alignment\.txt, line 3: an utterance must have one line"):
        index_of(tmp_path).read(0)


def test_the_same_id_in_two_files_is_refused(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.ctm").write_text("u 1 0 1 so\n")
    index = index_of(tmp_path)
    with pytest.raises(BadAlignment, match=r"a\.ctm, line 1: the same id is in 'b\.ctm' too"):
        index.read(find(index, id="u").entry)


def test_lines_that_are_scattered_beyond_measure_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "MAX_SCATTERED", 5)
    (tmp_path / "a.ctm").write_text("a 1 0 1 x\nb 1 0 1 x\n" * 10)
    with pytest.raises(BadAlignment, match=r"a\.ctm, line 8: .*sort it"):
        index_of(tmp_path)


def test_a_line_that_cannot_be_read_is_told_where_something_is_missing(tmp_path):
    (tmp_path / "s.jsonl").write_text("{broken\n" + build.lhotse([("so", 0.0, 1.0)], 1.0, "u", "r"))
    index = index_of(tmp_path)
    assert index.read(find(index, id="u").entry).words[0].text == "so"
    utterance = Utterance(key="v", id="v", audio="v", location="", text="", recording="", index=0)
    assert index.missing(utterance) == "no alignment for 'v'; s.jsonl, line 1: no JSON"


def test_damage_is_told_every_time_and_never_cached_as_words(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.TextGrid").write_text(TG if number % 2 else "broken")
    index = index_of(tmp_path)
    for _ in range(2):
        for number in range(12):
            entry = find(index, id=str(number)).entry
            if number % 2:
                assert index.read(entry).file == f"{number}.TextGrid"
            else:
                with pytest.raises(BadAlignment, match=f"^{number}.TextGrid"):
                    index.read(entry)


def test_few_entries_are_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "_CACHED", 2)
    for number in range(3):
        (tmp_path / f"{number}.TextGrid").write_text(TG)
    index = index_of(tmp_path)
    for number in (0, 1, 0, 2):  # 1 is the one not used for longest
        index.read(number)
    for number in range(3):
        (tmp_path / f"{number}.TextGrid").unlink()
    assert [index.read(number).file for number in (0, 2)] == ["0.TextGrid", "2.TextGrid"]
    with pytest.raises(FileNotFoundError):
        index.read(1)


@pytest.mark.slow
def test_an_index_of_a_million_lines_is_made_in_seconds_and_little_memory(tmp_path):
    import tracemalloc

    with open(tmp_path / "a.ctm", "w") as file:
        for recording in range(10_000):
            file.writelines(f"recording-{recording} 1 {i * 0.3:.2f} 0.25 word{i % 7} 0.97\n" for i in range(100))
    began = time.perf_counter()
    index = index_of(tmp_path / "a.ctm")
    assert time.perf_counter() - began < 20
    tracemalloc.start()
    index = index_of(tmp_path / "a.ctm")
    assert tracemalloc.get_traced_memory()[0] < 5e6
    tracemalloc.stop()
    assert len(index.read(find(index, id="recording-9999").entry).words) == 100
