"""Manifests: one row in, one row out, whatever the row holds."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.manifest import SAFE_ID, ManifestError, read_manifest, record_key
from schemas.records import Utterance
from schemas.rejects import Reason, Reject

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("audio_filepath", "text", "id", "offset", "duration", "channel", "speaker", "recording", "source")
ROW = st.dictionaries(st.sampled_from(FIELDS), JSON)


def write(folder: Path, *rows: object, name: str = "manifest.jsonl") -> str:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


GOOD = {"audio_filepath": "a.wav", "text": "hello"}


@given(rows=st.lists(ROW, max_size=8))
@settings(max_examples=60)
def test_every_row_ends_in_exactly_one_outcome(rows: list[dict[str, object]], tmp_path_factory: object) -> None:
    folder = tmp_path_factory.mktemp("m")  # type: ignore[attr-defined]
    path = write(folder, GOOD, *rows)
    found = list(read_manifest(path))
    assert len(found) == len(rows) + 1
    keys = [row.key for row in found]
    assert len(set(keys)) == len(keys)
    assert all(isinstance(row, Utterance | Reject) for row in found)


@given(st.text())
def test_keys_are_safe_stable_and_short(row_id: str) -> None:
    key = record_key(row_id)
    assert SAFE_ID.fullmatch(key)
    assert record_key(row_id) == key
    assert key == row_id or not SAFE_ID.fullmatch(row_id)


@pytest.mark.parametrize("row_id", ["a.b", "a/b", "../x", "x" * 300, "é", "a b", ""])
def test_unlike_ids_that_clean_alike_get_unlike_keys(row_id: str) -> None:
    assert record_key(row_id) != record_key(row_id + ".")


def test_the_second_row_of_an_id_is_rejected(tmp_path: Path) -> None:
    first, second, third = read_manifest(write(tmp_path, {**GOOD, "id": "x"}, {**GOOD, "id": "x"}, {**GOOD, "id": "y"}))
    assert isinstance(first, Utterance)
    assert isinstance(third, Utterance)
    assert isinstance(second, Reject)
    assert second.reason is Reason.DUPLICATE_ID
    assert "manifest.jsonl:2" in second.detail


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ("{not json", "not valid JSON"),
        ("[1]", "not a JSON object"),
        ({"text": "x"}, "audio_filepath"),
        ({**GOOD, "offset": -1}, "offset"),
        ({**GOOD, "duration": "1"}, "duration"),
        ({**GOOD, "duration": True}, "duration"),
        ({**GOOD, "channel": 1.5}, "channel"),
        ({**GOOD, "text": 3}, "text"),
        ({**GOOD, "audio_filepath": "a\0b"}, "NUL"),
    ],
)
def test_bad_rows_name_line_and_field(tmp_path: Path, row: object, part: str) -> None:
    _, bad = read_manifest(write(tmp_path, GOOD, row))
    assert isinstance(bad, Reject)
    assert bad.reason is Reason.BAD_ROW
    assert "manifest.jsonl:2" in bad.detail
    assert part in bad.detail


def test_relative_audio_starts_at_the_manifest(tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "audio_filepath": "/x/b.wav"}, {**GOOD, "audio_filepath": "s3://bucket/c.wav"}]
    found = [row.location for row in read_manifest(write(tmp_path, *rows)) if isinstance(row, Utterance)]
    assert found == [f"{tmp_path}/a.wav", "/x/b.wav", "s3://bucket/c.wav"]


def test_unnamed_recordings_are_runs_of_rows_of_one_file(tmp_path: Path) -> None:
    audio = ["a.wav", "a.wav", "b.wav", "a.wav", "a.wav", "c.wav"]
    rows = [{"audio_filepath": name, "text": "x", "offset": float(i)} for i, name in enumerate(audio)]
    found = [row.recording for row in read_manifest(write(tmp_path, *rows)) if isinstance(row, Utterance)]
    assert found == ["a.wav", "a.wav", "b.wav", "a.wav#3", "a.wav#3", "c.wav"]


def test_csv_and_tsv_give_the_rows_of_jsonl(tmp_path: Path) -> None:
    row = {"audio_filepath": "a.wav", "text": "hello, you", "id": "1", "offset": 1.5, "duration": 2.0, "channel": 1}
    want = list(read_manifest(write(tmp_path, row)))
    quoted = [f'"{value}"' for value in row.values()]
    for separator, name, values in ((",", "m.csv", quoted), ("\t", "m.tsv", map(str, row.values()))):
        text = separator.join(row) + "\n" + separator.join(values) + "\n"
        (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")  # as spreadsheets write it
        assert list(read_manifest(str(tmp_path / name))) == want


def test_quotes_in_a_table_swallow_no_row(tmp_path: Path) -> None:
    rows = ["audio_filepath,text", 'a.wav,"Hello, he said', "b.wav,two", "c.wav,three"]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(ManifestError, match="quote"):
        list(read_manifest(str(tmp_path / "m.csv")))
    (tmp_path / "m.tsv").write_text("\n".join(rows).replace(",", "\t", 1).replace("wav,", "wav\t") + "\n")
    found = [row.text for row in read_manifest(str(tmp_path / "m.tsv")) if isinstance(row, Utterance)]
    assert found == ['"Hello, he said', "two", "three"]


def test_a_field_may_be_long(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"audio_filepath,text\na.wav,{'word ' * 40_000}\n")
    (row,) = read_manifest(str(tmp_path / "m.csv"))
    assert len(row.text) == 200_000  # type: ignore[union-attr]


def test_a_librispeech_tree_is_a_manifest(tmp_path: Path) -> None:
    chapter = tmp_path / "61" / "70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN\n61-70968-0001 A COMPLAINT\n")
    first, second = read_manifest(str(tmp_path))
    assert isinstance(first, Utterance)
    assert isinstance(second, Utterance)
    assert (first.id, first.text, first.recording, first.speaker) == ("61-70968-0000", "HE BEGAN", "61-70968", "61")
    assert second.location == str(chapter / "61-70968-0001.flac")


@pytest.mark.parametrize("name", ["missing.jsonl", "manifest.xml", "empty.jsonl"])
def test_an_unusable_manifest_is_one_clear_error(tmp_path: Path, name: str) -> None:
    if name != "missing.jsonl":
        (tmp_path / name).write_text("")
    with pytest.raises(ManifestError, match=name):
        list(read_manifest(str(tmp_path / name)))


def test_a_table_without_the_needed_columns_says_which(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("path,text\nx,y\n")
    with pytest.raises(ManifestError, match="audio_filepath"):
        list(read_manifest(str(tmp_path / "m.csv")))


def test_default_ids_keep_apart_what_differs(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "a.wav", "text": "x"},
        {"audio_filepath": "a.flac", "text": "x"},
        {"audio_filepath": "v1.0/b", "text": "x"},
        {"audio_filepath": "v1.1/b", "text": "x"},
        {"audio_filepath": "c.wav", "text": "x", "offset": 12345.01},
        {"audio_filepath": "c.wav", "text": "x", "offset": 12345.05},
        {"audio_filepath": "c.wav", "text": "x", "offset": 12345.05, "channel": 1},
    ]
    assert all(isinstance(row, Utterance) for row in read_manifest(write(tmp_path, *rows)))


def test_the_key_of_a_rejected_row_is_no_record_key(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": name} for name in ("a-row2", "a", "a", "a-2", "a_2")]
    keys = [row.key for row in read_manifest(write(tmp_path, *rows))]
    assert len(set(keys)) == len(keys)
    assert not SAFE_ID.fullmatch(keys[2])


def test_only_line_ends_divide_a_transcript(tmp_path: Path) -> None:
    (tmp_path / "1-1.trans.txt").write_text("1-1-0 one\u2028two\x85three\n1-1-1 four\n", encoding="utf-8")
    assert [row.id for row in read_manifest(str(tmp_path))] == ["1-1-0", "1-1-1"]


def test_numbers_too_large_for_a_float_are_bad_rows(tmp_path: Path) -> None:
    huge = '{"audio_filepath": "a.wav", "text": "x", "offset": ' + "9" * 400 + "}"
    _, bad = read_manifest(write(tmp_path, GOOD, huge))
    assert isinstance(bad, Reject)
