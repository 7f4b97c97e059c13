import json
from pathlib import Path

import pytest
import yaml

from pipeline.energon import write_energon_files


def test_every_shard_with_records_is_in_train_and_the_others_nowhere(tmp_path: Path) -> None:
    write_energon_files(str(tmp_path), {2: {"records": 5}, 0: {"records": 7}, 1: {"records": 0}})
    folder = tmp_path / ".nv-meta"
    counts = {"shards/shard-000000.tar": 7, "shards/shard-000002.tar": 5}
    assert json.loads((folder / ".info.json").read_text()) == {"shard_counts": counts}
    split = yaml.safe_load((folder / "split.yaml").read_text())
    assert split == {"exclude": [], "split_parts": {"test": [], "train": list(counts), "val": []}}
    dataset = yaml.safe_load((folder / "dataset.yaml").read_text())
    parts = ["f0.npy", "hubert.npy", "json", "pitch.npy", "style.npy"]
    assert dataset == {"__module__": "megatron.energon", "__class__": "CrudeWebdataset", "part_filter": parts}
    assert sorted(path.name for path in folder.iterdir()) == [".info.json", "dataset.yaml", "split.yaml"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_bytes_do_not_depend_on_the_order_in_which_splits_ended(tmp_path: Path, order: tuple[int, ...]) -> None:
    for name, splits in (("a", (0, 1, 2)), ("b", order)):
        write_energon_files(str(tmp_path / name), {split: {"records": split + 1} for split in splits})
    for path in (tmp_path / "a" / ".nv-meta").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / ".nv-meta" / path.name).read_bytes()
