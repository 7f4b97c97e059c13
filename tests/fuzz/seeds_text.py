"""Small valid manifests, texts, alignment files, recipes and shards."""

import gzip
import io
import json
import tarfile
from functools import cache

import pyarrow as pa
import pyarrow.parquet as pq

from tests.stages import alignment_builders as build

ROWS = (
    {"audio_filepath": "a.wav", "text": "hello there", "id": "u1", "offset": 0.5, "duration": 1.25, "channel": 0},
    {"audio_filepath": "a.wav", "text": "na\u00efve \u7de8", "speaker": 7, "recording": "r", "license": "CC0-1.0"},
    {"audio_filepath": "/x/b.flac", "text": 'say "so", twice', "id": "day 1/tape.2", "language": "en"},
    {"audio_filepath": "s3://bucket/c.ogg", "text": "", "source": "x"},
)
COLUMNS = ("audio_filepath", "text", "id", "offset", "duration", "channel", "speaker")
WORDS = [("hello", 0.1, 0.4), ("there", 0.45, 0.9), ("x", 0.9, 1.0)]
SECONDS = 1.2


def table(separator: str) -> bytes:
    lines = [separator.join(COLUMNS)]
    for row in ROWS:
        values = (str(row.get(name, "")) for name in COLUMNS)
        lines.append(separator.join('"' + v.replace('"', '""') + '"' if separator == "," else v for v in values))
    return ("\n".join(lines) + "\n").encode()


def parquet(compression: str, *, dictionary: bool) -> bytes:
    schema = pa.schema([(n, pa.float64() if n in ("offset", "duration") else pa.string()) for n in COLUMNS[:5]])
    rows = [{name: row.get(name) for name in schema.names} for row in ROWS]
    buffer = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=schema), buffer, compression=compression, use_dictionary=dictionary
    )
    return buffer.getvalue()


@cache
def manifest_seeds() -> dict[str, tuple[bytes, ...]]:
    lines = b"".join(json.dumps(row, ensure_ascii=bool(i % 2)).encode() + b"\n" for i, row in enumerate(ROWS))
    return {
        "jsonl": (lines, lines.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + lines),
        "csv": (table(","), table(",").replace(b"\n", b"\r\n")),
        "tsv": (table("\t"),),
        "parquet": (parquet("none", dictionary=False), parquet("snappy", dictionary=True)),
        "trans.txt": (b"61-7-0000 HE BEGAN\n61-7-0001 A COMPLAINT\n",),
    }


def documents(compression: str, values: pa.Array, rows_per_group: int) -> bytes:
    table = pa.table({"id": pa.array([str(i) for i in range(len(values))]), "text": values})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression=compression, row_group_size=rows_per_group)
    return buffer.getvalue()


@cache
def text_seeds() -> dict[str, tuple[bytes, ...]]:
    """Documents as the reader mixes them in: text, an empty one, none, and characters of several bytes."""
    texts = ["hello there", "na\u00efve \u7de8", "", None, "a\nb"]
    lines = b"".join(json.dumps({"text": text, "n": i}).encode() + b"\n" for i, text in enumerate(texts))
    packed = pa.array([None if text is None else text.encode() for text in texts], pa.binary())
    return {
        "jsonl": (lines, lines.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + lines + b"\n"),
        "parquet": (
            documents("none", pa.array(texts), 2),
            documents("snappy", pa.array(texts).dictionary_encode(), 5),
            documents("zstd", pa.array(texts, pa.large_string()), 3),
            documents("none", packed, 5),
        ),
    }


@cache
def alignment_seeds() -> dict[str, tuple[bytes, ...]]:
    ctm = build.ctm(WORDS, scores=[0.9, 0.5, 1.0])
    librispeech = build.librispeech(WORDS, SECONDS)
    lhotse = build.lhotse(WORDS, SECONDS, scores=[0.9, 0.5, 1.0]) + build.lhotse(WORDS, SECONDS, key="v", start=3.0)
    cut = json.dumps(
        {"id": "u", "start": 0.0, "duration": SECONDS, "supervisions": [json.loads(lhotse.split("\n")[0])]}
    )
    texts = {
        "ctm": (ctm, ";; note\n" + build.ctm(WORDS, key="v") + ctm),
        "TextGrid": (
            build.long_textgrid({"phones": WORDS, "words": WORDS}, SECONDS),
            build.short_textgrid({"ann - words": WORDS, "bob - words": WORDS}, SECONDS),
        ),
        "csv": (build.mfa_csv(WORDS),),
        "mfa.json": (build.mfa_json(WORDS, SECONDS),),
        "json": (build.whisperx(WORDS, [0.5, 0.6, 0.7]), build.whisper_timestamped(WORDS)),
        "alignment.txt": (librispeech, librispeech + build.librispeech(WORDS, SECONDS, key="v")),
        "jsonl": (lhotse, cut + "\n"),
    }
    seeds = {kind: tuple(text.encode() for text in found) for kind, found in texts.items()}
    seeds["TextGrid"] += tuple(text.encode("utf-16") for text in texts["TextGrid"])
    return seeds | {"ctm.gz": (gzip.compress(ctm.encode(), mtime=0),)}


RECIPE = b"""name: mine
plan: {hours_per_shard: 0.5}
decode: {max_seconds: 30.0, min_seconds: 0.2}
align: {backend: pocketsphinx}
units: {backend: mfcc-kmeans, clusters: 50}
sequence: {context: 512}
max_reject_rate: 0.5
"""


@cache
def shard_seeds() -> tuple[bytes, ...]:
    """Tars of two records in the dialects that `tarfile` reads."""
    made = []
    for dialect in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        long_name = "k" * 120 if dialect != tarfile.USTAR_FORMAT else "k" * 80
        with tarfile.open(fileobj=buffer, mode="w", format=dialect) as tar:
            for key in ("u1", long_name):
                for extension, data in record_members(key).items():
                    info = tarfile.TarInfo(f"{key}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        made.append(buffer.getvalue())
    return (*made, sparse_tar(4096))


def sparse_tar(size: int) -> bytes:
    """Return a tar of one sparse member in GNU's form: a header that unfolds to `size` zeros."""
    header = bytearray(512)
    header[:9] = b"u1.f0.npy"
    for at, text in ((100, b"0000644"), (124, b"%011o" % 0), (136, b"%011o" % 0), (483, b"%011o" % size)):
        header[at : at + len(text)] = text
    header[386:410] = b"%011o\0" % 0 * 2
    header[156:157], header[257:265] = b"S", b"ustar  \0"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header).ljust(10240, b"\0")


def record_members(key: str) -> dict[str, bytes]:
    """Return a small valid record as the members of a sample."""
    import numpy as np

    from schemas.clock import Samples
    from schemas.records import Word
    from schemas.unit_record import UnitRecord

    words = (Word("hello", Samples(0), Samples(8000), -1.5), Word("...", None, None, None))
    record = UnitRecord(
        key=key,
        text="hello ...",
        words=words,
        doubtful=(1,),
        num_samples=Samples(16_000),
        streams={"hubert": np.arange(25, dtype=np.uint16), "pitch": np.zeros(12, np.uint16)},
        f0=np.zeros(100, np.float32),
        flac=b"fLaC",
        meta={"id": key, "recording": "r", "index": 0},
    )
    return record.to_members()
