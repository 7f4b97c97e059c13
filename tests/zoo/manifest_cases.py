"""Manifests that are damaged as a whole: each ends in one line, or in its rows and rejects."""

import gzip
import io
import json
import os
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.zoo.book import Zoo

ERROR = "error"
ROW = json.dumps({"audio_filepath": "../good.flac", "text": "x", "offset": 0.3, "duration": 3.79}).encode()
HEAD = b"audio_filepath,text\n"


def add_manifests(zoo: Zoo) -> None:
    for name, data, expect in (
        ("empty.jsonl", b"", ERROR),
        ("blank.jsonl", b"\n\n  \n", ERROR),
        ("bom-crlf.jsonl", b"\xef\xbb\xbf" + ROW + b"\r\n\r\n", "1 + 0"),
        ("utf16.jsonl", (ROW + b"\n" + ROW + b"\n").decode().encode("utf-16"), ERROR),
        ("array.json", b"[\n" + ROW + b"\n]\n", "1 + 2"),
        ("pretty.json", json.dumps(json.loads(ROW), indent=1).encode(), ERROR),
        ("no-end.jsonl", ROW, "1 + 0"),
        ("deep.jsonl", b"[" * 1_000_000 + b"\n" + ROW, "1 + 1"),
        ("packed.jsonl", gzip.compress(ROW, mtime=0), ERROR),
        ("nul.jsonl", bytes(5000) + b"\n" + ROW, "1 + 1"),
        ("cr.jsonl", ROW + b"\r" + ROW, ERROR),
        ("text.xml", b"<a/>", ERROR),
        ("nosuffix", ROW, ERROR),
        ("binary.jsonl", bytes(range(256)) * 20, ERROR),
        (
            "apart.jsonl",
            b"".join(
                b'{"audio_filepath": "a", "text": "x", "recording": "%s", "id": %d}\n' % (r, i)
                for i, r in enumerate((b"p", b"q", b"p"))
            ),
            ERROR,
        ),
        ("store.jsonl", ROW + b"\n" + b'{"audio_filepath": "gs://b/k.wav", "text": "x"}', ERROR),
        ("quote.csv", HEAD + b'a.wav,"open\nb.wav,x\n', ERROR),
        ("columns.csv", b"path,words\na,b\n", ERROR),
        ("twice.csv", b"audio_filepath,text,text\na,b,c\n", ERROR),
        ("nul.csv", HEAD + b"a\0.wav,x\nb.wav,y\n", "1 + 1"),
        ("field.csv", HEAD + b'a.wav,"' + b"x" * (2**24 + 10) + b'"\n', ERROR),
        ("header.csv", b"a," * 200_000 + b"\n", ERROR),
        ("short.csv", HEAD + b"a.wav\nb.wav,x\nc.wav,y,z\n", "1 + 2"),
        ("only.csv", HEAD, ERROR),
        ("formula.csv", HEAD + b"b.wav,=1+1\n", "1 + 0"),
        ("utf16.csv", HEAD.decode().encode("utf-16"), ERROR),
        ("cr.csv", HEAD.replace(b"\n", b"\r") + b"a,b\r", ERROR),
        ("quotes.tsv", b'audio_filepath\ttext\na.wav\t"open\n', "1 + 0"),
        ("numbers.tsv", b"audio_filepath\ttext\toffset\na\tx\t1e999\nb\ty\t0\n", "1 + 1"),
        ("text.parquet", b"PAR1 this is text PAR1", ERROR),
        ("empty.parquet", b"", ERROR),
        ("magic.parquet", b"PAR1PAR1", ERROR),
        ("sealed.parquet", b"PARE" + bytes(20) + b"PARE", ERROR),
    ):
        zoo.manifest("manifest", name, data, expect)
    add_parquet(zoo)
    add_no_files(zoo)


def add_parquet(zoo: Zoo) -> None:
    good = {"audio_filepath": ["../good.flac", "b.wav"], "text": ["x", None], "offset": [0.3, None]}

    def table(name: str, columns: dict[str, object], *expect: str) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        zoo.manifest("parquet", name, buffer.getvalue(), *expect)
        return buffer.getvalue()

    data = table("good.parquet", dict(good), "2 + 0")
    table("dictionary.parquet", {k: pa.array(v).dictionary_encode() for k, v in good.items() if k != "offset"}, "2 + 0")
    table("large.parquet", {k: pa.array(v, pa.large_string()) for k, v in good.items() if k != "offset"}, "2 + 0")
    table("binary.parquet", {**good, "text": [b"x", b"y"]}, ERROR)
    table("list.parquet", {**good, "text": [["x"], ["y"]]}, ERROR)
    table("struct.parquet", {**good, "audio_filepath": [{"a": "x"}, {"a": "y"}]}, ERROR)
    table("map.parquet", {**good, "text": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int32()))}, ERROR)
    table("time.parquet", {**good, "offset": pa.array([1, 2], pa.timestamp("ns"))}, ERROR)
    table("nan.parquet", {**good, "offset": [float("nan"), 1e308]}, ERROR)
    table("negative.parquet", {**good, "offset": [-1.0, 0.0]}, "1 + 1")
    table("ids.parquet", {**good, "id": pa.array([1, 2**63 - 1])}, "2 + 0")
    table("columns.parquet", {"path": ["a"], "words": ["b"]}, ERROR)
    table("rows-0.parquet", {k: pa.array([], pa.string()) for k in good}, ERROR)
    table("wide.parquet", {**good, **{f"c{i}": [i, i] for i in range(5000)}}, "2 + 0")
    nested = pa.array([1, 2])
    for _ in range(60):
        nested = pa.StructArray.from_arrays([nested], ["x"])
    table("nested.parquet", {**good, "extra": nested}, "2 + 0")
    utf8 = pa.StringArray.from_buffers(2, pa.py_buffer(struct.pack("<3i", 0, 1, 3)), pa.py_buffer(b"x\xff\xfe"))
    table("utf8.parquet", {**good, "text": utf8}, "1 + 1")
    size = struct.unpack("<I", data[-8:-4])[0]
    for name, broken in (
        ("names.parquet", data.replace(b"offset", b"off\xffet")),
        ("cut.parquet", data[: len(data) // 2]),
        ("cut-footer.parquet", data[:-9]),
        ("footer-0.parquet", data[:-8] + bytes(4) + b"PAR1"),
        ("footer-max.parquet", data[:-8] + b"\xff\xff\xff\xff" + b"PAR1"),
        ("footer-short.parquet", data[:-8] + struct.pack("<I", size - 7) + b"PAR1"),
        ("footer-zeros.parquet", data[: -8 - size] + bytes(size) + data[-8:]),
        ("footer-ones.parquet", data[: -8 - size] + b"\xff" * size + data[-8:]),
        ("pages-zeros.parquet", data[:4] + bytes(len(data) - 12 - size) + data[-8 - size :]),
        ("pages-ones.parquet", data[:4] + b"\xff" * (len(data) - 12 - size) + data[-8 - size :]),
    ):
        zoo.manifest("parquet", name, broken, ERROR)
    parts = zoo.manifest("parquet", "parts", None, "4 + 0")
    parts.mkdir(exist_ok=True)
    for name, ids in (("1.parquet", ["a", "b"]), ("0.parquet", ["c", "d"])):
        pq.write_table(pa.table({**good, "id": ids, "recording": ids}), parts / name)


def add_no_files(zoo: Zoo) -> None:
    zoo.manifest("no manifest", "missing.jsonl", None, ERROR)
    os.mkfifo(zoo.manifest("no manifest", "fifo.jsonl", None, ERROR))
    os.mkfifo(zoo.manifest("no manifest", "fifo.parquet", None, ERROR))
    for name, target in (
        ("zero.jsonl", "/dev/zero"),
        ("zero.csv", "/dev/zero"),
        ("zero.parquet", "/dev/zero"),
        ("loop.jsonl", "loop.jsonl"),
        ("dangling.csv", "x"),
    ):
        zoo.manifest("no manifest", name, None, ERROR).symlink_to(target)
    zoo.manifest("no manifest", "folder.jsonl", None, ERROR).mkdir()
    tree = zoo.manifest("tree", "tree", None, "3 + 1")
    tree.mkdir()
    (tree / "1-1.trans.txt").write_bytes(b"1-1-0 one\n" + b"x" * 300 + b" two\n1-1-\0 three\n../../etc/passwd four\n")
    (tree / "loop").symlink_to(".")
    (tree / "2-2.trans.txt").symlink_to("/dev/zero")
    sparse = zoo.manifest("manifest", "line-100mb.jsonl", ROW + b"\n{", "2 + 1")
    with open(sparse, "r+b") as file:
        file.seek(100 << 20)
        file.write(b"}\n" + ROW.replace(b'"x"', b'"y", "id": "z"'))
    wide = zoo.manifest("manifest", "line-100mb.tsv", b"audio_filepath\ttext\na\t", ERROR)
    with open(wide, "r+b") as file:
        file.seek(100 << 20)
        file.write(b"\n")


def paths(zoo: Zoo) -> list[Path]:
    return [Path(case.path) for case in zoo.manifests]
