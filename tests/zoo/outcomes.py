"""What becomes of the cases that are tried one by one: manifests, recipes, shards."""

import os
from pathlib import Path

from click.testing import CliRunner

from jobs.cli import main
from pipeline.build import PlanError
from pipeline.dataset import BadDataset, samples
from pipeline.manifest import ManifestError, read_manifest
from pipeline.plan import write_plan
from schemas.records import Utterance
from schemas.unit_record import BadRecord, UnitRecord

MOST = 6000
"""Characters of an error, which is read on a terminal; a user's own path of 5,000 is repeated."""


def of_manifest(path: str, out: Path) -> str:
    """Return `N + M` (utterances and rejects) or `error`."""
    try:
        rows = list(read_manifest(path))
        write_plan(str(out / "plan"), str(out), rows, "auto")
    except (ManifestError, PlanError, OSError) as error:
        _require_short(str(error))
        return "error"
    good = sum(isinstance(row, Utterance) for row in rows)
    return f"{good} + {len(rows) - good}"


def of_recipe(path: str, manifest: Path, out: Path) -> str:
    """Return `error` for one line and exit code 2, `planned` for a plan."""
    done = CliRunner().invoke(main, ["plan", path, "--manifest", str(manifest), "--out", str(out)])
    if done.exit_code == 0:
        return "planned"
    assert done.exit_code == 2, (done.exit_code, done.output[-500:], done.exception)
    _require_short(done.output.strip())
    return "error"


def of_shard(path: str) -> str:
    """Return `record`, `refused`, or `nothing` for a shard without records."""
    count, size = 0, os.path.getsize(path)
    try:
        for key, members in samples(path):
            assert sum(map(len, members.values())) <= size
            UnitRecord.from_members(key, members)
            count += 1
    except (BadDataset, BadRecord) as error:
        _require_short(str(error).replace("\n", " "))
        return "refused"
    return "record" if count else "nothing"


def _require_short(message: str) -> None:
    assert len(message) < MOST, len(message)
    assert "\n" not in message.removeprefix("Usage").strip() or message.startswith("Usage:"), message
    assert "Traceback" not in message
