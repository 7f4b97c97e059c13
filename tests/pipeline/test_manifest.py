"""Manifests: one row in, one row out, whatever the row holds."""

import json
import os
import re
import struct
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import manifest_files
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


def test_a_file_named_as_a_run_of_rows_is_another_recording(tmp_path: Path) -> None:
    rows = [{"audio_filepath": name, "text": "x", "id": i} for i, name in enumerate(["a", "a#2", "a", "b", "a#2", "a"])]
    found = [row.recording for row in read_manifest(write(tmp_path, *rows)) if isinstance(row, Utterance)]
    assert len(set(found)) == 6


def test_a_file_may_have_the_name_of_an_id(tmp_path: Path) -> None:
    names = [("b", "a"), ("a", "b"), ("c", "c")]
    found = list(read_manifest(write(tmp_path, *({"audio_filepath": name, "id": i, "text": "x"} for name, i in names))))
    assert [(row.recording, row.id) for row in found if isinstance(row, Utterance)] == names


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


def table(folder: Path, columns: dict[str, object], name: str = "m.parquet") -> str:
    pq.write_table(pa.table(columns), folder / name)
    return str(folder / name)


def test_parquet_gives_the_rows_of_jsonl(tmp_path: Path) -> None:
    rows = [
        {"audio_filepath": "a.wav", "text": "hello", "id": "1", "offset": 1.5, "duration": 2.0, "channel": 1},
        {"audio_filepath": "b.wav", "text": "", "id": "2", "offset": 0.0},
        {"audio_filepath": "", "text": "x", "id": "3"},
    ]
    names = ("audio_filepath", "text", "id", "offset", "duration", "channel")
    columns = {name: [row.get(name) for row in rows] for name in names}
    want = list(read_manifest(write(tmp_path, *rows)))
    found = list(read_manifest(table(tmp_path, columns)))
    assert found[:2] == want[:2]
    assert isinstance(found[2], Reject)
    assert found[2].detail == "m.parquet:row 3: 'audio_filepath' is missing or empty"
    with_gaps = columns | {"channel": pa.array([1.0, None, None])}
    assert list(read_manifest(table(tmp_path, with_gaps)))[:2] == want[:2]


def test_text_of_a_table_that_is_no_unicode_costs_its_rows(tmp_path: Path) -> None:
    texts = pa.array([b"good", b"\xff", b"also good", b"bad id"]).view(pa.string())
    ids = pa.array([b"a", b"b\xff", b"c", b"\xc3"]).view(pa.string())
    path = table(
        tmp_path, {"audio_filepath": ["a.wav"] * 4, "text": texts, "id": ids, "channel": [None, 1.0, 2.0, 3.5]}
    )
    first, *rows = read_manifest(path)
    assert isinstance(first, Utterance)
    assert (first.id, first.text) == ("a", "good")
    details = [row.detail if isinstance(row, Reject) else (row.id, row.text, row.channel) for row in rows]
    assert details == [
        "m.parquet:row 2: 'text' is not valid Unicode",
        ("c", "also good", 2),
        "m.parquet:row 4: 'id' is not valid Unicode",
    ]


def test_a_folder_of_parquet_files_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for name in ("b", "a", "c"):
        table(tmp_path / "parts", {"audio_filepath": [f"{name}.wav"], "text": ["x"]}, f"{name}.parquet")
    assert [row.id for row in read_manifest(str(tmp_path / "parts"))] == ["a.wav", "b.wav", "c.wav"]


def test_many_batches_of_parquet_come_in_order(tmp_path: Path) -> None:
    ids = [str(i) for i in range(10_001)]
    path = table(tmp_path, {"audio_filepath": ["a.wav"] * len(ids), "text": ["x"] * len(ids), "id": ids})
    assert [row.id for row in read_manifest(path)] == ids


@pytest.mark.parametrize(
    ("columns", "part"),
    [
        ({"audio_filepath": ["a"], "text": [["x"]]}, "'text' is of another type than a string"),
        ({"audio_filepath": ["a"], "text": ["x"], "offset": ["1"]}, "'offset' is of another type than a number"),
        ({"text": ["x"]}, "lacks the columns audio_filepath"),
    ],
)
def test_columns_of_another_type_are_one_error(tmp_path: Path, columns: dict[str, object], part: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(part)):
        list(read_manifest(table(tmp_path, columns)))


def test_text_of_a_parquet_file_that_is_not_utf8_costs_its_row(tmp_path: Path) -> None:
    offsets, data = pa.py_buffer(struct.pack("<4i", 0, 1, 3, 4)), pa.py_buffer(b"x\xff\xfey")
    text = pa.StringArray.from_buffers(3, offsets, data)
    first, bad, last = read_manifest(table(tmp_path, {"audio_filepath": ["a", "b", "c"], "text": text}))
    assert isinstance(bad, Reject)
    assert (first.text, last.text) == ("x", "y")  # type: ignore[union-attr]


def test_a_manifest_that_is_no_regular_file_is_never_opened(tmp_path: Path) -> None:
    for suffix in ("jsonl", "csv", "parquet"):
        os.mkfifo(tmp_path / f"m.{suffix}")
        with pytest.raises(ManifestError, match="not a regular file"):
            list(read_manifest(str(tmp_path / f"m.{suffix}")))


def test_a_line_too_long_costs_its_row_and_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_files, "MAX_LINE", 1000)
    long = {**GOOD, "text": "x" * 5000}
    first, bad, last = read_manifest(write(tmp_path, {**GOOD, "id": "1"}, long, {**GOOD, "id": "2"}))
    assert isinstance(bad, Reject)
    assert [first.id, last.id] == ["1", "2"]
    (tmp_path / "m.tsv").write_text("audio_filepath\ttext\na\t" + "x" * 5000 + "\n")
    with pytest.raises(ManifestError, match="line 2"):
        list(read_manifest(str(tmp_path / "m.tsv")))


@pytest.mark.parametrize(
    "audio",
    ["ftp://x/a.wav", "simplecache::s3://x/a.wav", "s3://b/zip://x::y", "local:///dev/zero", "S3://b/k", "x://y"],
)
def test_audio_behind_an_odd_url_is_a_bad_row(tmp_path: Path, audio: str) -> None:
    _, bad = read_manifest(write(tmp_path, GOOD, {**GOOD, "audio_filepath": audio}))
    assert isinstance(bad, Reject)
    assert bad.reason is Reason.BAD_ROW


def test_a_store_that_nothing_installed_reads_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(scheme: str) -> None:
        raise ImportError(f"install {scheme}fs")

    monkeypatch.setattr("fsspec.get_filesystem_class", absent)
    with pytest.raises(ManifestError, match=r"manifest.jsonl:2: nothing installed reads gs://; install gsfs"):
        list(read_manifest(write(tmp_path, GOOD, {**GOOD, "audio_filepath": "gs://b/k.wav"})))


def test_a_file_url_is_a_path(tmp_path: Path) -> None:
    (row,) = read_manifest(write(tmp_path, {**GOOD, "audio_filepath": "file:///x/a.wav"}))
    assert isinstance(row, Utterance)
    assert row.location == "/x/a.wav"


def test_utf16_is_not_read_by_halves(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text((json.dumps(GOOD) + "\n") * 2, encoding="utf-16")
    with pytest.raises(ManifestError, match="no usable row"):
        list(read_manifest(str(tmp_path / "m.jsonl")))


def test_a_column_that_comes_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("audio_filepath,text,text\na,b,c\n")
    with pytest.raises(ManifestError, match="has text twice"):
        list(read_manifest(str(tmp_path / "m.csv")))


def test_an_id_longer_than_a_file_name_may_be_is_a_row_like_others(tmp_path: Path) -> None:
    (tmp_path / "1-1.trans.txt").write_text("x" * 300 + " one\n1-1-1 two\n")
    assert [row.text for row in read_manifest(str(tmp_path))] == ["one", "two"]  # type: ignore[union-attr]


def test_messages_are_one_line_whatever_a_file_holds(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('"a\nb\x1b[31m\u202e",text\n')
    with pytest.raises(ManifestError) as caught:
        list(read_manifest(str(tmp_path / "m.csv")))
    assert str(caught.value).isprintable()


class Refusing(BaseHTTPRequestHandler):
    """Answers with the status that the path names."""

    def do_GET(self) -> None:
        self.send_error(int(self.path[1:4]))

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing is shown."""


@pytest.mark.parametrize(
    ("status", "told"), [(404, "no such manifest"), (403, "the server answers 403"), (None, "cannot be reached")]
)
def test_a_manifest_that_a_server_does_not_give_is_told_without_credentials(status: int | None, told: str) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    if status is None:
        server.shutdown()
        server.server_close()
    url = f"http://user:sekret@127.0.0.1:{server.server_port}/{status}.jsonl?token=abcdef"
    try:
        with pytest.raises(ManifestError, match=told) as caught:
            list(read_manifest(url))
    finally:
        server.shutdown() if status is not None else None
        server.server_close()
    assert f"http://127.0.0.1:{server.server_port}/{status}.jsonl?token=...: " in str(caught.value)
    assert not re.search("sekret|abcdef", str(caught.value))
