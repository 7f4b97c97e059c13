"""What must hold before a repair touches anything: the sources of what it makes again."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.commit_form import commit_name, shard_names
from pipeline.dataset import BadDataset
from pipeline.findings import Finding, Problem
from pipeline.plan import Plan, load_rows
from pipeline.removed import read_removed
from pipeline.set_aside import names_of, original
from pipeline.split_files import exists, read_rejects, sha256_of
from pipeline.storage import is_remote, join, list_names, read_json
from schemas.records import Utterance
from schemas.rejects import Reason
from schemas.urls import public_url


class RepairFailed(RuntimeError):
    """What is damaged cannot be made again; the message says what is missing. Nothing that was sound is touched."""


def require_sources(root: str, plan: Plan, splits: Sequence[int]) -> None:
    """Check that the audio of the splits is still there, except where it was not there before either.

    Raises:
        RepairFailed: naming the first file that is gone.
    """
    removed = read_removed(root, damaged=True)  # a plan that is not yet in its place is read without it
    for split in splits:
        lost = _lost_before(root, split)
        planned = map(removed.apply, load_rows(plan.rows_path, split, plan.base))
        rows = [row for row in planned if isinstance(row, Utterance)]
        gone = sorted({row.location for row in rows if row.key not in lost} - _present(rows))
        if gone:
            raise RepairFailed(
                f"split {split} of {root} cannot be built again: {len(gone)} of its audio files are gone, the first is "
                f"{public_url(gone[0])}; restore them, {_other_base(gone[0], plan.base)}"
                "or copy the split's files from elsewhere"
            )


def _other_base(location: str, base: str) -> str:
    if not location.startswith(f"{base}/"):
        return ""
    return f"or give --audio-root if relative paths do not start from {public_url(base)}, "


def lost_splits(root: str, plan: Plan, findings: Iterable[Finding]) -> list[int]:
    """Return the splits of a new plan that have no commit record, or another file than it says."""
    kinds, present = (Problem.MISSING, Problem.SIZE, Problem.HASH), list_names(join(root, "shards"))
    bad = {finding.split for finding in findings if finding.problem in kinds}
    return [split for split in range(len(plan.inputs)) if split in bad or commit_name(split) not in present]


def _present(rows: Iterable[Utterance]) -> set[str]:
    locations = {row.location for row in rows}
    return {location for location in locations if _exists(location)}


def _exists(location: str) -> bool:
    return exists(location) if is_remote(location) else Path(location).exists()


def _lost_before(root: str, split: int) -> set[str]:
    """Return the keys that were rejected for want of their audio; none where the rejects cannot be trusted."""
    name = shard_names(split)["rejects"]
    record, path = read_json(original(root, names_of(split)[0])), original(root, f"shards/{name}")
    try:
        if not isinstance(record, dict) or record["files"][name]["sha256"] != sha256_of(path):
            return set()
        return {reject["key"] for reject in read_rejects(path) if reject["reason"] == Reason.MISSING_AUDIO.value}
    except (BadDataset, KeyError, TypeError):
        return set()
