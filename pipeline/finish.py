"""Finish a build: reconcile the ledger, then describe the dataset. A pure function of the commit records."""

import hashlib
import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit import commit_path
from pipeline.commit_form import malformed_commit
from pipeline.dataset import FORMAT
from pipeline.energon import write_energon_files
from pipeline.models import portable
from pipeline.plan import Plan
from pipeline.storage import join, publish_bytes, publish_json
from schemas.contract import UnitContract
from schemas.recipe import Recipe
from schemas.tables import SHARDS

CODE_VERSION = "0.2.0.dev0"


class LedgerError(RuntimeError):
    """The commit records do not add up to the plan: something was lost or counted twice."""


def reconcile(plan: Plan, records: Mapping[int, Mapping[str, Any]]) -> None:
    """Check that every planned split has a record and that inputs = records + rejects, split by split.

    Raises:
        LedgerError: naming the first split that does not add up.
    """
    if missing := sorted(set(range(len(plan.inputs))) - set(records)):
        raise LedgerError(f"{len(missing)} planned splits have no valid commit record, the first is {missing[0]}")
    for split, planned in enumerate(plan.inputs):
        record = records[split]
        if record["inputs"] != planned or record["records"] + record["rejects"] != planned:
            raise LedgerError(
                f"split {split}: {planned} inputs planned, {record['inputs']} seen, "
                f"{record['records']} records and {record['rejects']} rejects"
            )


def finish(
    root: str,
    *,
    plan: Plan,
    recipe: Recipe,
    records: Mapping[int, Mapping[str, Any]],
    fingerprint: str,
    contracts: Mapping[str, UnitContract],
    artifacts: Mapping[str, Any],
    aligner: Mapping[str, Any],
    transcription: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Reconcile, write the side files that other loaders read, and `dataset.json` last; return its content.

    Raises:
        LedgerError: if a commit record is damaged, or they do not add up to the plan.
    """
    for split, record in records.items():
        if (told := malformed_commit(record, split, counted=False)) is not None:
            raise LedgerError(f"{commit_path(root, split)}: {told}; delete it and run the same command again")
    reconcile(plan, records)
    reasons: Counter[str] = Counter()
    for record in records.values():
        reasons.update(record["reasons"])
    info = {
        "aligner": dict(aligner),
        "artifacts": dict(artifacts),
        "code_version": CODE_VERSION,
        "fingerprint": fingerprint,
        "format": FORMAT,
        "inputs": sum(plan.inputs),
        "name": recipe.name,
        "num_samples": sum(record["num_samples"] for record in records.values()),
        "plan": plan.fingerprint,
        "reasons": dict(sorted(reasons.items())),
        "recipe": portable(recipe).model_dump(mode="json"),
        "records": sum(record["records"] for record in records.values()),
        "rejects": sum(record["rejects"] for record in records.values()),
        "splits": len(plan.inputs),
        "streams": {name: contract.to_json() for name, contract in contracts.items()},
    }
    if transcription is not None:
        info["transcription"] = dict(transcription)
    info["shards"] = write_shard_table(root, records)
    write_energon_files(root, records)
    publish_json(info, join(root, "dataset.json"))
    return info


def write_shard_table(root: str, records: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Write `shards.parquet`, one row per split; return its size and hash."""
    rows = [
        {"bytes": record["files"][f"shard-{split:06d}.tar"]["bytes"], **record}
        for split, record in sorted(records.items())
    ]
    columns = {name: [row[name] for row in rows] for name in SHARDS.names}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SHARDS), buffer, compression="zstd")
    publish_bytes(buffer.getvalue(), join(root, "shards.parquet"))
    return {"bytes": buffer.tell(), "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
