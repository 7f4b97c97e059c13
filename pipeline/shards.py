"""The shard sink: outcomes of one split to a WebDataset tar, its index, its statistics and its rejects.

The bytes are a pure function of the outcomes: plain ustar, members of a sample sorted, mtime 0, no owner. Samples keep
the order of the manifest, so that the utterances of a recording follow each other.
"""

import io
import struct
import tarfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit_form import SUMS
from pipeline.job import Outcome
from schemas.canonical import canonical_json
from schemas.clock import SAMPLE_RATE
from schemas.records import Artifact, Encoded
from schemas.rejects import Reject
from schemas.tables import STATS
from schemas.unit_record import STREAMS, UnitRecord, rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSinkConfig:
    """What goes into a shard.

    Attributes:
        store_audio: keep each clip as FLAC.
        store_f0: keep each F0 track.
        tokenizer: SentencePiece model that counts text tokens for the statistics.
        codebook_sizes: (stream, number of ids), for the unit counts.
    """

    store_audio: bool
    store_f0: bool
    tokenizer: Artifact
    codebook_sizes: tuple[tuple[str, int], ...]

    def setup(self) -> "ShardSink":
        from stages.tokenizer import load_sentencepiece

        return ShardSink(self, load_sentencepiece(self.tokenizer).encode)


class ShardSink:
    """Writes `shard-N.tar`, `.tar.idx`, `.stats.parquet` and `rejects-N.jsonl`."""

    def __init__(self, config: ShardSinkConfig, encode: Any) -> None:
        self._config = config
        self._encode = encode

    def write(self, split: int, outcomes: Iterable[Outcome], folder: Path) -> dict[str, Any]:
        counts = {name: np.zeros(size, np.int64) for name, size in self._config.codebook_sizes}
        stats: list[dict[str, Any]] = []
        rejects: list[Reject] = []
        offsets: list[int] = []
        with (
            open(folder / f"shard-{split:06d}.tar", "wb") as file,
            tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for outcome in outcomes:
                if isinstance(outcome, Reject):
                    rejects.append(outcome)
                    continue
                offsets.append(tar.offset)
                self._add(tar, outcome, counts)
                stats.append(self._stats(split, outcome))
            offsets.append(tar.offset)
        (folder / f"shard-{split:06d}.tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))
        pq.write_table(
            pa.Table.from_pylist(stats, schema=STATS), folder / f"shard-{split:06d}.stats.parquet", compression="zstd"
        )
        lines = [canonical_json(reject.to_json()) + "\n" for reject in rejects]
        (folder / f"rejects-{split:06d}.jsonl").write_text("".join(lines), encoding="utf-8")
        return {
            "documents": num_documents(stats),
            "inputs": len(stats) + len(rejects),
            **{name: sum(row[name] for row in stats) for name in SUMS},
            "reasons": dict(Counter(reject.reason.value for reject in rejects)),
            "records": len(stats),
            "rejects": len(rejects),
            "unit_counts": {name: found.tolist() for name, found in counts.items()},
        }

    def _add(self, tar: tarfile.TarFile, encoded: Encoded, counts: dict[str, npt.NDArray[np.int64]]) -> None:
        flac = flac_bytes(encoded.clip.pcm) if self._config.store_audio else None
        record = UnitRecord.from_encoded(encoded, flac=flac, store_f0=self._config.store_f0)
        for name, ids in record.streams.items():
            counts[name] += np.bincount(ids, minlength=len(counts[name]))
        for extension, data in record.to_members().items():
            add_member(tar, f"{record.key}.{extension}", data)

    def _stats(self, split: int, encoded: Encoded) -> dict[str, Any]:
        utterance, aligned = encoded.clip.utterance, encoded.checked.aligned
        streams = {stream.name: stream.ids for stream in encoded.streams}
        timed = [word for word in aligned.words if word.start is not None and word.end is not None]
        scores = [word.score for word in timed if word.score is not None]
        f0 = encoded.f0.hz if encoded.f0 is not None else np.zeros(0, np.float32)
        voiced = f0[f0 > 0]
        described = ("key", "id", "recording", "index", "speaker", "language", "license", "source")
        return {
            **{name: getattr(utterance, name) for name in described},
            "split": split,
            "num_samples": int(encoded.clip.num_samples),
            "source_rate": encoded.clip.source_rate,
            "source_channels": encoded.clip.source_channels,
            "num_words": len(aligned.words),
            "num_characters": len(utterance.text),
            "num_unaligned": len(aligned.words) - len(timed),
            "num_doubtful": len(encoded.checked.doubtful),
            "speech_samples": sum((word.end or 0) - (word.start or 0) for word in timed),
            "score_all": rounded(aligned.score_all),
            "score_words": rounded(aligned.score_words),
            "score_worst": rounded(min(scores, default=None)),
            "fallback": aligned.fallback,
            "text_tokens": len(self._encode(utterance.text)),
            **{f"{name}_frames": len(streams.get(name, ())) for name in STREAMS},
            **{f"{name}_runs": num_runs(streams.get(name)) for name in ("hubert", "pitch")},
            "voiced_share": round(len(voiced) / max(1, len(f0)), 4),
            "f0_median_hz": round(float(np.median(voiced)), 2) if len(voiced) else 0.0,
        }


def num_documents(stats: Sequence[Mapping[str, Any]]) -> int:
    """Return how many stretches of consecutive manifest rows of one recording there are."""
    places = [(row["recording"], row["index"]) for row in stats]
    return len(places) - sum((recording, index + 1) == after for (recording, index), after in pairwise(places))


def num_runs(ids: "npt.NDArray[np.uint16] | None") -> int:
    """Return how many ids are left after deduplication."""
    if ids is None or len(ids) == 0:
        return 0
    return 1 + int(np.count_nonzero(ids[1:] != ids[:-1]))


def flac_bytes(pcm: npt.NDArray[np.int16]) -> bytes:
    """Return int16 mono 16 kHz PCM as a FLAC file."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a member whose header depends on nothing but its name and size."""
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode, info.uid, info.gid = len(data), 0, 0o644, 0, 0
    info.uname = info.gname = ""
    tar.addfile(info, io.BytesIO(data))
