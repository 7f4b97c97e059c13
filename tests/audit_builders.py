"""A small finished dataset, written by hand: the oracle that the audit is held against. Its strings are hostile."""

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit_form import SUMS
from pipeline.finish import write_shard_table
from pipeline.shards import num_documents
from schemas.canonical import rng_for, sha256_hex
from schemas.clock import SAMPLE_RATE, Samples, frames_covering
from schemas.contract import UnitContract
from schemas.recipe import Recipe
from schemas.records import Word
from schemas.tables import STATS
from schemas.unit_record import UnitRecord

SIZES = {"hubert": 100, "pitch": 64, "style": 16}
HOPS = {"hubert": 640, "pitch": 1280, "style": 16_000}
EXTRACTORS = {"hubert": "mfcc-kmeans", "pitch": "f0-codebook", "style": "prosody-kmeans"}
SENTENCE = "the river ran slowly past old mills and quiet gardens while evening settled over distant hills"
VOCABULARY = tuple(SENTENCE.split())

SCRIPT = "<script>window.pwned=1;alert(1)</script>"
IMAGE = '<img src=x onerror="window.pwned=1;alert(2)">'
CLOSER = "</script></svg></title><b id='injected'>bold</b>"
FORMULA = '=HYPERLINK("http://example.invalid","x")'
LINK = '<a href="javascript:alert(3)">speaker</a>'
TERMINAL = "[red]\x1b]0;owned\x07\x1b[31m[/red]"
HOSTILE = (SCRIPT, IMAGE, CLOSER, FORMULA, LINK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A dataset on disk and the records that went into it, split by split."""

    root: Path
    splits: tuple[tuple[UnitRecord, ...], ...]
    rejects: tuple[dict[str, str], ...]

    @property
    def records(self) -> tuple[UnitRecord, ...]:
        return tuple(record for split in self.splits for record in split)


def contracts() -> dict[str, UnitContract]:
    return {
        stream: UnitContract(
            stream=stream,
            extractor=EXTRACTORS[stream],
            version=1,
            model_sha256="",
            layer=None,
            codebook_sha256=f"{index:064x}",
            codebook_size=SIZES[stream],
            frame_rate=f"{SAMPLE_RATE // HOPS[stream]}/1" if stream != "pitch" else "25/2",
            hop=HOPS[stream],
            offset=HOPS[stream] // 2,
        )
        for index, stream in enumerate(SIZES)
    }


def record(key: str, *, words: int = 12, seed: int = 0, audio: bool = True, f0: bool = True, **meta: Any) -> UnitRecord:
    """Return an utterance of `words` words of about 0.3 s, voiced inside the words, sounding like a buzzing tone."""
    rng = rng_for(seed, "record", key)
    timed, cursor = [], 2_400
    for index in range(words):
        length = int(rng.integers(2_400, 7_200))
        text = VOCABULARY[int(rng.integers(len(VOCABULARY)))]
        timed.append(Word(text, Samples(cursor), Samples(cursor + length), round(-4 - 3 * float(rng.random()), 4)))
        cursor += length + (1_600 if index % 5 == 4 else 0)
    num_samples = cursor + 3_200
    pitch = _pitch(timed, num_samples, base=110 + 60 * (seed % 3))
    scores = [word.score for word in timed if word.score is not None]
    defaults = {
        "audio": f"audio/{key}.flac", "fallback": False, "id": f"id/{key}", "index": 0, "language": "en",
        "license": "CC0-1.0", "recording": key, "score_all": round(sum(scores) / len(scores) - 0.5, 4),
        "score_words": round(sum(scores) / len(scores), 4), "source": "corpus", "source_channels": 1,
        "source_rate": 16_000, "speaker": "speaker",
    }  # fmt: skip
    return UnitRecord(
        key=key,
        text=" ".join(word.text for word in timed),
        words=tuple(timed),
        doubtful=(),
        num_samples=Samples(num_samples),
        streams={stream: _units(rng, stream, num_samples) for stream in SIZES},
        f0=pitch if f0 else None,
        flac=_flac(timed, pitch, num_samples) if audio else None,
        meta={**defaults, **meta},
    )


def with_words(item: UnitRecord, words: Sequence[Word], *, doubtful: Sequence[int] = ()) -> UnitRecord:
    return replace(item, words=tuple(words), text=" ".join(w.text for w in words), doubtful=tuple(doubtful))


def stats_row(item: UnitRecord, split: int) -> dict[str, Any]:
    """The oracle of one row of the stats table."""
    timed = [word for word in item.words if word.start is not None and word.end is not None]
    voiced = _pitch(timed, item.num_samples, base=150)
    scores = [word.score for word in item.words if word.score is not None]
    return {
        **{name: item.meta[name] for name in ("id", "recording", "index", "speaker", "language", "license", "source")},
        **{
            name: item.meta[name] for name in ("source_rate", "source_channels", "score_all", "score_words", "fallback")
        },
        "key": item.key,
        "split": split,
        "num_samples": int(item.num_samples),
        "num_words": len(item.words),
        "num_characters": len(item.text),
        "num_unaligned": len(item.words) - len(timed),
        "num_doubtful": len(item.doubtful),
        "speech_samples": sum(int(word.end or 0) - int(word.start or 0) for word in timed),
        "score_worst": min(scores),
        "text_tokens": 2 * len(item.words),
        "hubert_frames": len(item.streams["hubert"]),
        "hubert_runs": runs(item.streams["hubert"]),
        "pitch_frames": len(item.streams["pitch"]),
        "pitch_runs": runs(item.streams["pitch"]),
        "style_frames": len(item.streams["style"]),
        "voiced_share": float(np.mean(voiced > 0)),
        "f0_median_hz": float(np.median(item.f0[item.f0 > 0])) if item.f0 is not None else 0.0,
    }


def runs(ids: np.ndarray) -> int:
    return 1 + int(np.count_nonzero(np.diff(ids.astype(int)))) if len(ids) else 0


def write_dataset(
    root: Path, splits: Sequence[Sequence[UnitRecord]], rejects: Sequence[Sequence[Mapping[str, str]]] = ()
) -> Built:
    """Write a finished dataset of the given records and rejects."""
    (root / "shards").mkdir(parents=True)
    (root / "artifacts").mkdir()
    (root / "artifacts" / "tokenizer.model").write_bytes(tokenizer())
    dropped = [*rejects, *[()] * (len(splits) - len(rejects))]
    commits = {
        split: _write_shard(root / "shards", split, records, dropped[split]) for split, records in enumerate(splits)
    }
    flat = tuple(item for split in splits for item in split)
    lost = tuple(dict(item) for split in dropped for item in split)
    info = {
        "code_version": "0",
        "format": "interloom-units/1",
        "plan": "0123456789abcdef",
        "name": "river",
        "fingerprint": "0123456789abcdef",
        "recipe": Recipe(name="river").model_dump(mode="json"),
        "streams": {name: contract.to_json() for name, contract in contracts().items()},
        "artifacts": {"tokenizer": {"path": "artifacts/tokenizer.model", "sha256": sha256_hex(tokenizer())}},
        "aligner": {"name": "pocketsphinx", "version": 1, "score": "nats", "dictionary_sha256": "ab" * 32},
        "shards": write_shard_table(str(root), commits),
        "splits": len(splits),
        "inputs": len(flat) + len(lost),
        "records": len(flat),
        "rejects": len(lost),
        "reasons": tally(lost),
        "num_samples": sum(int(item.num_samples) for item in flat),
    }
    (root / "dataset.json").write_text(json.dumps(info))
    return Built(root=root, splits=tuple(tuple(split) for split in splits), rejects=lost)


@cache
def tokenizer() -> bytes:
    """A SentencePiece model of a few dozen pieces with byte fallback."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(VOCABULARY)] * 4), model_writer=model, vocab_size=310, model_type="bpe",
        byte_fallback=True, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def tally(rejects: Sequence[Mapping[str, str]]) -> dict[str, int]:
    reasons = [item["reason"] for item in rejects]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def hostile_dataset(root: Path, *, audio: bool = True, f0: bool = True, per_split: int = 12) -> Built:
    """Return two splits of three speakers and two sources, with markup in every field that a manifest controls."""
    speakers = ("anna " + LINK, "bert", SCRIPT)
    sources = ("plain", "evil " + IMAGE)
    splits = []
    for split in range(2):
        records = []
        for index in range(per_split):
            recording = f"recording-{split}-{index // 4}"
            item = record(
                f"k{split}x{index:03d}",
                words=8 + 3 * (index % 5),
                seed=index // 4,
                audio=audio,
                f0=f0,
                recording=recording,
                index=split * per_split + index,
                speaker=speakers[index // 4 % 3],
                source=sources[split],
                license="CC-BY-4.0" if index % 2 else FORMULA,
            )
            records.append(_spoilt(item) if index in (1, 6) else item)
        splits.append(records)
    rejects = [
        [_reject("r0", "no_alignment", SCRIPT), _reject("r1", "silent", "audio/r1.flac")],
        [_reject("r2", "no_alignment", CLOSER)],
    ]
    return write_dataset(root, splits, rejects)


def _spoilt(item: UnitRecord) -> UnitRecord:
    """Give a record hostile words, a doubtful word, a word without a time and a bad score."""
    words = list(item.words)
    words[1] = words[1]._replace(text=SCRIPT.replace(" ", ""), score=-11.5)
    words[2] = words[2]._replace(text="&<>\"'")
    words[3] = Word(CLOSER.split()[0], None, None, None)
    bad = replace(item, meta={**item.meta, "id": f"{IMAGE}{item.key}", "score_all": -8.7, "score_words": -8.1})
    return with_words(bad, words, doubtful=(1, 3))


def _reject(key: str, reason: str, detail: str) -> dict[str, str]:
    return {"key": key, "id": f"id/{key}{IMAGE}", "stage": "align", "reason": reason, "detail": detail}


def _write_shard(
    folder: Path, split: int, records: Sequence[UnitRecord], rejects: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    with tarfile.open(folder / f"shard-{split:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for item in sorted(records, key=lambda r: r.key):
            for extension, data in item.to_members().items():
                info = tarfile.TarInfo(f"{item.key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    rows = [stats_row(item, split) for item in sorted(records, key=lambda r: r.key)]
    pq.write_table(pa.Table.from_pylist(rows, schema=STATS), folder / f"shard-{split:06d}.stats.parquet")
    lines = "".join(json.dumps(dict(item)) + "\n" for item in rejects)
    (folder / f"rejects-{split:06d}.jsonl").write_text(lines)
    (folder / f"shard-{split:06d}.tar.idx").write_bytes(b"")
    commit = {
        "format": "interloom-commit/1",
        "plan": "0123456789abcdef",
        "split": split,
        "inputs": len(records) + len(rejects),
        "records": len(records),
        "rejects": len(rejects),
        "reasons": tally(rejects),
        "num_samples": sum(int(item.num_samples) for item in records),
        "unit_counts": {
            name: np.bincount(
                np.concatenate([np.zeros(0, int), *(item.streams[name].astype(int) for item in records)]),
                minlength=size,
            ).tolist()
            for name, size in SIZES.items()
        },
        "documents": num_documents(rows),
        **{column: sum(row[column] for row in rows) for column in SUMS},
        "files": {
            path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in sorted(folder.glob(f"*-{split:06d}.*"))
        },
    }
    (folder / f"shard-{split:06d}.commit.json").write_text(json.dumps(commit))
    return commit


def _units(rng: np.random.Generator, stream: str, num_samples: int) -> np.ndarray:
    """Runs of one to four equal ids, the low ids more often; the last tenth of the codebook is never used."""
    count, size = frames_covering(num_samples, HOPS[stream]), SIZES[stream]
    ids = np.minimum(rng.geometric(6 / size, size=count) - 1, int(size * 0.9) - 1)
    return np.repeat(ids, rng.integers(1, 5, size=count))[:count].astype(np.uint16)


def _pitch(words: Sequence[Word], num_samples: int, *, base: float) -> np.ndarray:
    position = np.arange(frames_covering(num_samples, 160)) * 160
    hz = base * (1 + 0.25 * np.sin(position / 9_000) - 0.1 * position / max(num_samples, 1))
    voiced = np.zeros(len(position), bool)
    for word in words:
        if word.start is not None and word.end is not None:
            voiced |= (position >= word.start) & (position < word.end - 640)
    return np.where(voiced, hz, 0).astype(np.float32)


def _flac(words: Sequence[Word], f0: np.ndarray, num_samples: int) -> bytes:
    import soundfile

    hz = np.repeat(f0, 160)[:num_samples]
    phase = 2 * np.pi * np.cumsum(hz) / SAMPLE_RATE
    tone = sum(np.sin(k * phase) / k for k in range(1, 6)) * (hz > 0)
    envelope = np.zeros(num_samples)
    for word in words:
        if word.start is not None and word.end is not None:
            envelope[word.start : word.end] = np.hanning(word.end - word.start)
    buffer = io.BytesIO()
    soundfile.write(buffer, (0.25 * tone * envelope * 32_767).astype(np.int16), SAMPLE_RATE, format="FLAC")
    return buffer.getvalue()
