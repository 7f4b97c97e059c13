"""Planning, status and reconcile for a million hours, by simulation.

    python -m benchmarks.scale plan 1000000 10000000      seconds, CPU and memory of planning so many rows
    python -m benchmarks.scale unnamed 10000000           the same where no row names its recording
    python -m benchmarks.scale splits 1000 100000         status, reconcile and side files for so many splits
    python -m benchmarks.scale footer 256 100000          reading one split's rows from a file of so many row groups

The manifest is made as it would be found: Parquet files of a million rows, 12 s each, ten to a recording; splits have
ten hours. Everything is written below TMPDIR and deleted afterwards. Each figure is taken in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_FILE = 1_000_000
PER_RECORDING = 10
SECONDS = 12.0
UNITS = 500
HOURS = 10.0
WORDS = ("the", "river", "was", "wide", "and", "we", "saw", "seven", "boats", "there", "today", "again")


def write_manifest(folder: Path, rows: int, named: bool) -> None:
    """Write `part-NNNNN.parquet` files of short rows, which name their recordings or do not."""
    folder.mkdir(parents=True)
    for number, first in enumerate(range(0, rows, ROWS_PER_FILE)):
        index = np.arange(first, min(rows, first + ROWS_PER_FILE))
        rng = np.random.default_rng(number)
        recording = _named("rec", index // PER_RECORDING)
        words = [pa.array(WORDS).take(pa.array(rng.integers(0, len(WORDS), len(index)))) for _ in range(8)]
        table = pa.table(
            {
                "id": _named("utt", index),
                "audio_filepath": pc.binary_join_element_wise(recording, "flac", "."),
                "text": pc.binary_join_element_wise(*words, " "),
                "recording": recording,
                "offset": pa.array((index % PER_RECORDING) * SECONDS),
                "duration": pa.array(np.full(len(index), SECONDS)),
                "speaker": _named("spk", index // 10_000),
                "language": pa.array(["en"] * len(index)),
            }
        )
        if not named:
            table = table.drop_columns("recording")
        pq.write_table(table, folder / f"part-{number:05d}.parquet", row_group_size=100_000, compression="zstd")


def _named(prefix: str, numbers: Any) -> Any:
    digits = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), 10, "0")
    return pc.binary_join_element_wise(pa.scalar(prefix), digits, "")


def plan_manifest(folder: Path, rows: int, named: bool = True) -> dict[str, Any]:
    from pipeline.manifest import manifest_base, read_manifest
    from pipeline.plan import write_plan

    manifest, out = folder / "manifest", folder / "out"
    write_manifest(manifest, rows, named)
    with _measured() as told:
        plan = write_plan(str(out / "plan"), manifest_base(str(manifest)), read_manifest(str(manifest)), HOURS)
    files = sorted((out / "plan").glob("*.parquet"))
    return told | {
        "hours": round(sum(plan.sizes) / 3600),
        "manifest_bytes": sum(path.stat().st_size for path in manifest.iterdir()),
        "plan_bytes": sum(path.stat().st_size for path in files),
        "plan_files": len(files),
        "plan_json_bytes": (out / "plan" / "plan.json").stat().st_size,
        "rows": sum(plan.inputs),
        "splits": len(plan.inputs),
        "us_per_row": round(told["cpu_s"] / rows * 1e6, 1),
    }


def write_splits(root: Path, splits: int) -> None:
    """Write the plan and the commit records of a dataset of so many splits; the tars are empty files of 1 byte."""
    from pipeline.plan import FORMAT
    from schemas.canonical import canonical_json

    (root / "plan").mkdir(parents=True)
    (root / "shards").mkdir()
    (root / "work" / "timings").mkdir(parents=True)
    inputs, sizes = [300] * splits, [3600.0] * splits
    info = {"base": "/", "fingerprint": "0" * 16, "format": FORMAT, "inputs": inputs, "sizes": sizes}
    (root / "plan" / "plan.json").write_text(canonical_json(info))
    for split in range(splits):
        for name, text in _split_files(split).items():
            (root / name).write_text(text)


def _split_files(split: int) -> dict[str, str]:
    from pipeline.commit import FORMAT
    from schemas.canonical import canonical_json

    stem = f"shards/shard-{split:06d}"
    data = [f"{stem}.tar", f"{stem}.tar.idx", f"{stem}.stats.parquet", f"shards/rejects-{split:06d}.jsonl"]
    files = {name.rsplit("/", 1)[-1]: {"bytes": 1, "sha256": f"{split:064x}"} for name in data}
    counts = np.random.default_rng(split).integers(0, 3000, UNITS).tolist()
    sums = ("documents", "hubert_runs", "num_samples", "num_words", "pitch_runs", "style_frames", "text_tokens")
    record = {
        "files": files, "format": FORMAT, "inputs": 300, "plan": "f" * 16, "reasons": {"silent": 2}, "records": 298,
        "rejects": 2, "split": split, "unit_counts": {"hubert": counts}, **dict.fromkeys(sums, 123_456),
    }  # fmt: skip
    timing = {
        "audio_seconds": 3600.0, "peak_rss_bytes": 10**9, "seconds": [["decode", 1.0], ["align", 180.0]],
        "split": split, "started": 1.7e9 + split, "wall": 380.0,
    }  # fmt: skip
    return {
        **dict.fromkeys(data, "x"),
        f"{stem}.commit.json": canonical_json(record),
        f"work/timings/{split:06d}.json": canonical_json(timing),
    }


def look_at_splits(folder: Path, splits: int) -> Iterator[dict[str, Any]]:
    root = folder / "dataset"
    write_splits(root, splits)
    for part in ("status", "summary", "listing", "reconcile"):
        yield _apart(part, folder, splits) | {"part": part}


def status(folder: Path, splits: int) -> dict[str, Any]:
    from pipeline.status import Observer

    with _measured() as told:
        found = Observer(str(folder / "dataset")).look()
    return told | {"committed": found.committed, "read": found.counts.splits}


def summary(folder: Path, splits: int) -> dict[str, Any]:
    from jobs.status_summary import summary_text
    from pipeline.status import Observer

    with _measured() as told:
        text = summary_text(Observer(str(folder / "dataset"), everything=True).look())
    return told | {"characters": len(text)}


def listing(folder: Path, splits: int) -> dict[str, Any]:
    """What the driver does each half second to see progress."""
    from pipeline.commit import committed_splits
    from pipeline.storage import list_names

    with _measured() as told:
        committed_splits(names := list_names(str(folder / "dataset" / "shards")))
    return told | {"files": len(names)}


def reconcile(folder: Path, splits: int) -> dict[str, Any]:
    """The end of a build: valid commit records, the ledger, shards.parquet."""
    from pipeline.commit import valid_commits
    from pipeline.finish import reconcile as check
    from pipeline.finish import write_shard_table
    from pipeline.plan import read_plan

    root = str(folder / "dataset")
    with _measured() as told:
        plan = read_plan(f"{root}/plan")
        assert plan is not None
        records = valid_commits(root, "f" * 16, range(splits))
        check(plan, records)
        table = write_shard_table(root, records)
    commits = sum(path.stat().st_size for path in Path(root, "shards").glob("*.commit.json"))
    return told | {"commit_bytes": commits, "shards_parquet_bytes": table["bytes"], "valid": len(records)}


def read_footers(folder: Path, groups: int) -> dict[str, Any]:
    """Time the reading of one split's rows from one file of so many row groups, as plans are written."""
    from schemas.tables import ROWS

    row = {name: "x" * 20 if pa.types.is_string(ROWS.field(name).type) else 1 for name in ROWS.names}
    table = pa.Table.from_pylist([row] * 10, schema=ROWS)
    path = folder / "rows.parquet"
    with pq.ParquetWriter(path, ROWS, compression="zstd", write_statistics=False) as writer:
        for _ in range(groups):
            writer.write_table(table)
    with _measured() as told, open(path, "rb") as file:
        pq.ParquetFile(file).read_row_group(groups // 2)
    return told | {"footer_bytes": pq.read_metadata(path).serialized_size, "groups": groups}


class _measured:
    """Measures wall and CPU seconds, and the largest resident memory of this process, into a dict."""

    def __enter__(self) -> dict[str, Any]:
        self.told: dict[str, Any] = {}
        self._begun, self._cpu = time.monotonic(), time.process_time()
        return self.told

    def __exit__(self, *problem: object) -> None:
        self.told["wall_s"] = round(time.monotonic() - self._begun, 3)
        self.told["cpu_s"] = round(time.process_time() - self._cpu, 3)
        self.told["peak_rss_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


CHILDREN: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "plan": plan_manifest, "status": status, "summary": summary, "listing": listing, "reconcile": reconcile,
    "footer": read_footers, "unnamed": lambda folder, rows: plan_manifest(folder, rows, named=False),
}  # fmt: skip


def _apart(part: str, folder: Path, size: int) -> dict[str, Any]:
    """Take a figure in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--child", part, str(folder), str(size)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(CHILDREN[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "unnamed", "splits", "footer"))
    parser.add_argument("sizes", nargs="*", type=int)
    args = parser.parse_args()
    for size in args.sizes:
        with tempfile.TemporaryDirectory(prefix="interloom-scale-") as name:
            folder = Path(name)
            if args.what == "splits":
                for found in look_at_splits(folder, size):
                    print(json.dumps({"splits": size, **found}, sort_keys=True), flush=True)
            else:
                print(json.dumps(_apart(args.what, folder, size), sort_keys=True), flush=True)


if __name__ == "__main__":
    main()
