"""Builders of records, documents and tiny datasets for the tests of interleaving, the reader and training."""

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.commit_form import SUMS
from pipeline.finish import write_shard_table
from pipeline.shards import num_documents, num_runs
from schemas.clock import Samples, frames_covering
from schemas.contract import UnitContract
from schemas.recipe import Recipe
from schemas.records import Word
from schemas.tables import STATS
from schemas.unit_record import UnitRecord
from stages.documents import Document, document_from

HOPS = {"hubert": 640, "pitch": 1280, "style": 16_000}
SIZES = {"hubert": 50, "pitch": 16, "style": 8}
VOCABULARY = ("the", "a", "cat", "sat", "on", "mat", "and", "dog", "ran", "to", "old", "red", "barn", "while", "moon")


class ByteTokenizer:
    """Text as its UTF-8 bytes."""

    vocab_size = 256
    word_by_word = False

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_word(self, word: str) -> list[int]:
        return self.encode(word)

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode()


def contracts(sizes: Mapping[str, int] = SIZES) -> dict[str, UnitContract]:
    return {slot: contract(slot, size) for slot, size in sizes.items()}


def contract(slot: str, size: int) -> UnitContract:
    return UnitContract(
        stream=slot,
        extractor="synthetic",
        version=1,
        model_sha256="",
        layer=None,
        codebook_sha256="0" * 64,
        codebook_size=size,
        frame_rate=f"{16_000 // HOPS[slot]}/1" if slot != "pitch" else "25/2",
        hop=HOPS[slot],
        offset=HOPS[slot] // 2,
    )


def record(
    key: str = "u0",
    words: Sequence[Word] = (Word("hello", Samples(1000), Samples(9000), -4.0),),
    *,
    num_samples: int | None = None,
    streams: Mapping[str, Sequence[int]] | None = None,
    doubtful: Iterable[int] = (),
    recording: str = "r0",
    index: int = 0,
    rng: np.random.Generator | None = None,
) -> UnitRecord:
    """A record; units that are not given are drawn, in runs."""
    length = num_samples if num_samples is not None else max((w.end or 0 for w in words), default=0) + 777
    rng = rng or np.random.default_rng(len(words))
    given = streams or {slot: in_runs(frames_covering(length, HOPS[slot]), SIZES[slot], rng) for slot in SIZES}
    return UnitRecord(
        key=key,
        text=" ".join(word.text for word in words),
        words=tuple(words),
        doubtful=tuple(doubtful),
        num_samples=Samples(length),
        streams={slot: np.array(ids, dtype=np.uint16) for slot, ids in given.items()},
        f0=None,
        flac=None,
        meta={
            "id": key,
            "recording": recording,
            "index": index,
            "speaker": "s",
            "language": "en",
            "license": "CC0-1.0",
        },
    )


def in_runs(count: int, size: int, rng: np.random.Generator) -> list[int]:
    """A walk that is easy to predict: ids mostly go up by one, each held for one to three frames."""
    ids: list[int] = []
    unit = int(rng.integers(size))
    while len(ids) < count:
        ids += [unit] * int(rng.integers(1, 4))
        unit = (unit + 1 if rng.random() < 0.9 else int(rng.integers(size))) % size
    return ids[:count]


def spoken_words(num_words: int, rng: np.random.Generator, *, untimed: float = 0.0) -> list[Word]:
    """Words with random lengths and silences between them; every n-th has no time."""
    words = []
    position = int(rng.integers(0, 4000))
    first = int(rng.integers(len(VOCABULARY)))
    for i in range(num_words):
        end = position + int(rng.integers(1600, 8000))
        text = VOCABULARY[(first + i) % len(VOCABULARY)]
        timed = rng.random() >= untimed
        words.append(Word(text, Samples(position), Samples(end), -5.0) if timed else Word(text, None, None, None))
        position = end + (int(rng.integers(0, 3000)) if rng.random() < 0.5 else 0)
    return words


def recording(
    name: str, word_counts: Sequence[int], *, first_index: int = 0, seed: int = 0, untimed: float = 0.0
) -> list[UnitRecord]:
    """Consecutive utterances of one recording, of these numbers of words."""
    rng = np.random.default_rng([seed, *name.encode()])
    return [
        record(
            f"{name}-{i:03d}",
            spoken_words(count, rng, untimed=untimed),
            recording=name,
            index=first_index + i,
            rng=rng,
        )
        for i, count in enumerate(word_counts)
    ]


def corpus(num_recordings: int, *, utterances: int = 3, words: int = 12, seed: int = 0) -> list[UnitRecord]:
    records: list[UnitRecord] = []
    for i in range(num_recordings):
        counts = [words + (i + j) % 5 for j in range(utterances)]
        records += recording(f"rec{i:02d}", counts, first_index=len(records), seed=seed)
    return records


def document(word_counts: Sequence[int] = (40,), *, seed: int = 0, untimed: float = 0.0) -> Document:
    return document_from(recording("doc", word_counts, seed=seed, untimed=untimed), contracts())


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """One to three utterances of one to thirty words, some without time and some doubtful."""
    counts = draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    untimed = draw(st.sampled_from([0.0, 0.1, 0.5]))
    records = recording("doc", counts, seed=draw(st.integers(0, 10_000)), untimed=untimed)
    return document_from(records, contracts())


@cache
def sentencepiece_model() -> bytes:
    """A small SentencePiece BPE model of the builders' words."""
    import sentencepiece

    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(VOCABULARY, size=8)) for _ in range(200)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=64,
        model_type="bpe",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_dataset(root: Path, shards: Sequence[Sequence[UnitRecord]]) -> Path:
    """Write a finished dataset: dataset.json, shards with their side files, and a tokenizer."""
    (root / "shards").mkdir(parents=True)
    (root / "artifacts").mkdir()
    model = sentencepiece_model()
    (root / "artifacts" / "tokenizer.model").write_bytes(model)
    commits = {number: write_shard(root / "shards", number, records) for number, records in enumerate(shards)}
    info = {
        "aligner": {"name": "none"},
        "code_version": "0",
        "format": "interloom-units/1",
        "inputs": sum(len(records) for records in shards),
        "name": "tiny",
        "num_samples": sum(int(item.num_samples) for records in shards for item in records),
        "plan": "",
        "reasons": {},
        "rejects": 0,
        "fingerprint": hashlib.sha256(repr([r.key for s in shards for r in s]).encode()).hexdigest()[:16],
        "recipe": Recipe(name="tiny").model_dump(mode="json"),
        "records": sum(len(records) for records in shards),
        "streams": {slot: value.to_json() for slot, value in contracts().items()},
        "shards": write_shard_table(str(root), commits),
        "splits": len(shards),
        "artifacts": {
            "tokenizer": {"path": "artifacts/tokenizer.model", "sha256": hashlib.sha256(model).hexdigest()},
        },
    }
    (root / "dataset.json").write_text(json.dumps(info))
    return root


def write_shard(folder: Path, number: int, records: Sequence[UnitRecord]) -> dict[str, object]:
    """Write a shard, its index, the statistics that readers use, and its commit record; return the record."""
    name = f"shard-{number:06d}"
    offsets = []
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for item in records:
            offsets.append(tar.offset)
            for extension, body in item.to_members().items():
                info = tarfile.TarInfo(f"{item.key}.{extension}")
                info.size = len(body)
                tar.addfile(info, io.BytesIO(body))
        offsets.append(tar.offset)
    (folder / f"{name}.tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))
    rows = [
        {
            "recording": item.meta["recording"],
            "index": item.meta["index"],
            "num_samples": item.num_samples,
            "num_words": len(item.words),
            "text_tokens": 2 * len(item.words),
            "hubert_runs": num_runs(item.streams.get("hubert")),
            "pitch_runs": num_runs(item.streams.get("pitch")),
            "style_frames": len(item.streams.get("style", ())),
        }
        for item in records
    ]
    schema = pa.schema([STATS.field(column) for column in ("recording", "index", *SUMS)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.stats.parquet")
    (folder / f"rejects-{number:06d}.jsonl").write_bytes(b"")
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.glob(f"*-{number:06d}.*"))
    }
    commit = {
        "documents": num_documents(rows),
        "files": files,
        "format": "interloom-commit/1",
        "inputs": len(records),
        "plan": "",
        "reasons": {},
        "records": len(records),
        "rejects": 0,
        "split": number,
        "unit_counts": {},
        **{column: sum(row[column] for row in rows) for column in SUMS},
    }
    (folder / f"{name}.commit.json").write_text(json.dumps(commit))
    return commit
