"""What Megatron-Energon reads of a dataset, so that it opens one without its own prepare step.

Its loader of a primary dataset reads four things (megatron-energon 7.4.1, flavors/webdataset/metadata.py and itar.py):
the number of samples in each shard, the shards of each part, the class of the dataset, and the `.tar.idx` beside each
shard, which the shard sink writes. `index.sqlite` and `index.uuid` serve nothing but lookups by key (auxiliary data,
joins, caches); who wants those runs `energon prepare --tar-index-only`.
"""

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.storage import join, publish_bytes, publish_json

FOLDER = ".nv-meta"
PARTS = ("f0.npy", "hubert.npy", "json", "pitch.npy", "style.npy")
"""Members that Energon loads. FLAC is left out: Energon decodes it, which needs its extra `av_decode`."""


def write_energon_files(root: str, records: Mapping[int, Mapping[str, Any]]) -> None:
    """Write `.nv-meta` from the commit records of all splits; every shard is `train`, empty shards are left out."""
    counts = {f"shards/shard-{split:06d}.tar": r["records"] for split, r in sorted(records.items()) if r["records"]}
    publish_json({"shard_counts": counts}, join(root, FOLDER, ".info.json"))
    parts = {"exclude": [], "split_parts": {"test": [], "train": list(counts), "val": []}}
    publish_bytes(yaml.safe_dump(parts).encode(), join(root, FOLDER, "split.yaml"))
    dataset = {"__class__": "CrudeWebdataset", "__module__": "megatron.energon", "part_filter": list(PARTS)}
    publish_bytes(yaml.safe_dump(dataset).encode(), join(root, FOLDER, "dataset.yaml"))
