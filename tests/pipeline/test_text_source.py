import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.reader import SequenceReader, text_lines
from pipeline.reader.source import BadShard, LeftOut
from pipeline.reader.text_files import HEAD, Found
from pipeline.reader.text_source import TextSource, default_index_folder
from pipeline.reader.text_tables import Table
from schemas.canonical import sha256_hex
from schemas.unit_record import npy_bytes
from stages.interleave import Modality
from stages.tokenizer import SentencePieceTokenizer
from stages.vocabulary import TokenSequence, Vocabulary
from tests.sequence_builders import SIZES, ByteTokenizer, sentencepiece_model

VOCABULARY = Vocabulary(ByteTokenizer(), SIZES)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: bool(text.strip()))
BAD_LINES = {
    b"{": "not JSON",
    b'["text"]': "not a JSON object",
    b'"text"': "not a JSON object",
    b"\xff\xfe": "not valid UTF-8",
    b'{"text": "\\ud800"}': "not valid UTF-8",
    b'{"body": "x"}': "field missing",
    b'{"text": 7}': "not a string",
    b'{"text": null}': "not a string",
    b'{"text": " \\n "}': "empty",
    b"": "empty",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "PART_BYTES", 64)
    monkeypatch.setattr(text_lines, "CHUNK", 7)


def items(source: TextSource) -> list[str | None]:
    """Decode every item in the order of the files; None for a row that is left out."""
    return read(source)[0]


def read(source: TextSource) -> tuple[list[str | None], Counter[str]]:
    """The items, and how many rows were left out by reason."""
    found: list[str | None] = []
    skipped: Counter[str] = Counter()
    for number, size in enumerate(source.sizes):
        shard = source.open(number)
        for index in range(size):
            item = shard.item(index, 0)
            assert isinstance(item, TokenSequence | LeftOut)
            if isinstance(item, LeftOut):
                name, _, why = item.why.partition(": ")
                assert name == source.name
                skipped[why] += 1
            found.append(None if isinstance(item, LeftOut) else text_of(item))
        shard.close()
    return found, skipped


def text_of(item: TokenSequence) -> str:
    (piece,) = VOCABULARY.decode(item.ids.tolist())
    assert piece.modality is Modality.TEXT
    assert not item.modality.any()
    assert item.glued.tolist() == [False, True, *[False] * (len(item.ids) - 2)], "cut anywhere but after the marker"
    return piece.text


def write_lines(path: Path, lines: list[bytes], end: bytes = b"\n", closed: bool = True) -> Path:
    path.write_bytes(end.join(lines) + (end if closed and lines else b""))
    return path


def row(text: Any, field: str = "text") -> bytes:
    return json.dumps({"id": 1, field: text}).encode()


@given(
    texts=st.lists(TEXTS | st.sampled_from(sorted(BAD_LINES)), min_size=1),
    end=st.sampled_from([b"\n", b"\r\n"]),
    closed=st.booleans(),
    mark=st.booleans(),
)
@pytest.mark.usefixtures("small_parts")
def test_lines_give_their_texts_and_bad_ones_are_counted(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | bytes], end: bytes, closed: bool, mark: bool
) -> None:
    texts = ["a document", *texts]
    lines = [row(text) if isinstance(text, str) else text for text in texts]
    path = write_lines(tmp_path_factory.mktemp("t") / "a.jsonl", lines, end, closed)
    if mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    if not closed and not lines[-1]:
        texts = texts[:-1]
    source = TextSource(str(path), VOCABULARY)
    found, skipped = read(source)
    assert found == [text if isinstance(text, str) else None for text in texts]
    assert skipped == Counter(BAD_LINES[text] for text in texts if isinstance(text, bytes))
    starts = np.cumsum([0, *(len(line) + 1 for line in path.read_bytes().split(b"\n"))])[: source.sizes.sum()]
    assert source.sizes.tolist() == [count for _, count in sorted(Counter(starts // 64).items())]


@given(data=st.binary())
def test_no_bytes_make_it_raise(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("t")
    (folder / "a.jsonl").write_bytes(data)
    write_lines(folder / "b.jsonl", [row("fine")])
    source = TextSource(str(folder), VOCABULARY)
    found, skipped = read(source)
    assert found[-1] == "fine"
    assert found[:-1].count(None) == skipped.total()


@given(texts=st.lists(st.none() | TEXTS, min_size=1), group=st.integers(1, 5), strings=st.booleans())
def test_parquet_gives_its_texts_by_row_group(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str | None], group: int, strings: bool
) -> None:
    path = tmp_path_factory.mktemp("t") / "a.parquet"
    texts = ["a document", *texts]
    bodies = texts if strings else [text.encode() if text is not None else None for text in texts]
    pq.write_table(pa.table({"id": range(len(texts)), "text": bodies}), path, row_group_size=group)
    source = TextSource(str(path), VOCABULARY)
    assert source.sizes.tolist() == [len(texts[i : i + group]) for i in range(0, len(texts), group)]
    assert read(source) == (texts, Counter({"not a string": texts.count(None)} if None in texts else {}))


def test_json_nested_without_end_is_a_bad_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [b"[" * 100_000, row("fine")])
    source = TextSource(str(path), VOCABULARY)
    assert read(source) == ([None, "fine"], {"not JSON": 1})


def test_parquet_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [b"fine", b"\xff", b" "]}), path)
    source = TextSource(str(path), VOCABULARY)
    assert read(source) == (["fine", None, None], {"not valid UTF-8": 1, "empty": 1})


def test_row_groups_come_and_go_within_the_scratch_space(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"document {i} {'x' * 1000}" for i in range(64)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=8)
    source = TextSource(str(path), VOCABULARY, scratch_bytes=20_000)
    shards = [source.open(number) for number in range(8)]
    for i in (*range(64), *reversed(range(64))):
        item = shards[i // 8].item(i % 8, 0)
        assert isinstance(item, TokenSequence)
        assert text_of(item) == texts[i]
        held = [shard for shard in range(8) if shard in source._loaded]
        assert 1 <= len(held) <= 2


def test_a_folder_holds_both_kinds_and_other_files_are_passed_over(tmp_path: Path) -> None:
    write_lines(tmp_path / "b.jsonl", [row("of b")])
    write_lines(tmp_path / "empty.jsonl", [])
    pq.write_table(pa.table({"text": ["of a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "d.parquet")
    (tmp_path / "README.md").write_text("not data")
    source = TextSource(str(tmp_path), VOCABULARY)
    assert read(source) == (["of a", "of b", None], {"field missing": 1})


@pytest.mark.usefixtures("small_parts")
def test_remote_files_read_as_local_ones(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(40)]
    write_lines(tmp_path / "a.jsonl", [row(text) for text in texts[:20]])
    pq.write_table(pa.table({"text": texts[20:]}), tmp_path / "b.parquet", row_group_size=6)
    remote = fsspec.filesystem("memory")
    for name in ("a.jsonl", "b.parquet"):
        remote.pipe_file(f"/texts/{name}", (tmp_path / name).read_bytes())
    try:
        source = TextSource("memory://texts", VOCABULARY)
        assert items(source) == items(TextSource(str(tmp_path), VOCABULARY)) == texts
        remote.pipe_file("/texts/a.jsonl", b"short")
        with pytest.raises(BadShard, match=r"a\.jsonl cannot be read \(it is shorter"):
            items(emptied(source))
    finally:
        remote.rm("/texts", recursive=True)


def emptied(source: TextSource) -> TextSource:
    """The same source with nothing at hand."""
    source._loaded.clear()
    return source


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("fine")])
    source = TextSource(str(path), VOCABULARY)
    path.unlink()
    with pytest.raises(BadShard, match=r"a\.jsonl cannot be read \(FileNotFoundError"):
        items(source)


def test_a_file_that_shrank_is_named(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("fine"), row("gone")])
    source = TextSource(str(path), VOCABULARY)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadShard, match=r"a\.jsonl cannot be read \(it is shorter"):
        items(source)


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(BadShard, match=r"a\.parquet cannot be read"):
        TextSource(str(path), VOCABULARY)
    pq.write_table(pa.table({"text": ["word " * 1000, "fine"]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[30:60] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(BadShard, match=r"a\.parquet cannot be read"):
        TextSource(str(path), VOCABULARY)


def test_a_field_that_no_row_has_is_an_error_that_names_those_found(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row("x", "body"), b"{", row("y", "title")])
    message = r"no row has text in 'text' \(2 field missing, 1 not JSON\); fields found: 'id', 'body', 'title'"
    with pytest.raises(ValueError, match=message):
        TextSource(str(tmp_path), VOCABULARY)
    assert items(TextSource(str(tmp_path), VOCABULARY, field="body")) == ["x", None, None]
    pq.write_table(pa.table({"body": ["x"], "n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"no row has text in 'n' \(.*1 not a string.*found: .*'title', 'n'"):
        TextSource(str(tmp_path), VOCABULARY, field="n")


def test_a_field_that_only_a_late_row_has_is_found(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [*[row("x", "body")] * 50, row("late")])
    assert items(TextSource(str(path), VOCABULARY)) == [None] * 50 + ["late"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "does not exist: name a .jsonl or .parquet file"),
        (lambda p: p.mkdir(), "holds no .jsonl or .parquet file .*but nothing"),
        (lambda p: p.write_text("x"), "holds no .jsonl or .parquet file .*but data"),
        (lambda p: (p.mkdir(), (p / "a.jsonl.gz").write_text("x")), "but a.jsonl.gz"),
        (lambda p: (p.mkdir(), (p / "a.jsonl").write_text("")), "holds no rows"),
    ],
)
def test_a_path_without_text_is_one_line(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=message) as error:
        TextSource(str(tmp_path / "data"), VOCABULARY)
    assert "\n" not in str(error.value)


def test_whole_texts_are_encoded_newlines_and_all(tmp_path: Path) -> None:
    vocabulary = Vocabulary(SentencePieceTokenizer(sentencepiece_model()), SIZES)
    text = "the cat\nsat  on the\n\nmat"
    path = write_lines(tmp_path / "a.jsonl", [row(text)])
    item = TextSource(str(path), vocabulary).open(0).item(0, 0)
    assert isinstance(item, TokenSequence)
    assert item.ids.tolist() == [vocabulary.marker_id(0), *vocabulary.tokenizer.encode(text)]


class Slow(io.RawIOBase):
    """Gives a thousand bytes at once, as a stream over HTTP gives what has arrived."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        return self._data.readinto(memoryview(into)[:1000])


def test_the_identity_of_a_file_does_not_depend_on_how_fast_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 500
    monkeypatch.setattr(Found, "open", lambda _: Slow(data))
    assert Found(path="http://h/a", size=len(data), changed="").head_sha256() == sha256_hex(data[:HEAD])


def test_the_index_of_a_large_file_is_kept_and_made_anew_when_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans: list[str] = []
    scan = text_lines._scanned

    def counted(found: Any) -> Any:
        scans.append(found.path)
        return scan(found)

    monkeypatch.setattr(text_lines, "_scanned", counted)
    monkeypatch.setattr(text_lines, "KEPT_FROM", 1)
    path = write_lines(tmp_path / "a.jsonl", [row("one"), row("two")])
    first = items(TextSource(str(path), VOCABULARY))
    assert len(list(Path(default_index_folder()).iterdir())) == 1
    assert items(TextSource(str(path), VOCABULARY)) == first == ["one", "two"]
    assert len(scans) == 1
    write_lines(path, [row("onetwo"), b""])
    assert path.stat().st_size != 0
    assert items(TextSource(str(path), VOCABULARY)) == ["onetwo", None]
    assert len(scans) == 2
    write_lines(path, [row("one"), row("two")])
    for damaged in (b"torn", npy_bytes(np.array([0, 5], np.uint64)), npy_bytes(np.array([0.0]))):
        for other in Path(default_index_folder()).iterdir():
            other.write_bytes(damaged)
        assert items(TextSource(str(path), VOCABULARY)) == ["one", "two"]


@pytest.mark.parametrize("when", ["same time", "another time"])
def test_a_file_of_the_same_size_has_an_index_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    monkeypatch.setattr(text_lines, "KEPT_FROM", 1)
    monkeypatch.setattr(text_lines, "HEAD", 3 if when == "another time" else text_lines.HEAD)
    path = write_lines(tmp_path / "a.jsonl", [row("one"), row("longer")])
    assert items(TextSource(str(path), VOCABULARY)) == ["one", "longer"]
    time = path.stat().st_mtime_ns
    write_lines(path, [row("longer"), row("one")])
    os.utime(path, ns=(time, time + (when == "another time") * 10**9))
    assert items(TextSource(str(path), VOCABULARY)) == ["longer", "one"]


def test_an_index_that_cannot_be_kept_is_made_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "KEPT_FROM", 1)
    path = write_lines(tmp_path / "a.jsonl", [row("one")])
    (tmp_path / "file").write_text("")
    assert items(TextSource(str(path), VOCABULARY, index_folder=str(tmp_path / "file"))) == ["one"]


def test_the_identity_says_what_the_items_depend_on(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row("one")])
    before = TextSource(str(path), VOCABULARY).identity()
    assert json.loads(json.dumps(before)) == before
    assert str(tmp_path) not in json.dumps(before)
    assert TextSource(str(path), VOCABULARY).identity() == before
    assert TextSource(str(path), Vocabulary(ByteTokenizer(), {"hubert": 7})).identity() != before
    write_lines(path, [row("two")])
    assert TextSource(str(path), VOCABULARY).identity() != before


@pytest.mark.usefixtures("small_parts")
def test_the_reader_gives_every_document_once_in_an_epoch_and_resumes(tmp_path: Path) -> None:
    texts = [f"document number {i}" for i in range(60)]
    write_lines(tmp_path / "a.jsonl", [*[row(text) for text in texts[:30]], b"{"])
    pq.write_table(pa.table({"text": texts[30:]}), tmp_path / "b.parquet", row_group_size=7)

    def reader(stream: int) -> SequenceReader:
        source = TextSource(str(tmp_path), VOCABULARY)
        return SequenceReader([source], VOCABULARY, context=64, seed=1, streams=3, serve=[stream], epochs=1)

    found: Counter[str] = Counter()
    for stream in range(3):
        whole = list(reader(stream))
        opened = reader(stream)
        first = next(iter(opened))
        other = reader(stream)
        other.load_state_dict(json.loads(json.dumps(opened.state_dict())))
        resumed = [first, *other]
        assert [b["input_ids"].tolist() for b in resumed] == [b["input_ids"].tolist() for b in whole]
        ids = [i for block in whole for i in block["input_ids"][block["document_ids"] >= 0].tolist()]
        found.update(document.split("document number ")[-1] for document in split_documents(ids))
    assert found == Counter(text.split()[-1] for text in texts)


def test_the_reader_counts_rows_without_text_and_goes_on_after_a_resume(tmp_path: Path) -> None:
    """Rows are read ahead; each counts when its turn comes, damage ends the reading or not."""
    path = write_lines(tmp_path / "a.jsonl", [row("fine " * 20) if i % 3 else b"{" for i in range(60)])

    def reader(epochs: int) -> SequenceReader:
        source = TextSource(str(path), VOCABULARY)
        return SequenceReader([source], VOCABULARY, context=64, seed=1, epochs=epochs)

    one = reader(2)
    next(iter(one))
    assert one.skipped.total() < 20
    again = reader(2)
    again.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert again.skipped == one.skipped
    for opened in (one, again):
        list(opened)
        assert opened.skipped == {f"{path}: not JSON": 40}
        assert [source["skipped"] for source in opened.progress()] == [40]


def split_documents(ids: list[int]) -> list[str]:
    """Join the stretches of each document: all begin with the word `document`."""
    text = "".join(chr(i) for i in ids if i < 256)
    return [part for part in text.replace("document number", "\0document number").split("\0") if part]


def test_a_footer_that_lies_about_its_rows_is_damage(tmp_path: Path) -> None:
    """The rows of a group, of the file and the values of a column are whole numbers in the footer: 77, then another."""
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(77)]}), tmp_path / "a.parquet")
    sound, said = (tmp_path / "a.parquet").read_bytes(), bytes((0x16, 0x9A, 0x01))  # Thrift: i64, 77 in zigzag form
    places = [at for at in range(len(sound)) if sound.startswith(said, at)]
    assert len(places) >= 3
    told = set()
    for number in (0x99, 0x9C):  # -77, 78
        for chosen in (*([at] for at in places), places):
            data = bytearray(sound)
            for at in chosen:
                data[at + 1] = number
            (tmp_path / "a.parquet").write_bytes(data)
            try:
                read(TextSource(str(tmp_path / "a.parquet"), VOCABULARY))
            except BadShard as error:
                told.add(str(error).partition("(")[2].partition(")")[0])
    assert "its footer contradicts itself" in told


@pytest.mark.parametrize("rows", [0, 2])
def test_a_row_group_of_other_rows_than_its_footer_says_is_damage(tmp_path: Path, rows: int) -> None:
    pq.write_table(pa.table({"text": ["one"] * 3}), tmp_path / "a.parquet")
    source = TextSource(str(tmp_path / "a.parquet"), VOCABULARY)
    pq.write_table(
        pa.table({"text": pa.array(["one"] * rows, pa.string())}), tmp_path / "a.parquet", store_schema=False
    )
    source._loaded.clear()
    with pytest.raises(BadShard, match=rf"row group 0 holds {rows} rows, its footer says 3"):
        source.open(0).item(0, 0)


def test_an_index_beyond_the_end_of_its_dictionary_is_damage(tmp_path: Path) -> None:
    path, words = str(tmp_path / "a.parquet"), pa.array(["one", "two"])
    beyond = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int32()), words, safe=False)
    rows = Table(path, ("text",), pa.table({"text": beyond}))
    assert rows.text(0) == "one"
    with pytest.raises(BadShard, match=r"a\.parquet cannot be read \(ArrowIndexError"):
        rows.text(1)


def test_long_names_of_fields_are_cut_in_the_message(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [json.dumps({"x" * 9000 + str(i): "a"}).encode() for i in range(30)])
    with pytest.raises(ValueError, match="no row has text") as caught:
        TextSource(str(path), VOCABULARY)
    assert len(str(caught.value)) < 3000
