"""A shard without some of its records: the bytes that the sink would have written without them. No model runs."""

import io
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit_form import SUMS, shard_names
from pipeline.dataset import BadDataset
from pipeline.plan import Row
from pipeline.shards import num_documents
from pipeline.split_files import opened, read_rejects
from pipeline.storage import join, read_bytes
from pipeline.tar_samples import TarSample, end_of_tar, tar_samples
from schemas.canonical import canonical_json
from schemas.records import Utterance
from schemas.rejects import Reject
from schemas.tables import STATS
from schemas.unit_record import UnitRecord


def write_without(
    root: str, split: int, rows: Sequence[Row], unit_counts: Mapping[str, Sequence[int]], folder: Path
) -> dict[str, Any]:
    """Write a split's four files anew, with those records only that are still utterances in `rows`.

    Each file depends on its own earlier form and the rows alone, so that a mixture of earlier and finished files gives
    the same four files; only the returned facts ask for the four earlier ones.

    Args:
        root: the dataset's folder.
        split: its number.
        rows: all rows of the split, removed ones as rejects.
        unit_counts: those of the split's commit record, from which the dropped records' units are taken away.
        folder: receives the files.

    Returns:
        The facts for the commit record.

    Raises:
        BadDataset: if a file cannot be read, or rows and files do not agree.
    """
    names = shard_names(split)
    wanted = {row.key for row in rows if isinstance(row, Utterance)}
    counts = {name: np.array(found, np.int64) for name, found in unit_counts.items()}
    keys = _copy_tar(join(root, "shards", names["tar"]), wanted, folder, names, counts)
    stats = _copy_stats(join(root, "shards", names["stats"]), wanted, folder / names["stats"])
    rejects = _copy_rejects(join(root, "shards", names["rejects"]), rows, keys, folder / names["rejects"])
    if [row["key"] for row in stats] != keys:
        raise BadDataset(f"{join(root, 'shards', names['stats'])} does not describe the records of its shard")
    return {
        "documents": num_documents(stats),
        "inputs": len(rows),
        **{name: sum(row[name] for row in stats) for name in SUMS},
        "reasons": dict(Counter(str(reject["reason"]) for reject in rejects)),
        "records": len(stats),
        "rejects": len(rejects),
        "unit_counts": {name: found.tolist() for name, found in counts.items()},
    }


def _copy_tar(path: str, wanted: set[str], folder: Path, names: Mapping[str, str], counts: dict[str, Any]) -> list[str]:
    """Copy the wanted samples and write their index; return their keys. Dropped ones are taken from `counts`."""
    keys: list[str] = []
    offsets = [0]
    with opened(path) as file, open(folder / names["tar"], "wb") as out:
        for sample in tar_samples(file, path):
            if sample.key not in wanted:
                _discount(sample, path, counts)
                continue
            keys.append(sample.key)
            out.write(sample.raw)
            offsets.append(out.tell())
        out.write(end_of_tar(offsets[-1]))
    (folder / names["index"]).write_bytes(struct.pack(f"<{len(offsets)}Q", *offsets))
    return keys


def _discount(sample: TarSample, path: str, counts: dict[str, Any]) -> None:
    for name, ids in UnitRecord.from_members(sample.key, sample.members).streams.items():
        if name not in counts or max(ids, default=0) >= len(counts[name]):
            raise BadDataset(f"{path} holds units of {name!r} that its commit record does not count")
        counts[name] -= np.bincount(ids, minlength=len(counts[name]))


def _copy_stats(path: str, wanted: set[str], out: Path) -> list[dict[str, Any]]:
    data = read_bytes(path)
    try:
        table = pq.read_table(io.BytesIO(data or b""), schema=STATS)
    except pa.ArrowException as error:
        raise BadDataset(f"{path} is missing or damaged ({type(error).__name__})") from error
    stats = [row for row in table.to_pylist() if row["key"] in wanted]
    pq.write_table(pa.Table.from_pylist(stats, schema=STATS), out, compression="zstd")
    return stats


def _copy_rejects(path: str, rows: Sequence[Row], keys: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """Write the rejects in the order of the rows: the plan's anew, the stages' as they were."""
    earlier = {reject["key"]: reject for reject in read_rejects(path)}
    kept = set(keys)
    rejects: list[dict[str, Any]] = []
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(dict(row.to_json()))
        elif row.key in earlier:
            rejects.append(earlier[row.key])
        elif row.key not in kept:
            raise BadDataset(f"{path}: row {row.key!r} of the plan is neither a record of its shard nor a reject")
    out.write_text("".join(canonical_json(reject) + "\n" for reject in rejects), encoding="utf-8")
    return rejects
