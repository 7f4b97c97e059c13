"""A synthetic units dataset for the benchmark of the reader, in the project's own files."""

import hashlib
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit_form import SUMS
from pipeline.finish import write_shard_table
from pipeline.shards import add_member, num_documents, num_runs
from schemas.clock import Samples, frames_covering
from schemas.contract import UnitContract
from schemas.recipe import Recipe
from schemas.records import Word
from schemas.tables import STATS
from schemas.unit_record import UnitRecord
from stages.tokenizer import fit_sentencepiece

HOPS = {"hubert": 640, "pitch": 1280, "style": 16_000}
SIZES = {"hubert": 501, "pitch": 64, "style": 100}
MEAN_RUN = {"hubert": 1.37, "pitch": 1.6, "style": 1.0}
"""Frames of a run: the lengths of Spirit LM's own sequences (18 HuBERT and about 9 pitch tokens a second)."""
UTTERANCES_OF_A_RECORDING = 10
UTTERANCES_OF_A_SHARD = 500
WORDS = 20_000
SYLLABLES = "ba be bi bo ca co da de di do fa fe ga go ha he in ka la le li lo ma me mi mo na no on pa ra re sa"


def write_dataset(root: Path, utterances: int, seed: int = 0) -> None:
    """Write a finished dataset of about 27 s and 73 words an utterance."""
    rng = np.random.default_rng(seed)
    words = lexicon(rng)
    (root / "shards").mkdir(parents=True)
    (root / "artifacts").mkdir()
    text = [" ".join(drawn(words, 20, rng)) for _ in range(4000)]
    model = fit_sentencepiece(text, 8000)
    (root / "artifacts" / "tokenizer.model").write_bytes(model)
    commits = {}
    for number, first in enumerate(range(0, utterances, UTTERANCES_OF_A_SHARD)):
        places = range(first, min(utterances, first + UTTERANCES_OF_A_SHARD))
        commits[number] = _write_shard(root / "shards", number, [utterance(i, words, rng) for i in places])
    info = {
        "aligner": {"name": "none"},
        "code_version": "0",
        "format": "interloom-units/1",
        "inputs": utterances,
        "name": "synthetic",
        "num_samples": sum(commit["num_samples"] for commit in commits.values()),
        "plan": "",
        "reasons": {},
        "rejects": 0,
        "fingerprint": f"synthetic-{utterances}-{seed}",
        "recipe": Recipe(name="synthetic").model_dump(mode="json"),
        "records": utterances,
        "streams": {slot: _contract(slot).to_json() for slot in SIZES},
        "shards": write_shard_table(str(root), commits),
        "splits": len(commits),
        "artifacts": {
            "tokenizer": {"path": "artifacts/tokenizer.model", "sha256": hashlib.sha256(model).hexdigest()},
        },
    }
    (root / "dataset.json").write_text(json.dumps(info))


def lexicon(rng: np.random.Generator) -> list[str]:
    """Return made-up words, the frequent ones short."""
    found: dict[str, None] = {}
    while len(found) < WORDS:
        found["".join(rng.choice(SYLLABLES.split(), size=1 + int(np.log10(len(found) + 1))))] = None
        found["".join(rng.choice(SYLLABLES.split(), size=2 + int(rng.integers(3))))] = None
    return list(found)


def drawn(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Draw words by Zipf's law."""
    ranks = np.minimum(rng.zipf(1.2, size=count) - 1, len(words) - 1)
    return [words[i] for i in ranks.tolist()]


def utterance(index: int, words: Sequence[str], rng: np.random.Generator) -> UnitRecord:
    texts = drawn(words, int(rng.integers(54, 93)), rng)
    texts[-1] += "."
    lengths = rng.integers(1600, 8000, size=len(texts))
    pauses = np.where(rng.random(len(texts)) < 0.3, rng.integers(0, 6000, size=len(texts)), 0)
    ends = np.cumsum(lengths + pauses) + int(rng.integers(0, 4000))
    spoken = tuple(
        Word(text, Samples(end - length), Samples(end), -round(float(score), 4))
        for text, end, length, score in zip(
            texts, ends.tolist(), lengths.tolist(), rng.uniform(3, 6, len(texts)), strict=True
        )
    )
    num_samples = int(ends[-1]) + 1234
    return UnitRecord(
        key=f"utterance-{index:06d}",
        text=" ".join(texts),
        words=spoken,
        doubtful=(int(rng.integers(len(texts))),) if rng.random() < 0.3 else (),
        num_samples=Samples(num_samples),
        streams={slot: _runs(frames_covering(num_samples, HOPS[slot]), slot, rng) for slot in SIZES},
        f0=None,
        flac=None,
        meta={
            "audio": f"audio/{index // UTTERANCES_OF_A_RECORDING:05d}.flac",
            "f0_hop": 160,
            "fallback": False,
            "id": f"utterance-{index:06d}",
            "index": index,
            "language": "en",
            "license": "CC0-1.0",
            "recording": f"recording-{index // UTTERANCES_OF_A_RECORDING:05d}",
            "score_all": -4.1234,
            "score_silence": -3.2345,
            "score_words": -4.3456,
            "source": "synthetic",
            "source_channels": 1,
            "source_rate": 16000,
            "speaker": f"speaker-{index // 100:04d}",
        },
    )


def _runs(count: int, slot: str, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    lengths = rng.geometric(1 / MEAN_RUN[slot], size=count)
    return np.repeat(rng.integers(0, SIZES[slot], size=count), lengths)[:count].astype(np.uint16)


def _contract(slot: str) -> UnitContract:
    return UnitContract(
        stream=slot,
        extractor="synthetic",
        version=1,
        model_sha256="",
        layer=None,
        codebook_sha256="0" * 64,
        codebook_size=SIZES[slot],
        frame_rate={"hubert": "25/1", "pitch": "25/2", "style": "1/1"}[slot],
        hop=HOPS[slot],
        offset=HOPS[slot] // 2,
    )


def _write_shard(folder: Path, number: int, records: Sequence[UnitRecord]) -> dict[str, Any]:
    name, offsets = f"shard-{number:06d}", []
    with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for item in records:
            offsets.append(tar.offset)
            for extension, body in item.to_members().items():
                add_member(tar, f"{item.key}.{extension}", body)
        offsets.append(tar.offset)
    (folder / f"{name}.tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))
    rows = [
        {
            "recording": item.meta["recording"],
            "index": item.meta["index"],
            "num_samples": item.num_samples,
            "num_words": len(item.words),
            "text_tokens": 2 * len(item.words),
            "hubert_runs": num_runs(item.streams["hubert"]),
            "pitch_runs": num_runs(item.streams["pitch"]),
            "style_frames": len(item.streams["style"]),
        }
        for item in records
    ]
    schema = pa.schema([STATS.field(column) for column in ("recording", "index", *SUMS)])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.stats.parquet", compression="zstd")
    (folder / f"rejects-{number:06d}.jsonl").write_bytes(b"")
    commit = {
        "documents": num_documents(rows),
        "files": {path.name: _described(path) for path in sorted(folder.glob(f"*-{number:06d}.*"))},
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


def _described(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
