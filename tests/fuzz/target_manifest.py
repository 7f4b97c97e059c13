"""Fuzz target: manifests of every kind. One row in, one row out; ManifestError is the only error."""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pyarrow as pa

from pipeline.manifest import ManifestError, read_manifest
from pipeline.plan import _to_row
from pipeline.plan_files import SPOOLED
from schemas.records import Utterance
from schemas.rejects import Reject
from schemas.tables import ROWS
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds_text import manifest_seeds
from tests.fuzz.targets import require_line

KINDS = tuple(manifest_seeds())


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


def example(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(KINDS)
    return kind, mutated(rng, manifest_seeds()[kind])


def check(kind: str, data: bytes) -> None:
    """Read a manifest as the planner does, and store its rows as the plan does."""
    folder = Path(_folder().name) / "m"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / f"m.{kind}"
    path.write_bytes(data)
    keys: set[str] = set()
    rows = []
    try:
        for row in read_manifest(str(folder if kind == "trans.txt" else path)):
            assert isinstance(row, Utterance | Reject)
            assert row.key not in keys, row.key
            keys.add(row.key)
            if isinstance(row, Reject):
                require_line(row.detail)
            rows.append({"split": 0, **dict(zip(SPOOLED, _to_row(row), strict=True))})
    except ManifestError as error:
        require_line(str(error))
        return
    pa.Table.from_pylist(rows, schema=ROWS)
    if kind == "jsonl":
        assert len(rows) == sum(bool(line.strip()) for line in data.split(b"\n"))
