"""Verify and the reader notice what is damaged, and name it."""

import json
from pathlib import Path

import pytest

from pipeline.dataset import BadDataset, Dataset
from pipeline.verify import VerifyFailed, verify
from tests.audit_builders import hostile_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A small dataset."""
    hostile_dataset(tmp_path)
    return tmp_path


def test_a_sound_dataset_is_sound(dataset: Path) -> None:
    info = json.loads((dataset / "dataset.json").read_text())
    assert verify(str(dataset)).records == info["records"]


def shard_files(dataset: Path) -> list[Path]:
    return sorted(path for path in (dataset / "shards").iterdir() if "000000" in path.name)


def test_every_changed_byte_is_found_and_named(dataset: Path) -> None:
    for path in [*shard_files(dataset), *(dataset / "artifacts").iterdir(), dataset / "shards.parquet"]:
        data = path.read_bytes()
        if not data or path.name.endswith("commit.json"):
            continue
        path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(VerifyFailed, match=path.name):
            verify(str(dataset))
        path.write_bytes(data)
    verify(str(dataset))


def test_a_shard_without_a_commit_record_does_not_count(dataset: Path) -> None:
    (dataset / "shards" / "shard-000000.commit.json").unlink()
    with pytest.raises(VerifyFailed, match="commit"):
        verify(str(dataset))
    with pytest.raises(BadDataset, match="commit"):
        list(Dataset.open(str(dataset)).records(0))


def test_a_shard_with_another_number_of_records_is_refused(dataset: Path) -> None:
    path = dataset / "shards" / "shard-000000.commit.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "records": record["records"] + 1}))
    with pytest.raises(BadDataset, match="promises"):
        list(Dataset.open(str(dataset)).records(0))
