"""Bake: freeze epochs of the reader's blocks as plain WebDataset shards, equal, token for token, to what it yields.

A bake is a job like a build, on any engine: a split is one of the reader's streams through all epochs, committed as a
whole. It lies in scratch until then, so the number of streams also bounds what an attempt takes of the disk.
"""

import struct
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commit import commit_path, committed_splits
from pipeline.dataset import Dataset
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.folder_lock import locked
from pipeline.job import Job, Limits
from pipeline.plan import Plan
from pipeline.reader.baked_blocks import FORMAT, BakedBlock, block_members, ids_dtype
from pipeline.reader.opening import open_reader, require_streams
from pipeline.reader.vocabularies import open_vocabulary, tokenizer_artifact
from pipeline.shards import add_member
from pipeline.storage import join, list_names, publish_bytes, publish_json, read_json
from schemas.canonical import fingerprint
from schemas.clock import SAMPLE_RATE
from schemas.records import Artifact
from schemas.sequence import SequenceSection
from stages.artifacts import verified_bytes
from stages.vocabulary import Vocabulary

SHUFFLE_SHARDS = 16
TOKENS_PER_SHARD = 2**24


class BakeExists(RuntimeError):
    """The folder holds another bake: old shards must not mix with new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BakeConfig:
    """What the blocks depend on.

    Attributes:
        dataset: folder or URL of a units dataset.
        sequence: policy, streams, context, vocabulary.
        seed: of the order and of the draws.
        epochs: how many.
        streams: among how many streams of the reader the documents are divided.
    """

    dataset: str
    sequence: SequenceSection
    seed: int
    epochs: int
    streams: int

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.streams < 1:
            raise ValueError(f"epochs and streams must be at least 1, got {self.epochs} and {self.streams}")

    def setup(self) -> "Baker":
        return Baker(self, Dataset.open(self.dataset))


class Baker:
    """Draws the blocks of a stream."""

    def __init__(self, config: BakeConfig, dataset: Dataset) -> None:
        self._config, self._dataset = config, dataset

    def outcomes(self, split: int) -> Iterator[BakedBlock]:
        config = self._config
        reader = open_reader(
            self._dataset,
            config.sequence,
            seed=config.seed,
            rank=split,
            world_size=config.streams,
            streams=config.streams,
            epochs=config.epochs,
            shuffle_shards=SHUFFLE_SHARDS,
        )
        epoch = reader.epoch
        for _, packed in reader.packed():
            yield BakedBlock(packed, epoch)
            epoch = reader.epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedSinkConfig:
    """How blocks become files.

    Attributes:
        dtype: of the ids.
        blocks_per_shard: a stream takes as many shards as it needs.
    """

    dtype: str
    blocks_per_shard: int

    def setup(self) -> "BakedSink":
        return BakedSink(self)


class BakedSink:
    """Writes `baked-STREAM-N.tar` and `.tar.idx`."""

    def __init__(self, config: BakedSinkConfig) -> None:
        self._config = config

    def write(self, split: int, outcomes: Iterable[BakedBlock], folder: Path) -> dict[str, Any]:
        blocks = iter(outcomes)
        shards: dict[str, int] = {}
        totals = {"records": 0, "speech_tokens": 0, "tokens": 0}
        while (first := next(blocks, None)) is not None:
            name = f"baked-{split:06d}-{len(shards):06d}.tar"
            before = totals["records"]
            self._write_shard(folder / name, split, first, blocks, totals)
            shards[name] = totals["records"] - before
        return {"inputs": totals["records"], "reasons": {}, "rejects": 0, "shards": shards, **totals}

    def _write_shard(
        self, path: Path, stream: int, first: BakedBlock, more: Iterator[BakedBlock], totals: dict[str, int]
    ) -> None:
        offsets: list[int] = []
        with open(path, "wb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            block: BakedBlock | None = first
            while block is not None:
                offsets.append(tar.offset)
                index = totals["records"]
                members = block_members(block, stream=stream, index=index, dtype=self._config.dtype)
                for extension, data in members.items():
                    add_member(tar, f"{stream:06d}-{index:09d}.{extension}", data)
                totals["records"] += 1
                totals["tokens"] += len(block.packed.ids)
                totals["speech_tokens"] += int(block.packed.modality.sum())
                block = next(more, None) if len(offsets) < self._config.blocks_per_shard else None
            offsets.append(tar.offset)
        path.with_suffix(".tar.idx").write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))


def bake(config: BakeConfig, out: str, engine: EngineSettings, limits: Limits, progress: Progress) -> dict[str, Any]:
    """Write the tokenizer, the blocks of some epochs and, last, `baked.json`; return its content. A rerun resumes.

    Raises:
        BakeExists: if the folder holds anything made from other data or with other settings.
        BadDataset: if the dataset is not finished.
        ValueError: if it lacks a stream that the sequence section wants, or the tokenizer does not do.
        RunFailed: if streams could not be written; see `pipeline.drive.drive`.
        FolderInUse: if another run works in the folder.
    """
    dataset = Dataset.open(config.dataset)
    seconds = sum(dataset.shard_table["num_samples"].to_pylist()) * config.epochs / config.streams / SAMPLE_RATE
    require_streams([dataset], config.sequence)
    vocabulary = open_vocabulary(dataset, config.sequence.vocabulary)
    tokenizer = tokenizer_artifact([dataset], config.sequence.vocabulary)
    info = _description(config, dataset, vocabulary, tokenizer)
    mark = fingerprint(info)
    sink = BakedSinkConfig(
        dtype=ids_dtype(vocabulary.size), blocks_per_shard=max(1, TOKENS_PER_SHARD // config.sequence.context)
    )
    job = Job(root=out, fingerprint=mark, source=config, sink=sink, limits=limits)
    plan = Plan(root=out, base="", fingerprint=mark, sizes=(seconds,) * config.streams, inputs=(0,) * config.streams)
    with locked(out):
        _require_own(out, mark)
        publish_bytes(verified_bytes(tokenizer), join(out, info["tokenizer"]))
        records = drive(job, plan, engine, progress)
        info |= {"fingerprint": mark, **_totals(records)}
        publish_json(info, join(out, "baked.json"))
    return info


def _description(config: BakeConfig, dataset: Dataset, vocabulary: Vocabulary, tokenizer: Artifact) -> dict[str, Any]:
    """Return what decides every byte of a bake, as plain JSON values."""
    return {
        "context": config.sequence.context,
        "dataset": dataset.info["fingerprint"],
        "dataset_shards": dataset.info["shards"]["sha256"],  # which the removal of utterances changes
        "dtype": ids_dtype(vocabulary.size),
        "epochs": config.epochs,
        "format": FORMAT,
        "seed": config.seed,
        "sequence": config.sequence.model_dump(mode="json", exclude={"vocabulary": {"tokenizer"}}),
        "shuffle_shards": SHUFFLE_SHARDS,
        "streams": config.streams,
        "unit_contracts": {slot: contract.to_json() for slot, contract in dataset.contracts.items()},
        "tokenizer": "artifacts/tokenizer.json" if tokenizer.path.endswith(".json") else "artifacts/tokenizer.model",
        "tokens_per_shard": TOKENS_PER_SHARD,
        "vocabulary": vocabulary.describe(),
    }


def _totals(records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    ordered = [records[split] for split in sorted(records)]
    return {
        "blocks": sum(record["records"] for record in ordered),
        "shards": [[name, count] for record in ordered for name, count in sorted(record["shards"].items())],
        "speech_tokens": sum(record["speech_tokens"] for record in ordered),
        "tokens": sum(record["tokens"] for record in ordered),
    }


def _require_own(out: str, mark: str) -> None:
    """Check that a folder holds nothing but what this bake makes."""
    finished = read_json(join(out, "baked.json"))
    others = [finished.get("fingerprint")] if isinstance(finished, dict) else []
    for split in sorted(committed_splits(list_names(join(out, "shards")))):
        record = read_json(commit_path(out, split))
        others += [record.get("plan")] if isinstance(record, dict) else []
    if set(others) - {mark}:
        raise BakeExists(f"{out} holds something made from other data or with other settings; use another --out")
