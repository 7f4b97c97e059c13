"""Mend `removed.jsonl`: the rejects of removed rows hold what the list held of their ids."""

from pipeline.commit_form import shard_names
from pipeline.dataset import BadDataset
from pipeline.plan import Plan
from pipeline.removed import Removed, digest, read_removed
from pipeline.split_files import read_rejects
from pipeline.storage import join
from pipeline.verify_plan import row_groups
from schemas.rejects import Reason

REASON = "restored"
"""Stands for a reason that was lost. A row that was removed with its recording comes back by its id."""


def mended(root: str, plan: Plan) -> Removed:
    """Return the list without lines that name nothing in the plan, and with all rows that rejects say were removed."""
    listed = read_removed(root, damaged=True)
    names, lost = set[str](), set[str]()
    for split, rows in enumerate(row_groups(plan)):
        out = _removed_ids(root, split)
        for row in rows:
            mark = digest(row["id"])
            names |= {mark, digest(row["recording"])} & (listed.ids.keys() | listed.recordings.keys())
            if f"sha256:{mark}" in out and not listed.covers(row["id"], row["recording"]):
                lost.add(mark)
    return Removed(
        ids={name: reason for name, reason in listed.ids.items() if name in names} | dict.fromkeys(lost, REASON),
        recordings={name: reason for name, reason in listed.recordings.items() if name in names},
    )


def _removed_ids(root: str, split: int) -> set[str]:
    try:
        rejects = read_rejects(join(root, "shards", shard_names(split)["rejects"]))
    except BadDataset:
        return set()
    return {str(reject["id"]) for reject in rejects if reject["reason"] == Reason.REMOVED.value}
