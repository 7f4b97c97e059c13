"""Verify a finished dataset: every file against its commit record, every record against its format."""

import hashlib
from dataclasses import dataclass

import fsspec

from pipeline.dataset import BadDataset, Dataset
from pipeline.storage import join
from schemas.records import Artifact
from stages.checkpoints import BadCheckpoint, verified_path

CHUNK = 2**20


class VerifyFailed(RuntimeError):
    """Something is damaged or missing; the message names each bad file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found sound."""

    files: int
    records: int


def verify(root: str) -> Verified:
    """Hash and parse everything.

    Raises:
        BadDataset: if the folder is not a finished dataset, or a shard cannot be read.
        VerifyFailed: naming the bad files.
    """
    dataset = Dataset.open(root)
    bad: list[str] = []
    files = records = 0
    for split in range(dataset.num_splits):
        try:
            commit = dataset.commit(split)
        except BadDataset:
            bad.append(f"shard-{split:06d}.commit.json (missing or damaged)")
            continue
        wrong = [
            name for name, file in commit["files"].items() if _sha256(join(root, "shards", name)) != file["sha256"]
        ]
        files += len(commit["files"])
        bad += wrong
        if not wrong:
            records += _parse(dataset, split)
    files += 1
    if _sha256(join(root, "shards.parquet")) != dataset.info["shards"]["sha256"]:
        bad.append("shards.parquet")
    for name, artifact in dataset.info["artifacts"].items():
        if not artifact["path"].startswith("artifacts/"):
            continue  # a model, which stays outside the dataset
        files += 1
        if not _is_sound(Artifact(path=dataset.artifact(name), sha256=artifact["sha256"])):
            bad.append(artifact["path"])
    if bad:
        shown = ", ".join(bad[:20]) + (" and more" if len(bad) > 20 else "")
        raise VerifyFailed(f"{root}: {len(bad)} bad files: {shown}. Delete their commit records and build again")
    if records != dataset.info["records"]:
        raise VerifyFailed(
            f"{root}: dataset.json promises {dataset.info['records']} records, the shards hold {records}"
        )
    return Verified(files=files, records=records)


def _parse(dataset: Dataset, split: int) -> int:
    count = 0
    for record in dataset.records(split):
        count += 1
        for name, contract in dataset.contracts.items():
            ids = record.streams.get(name)
            if ids is None or (len(ids) and int(ids.max()) >= contract.codebook_size):
                raise BadDataset(f"{dataset.shard(split)}: record {record.key!r} has no valid stream {name!r}")
    return count


def _is_sound(artifact: Artifact) -> bool:
    """Tell whether an artifact is what it was; it may be a folder."""
    if _sha256(artifact.path) == artifact.sha256:
        return True
    try:
        verified_path(artifact)
    except BadCheckpoint:
        return False
    return True


def _sha256(path: str) -> str:
    found = hashlib.sha256()
    try:
        with fsspec.open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                found.update(chunk)
    except (FileNotFoundError, IsADirectoryError):
        return ""
    return found.hexdigest()
