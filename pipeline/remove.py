"""Take utterances out of a finished dataset: exactly the splits concerned are written anew, and no model runs.

What is left is, byte for byte, what a build of the same plan would give with the same `removed.jsonl`. The order of the
steps is what makes a crash harmless, whenever it comes:

1. the files of the splits concerned are hashed; nothing is changed if one is damaged;
2. `removed.jsonl` is written: from here on, whoever rebuilds a split leaves the rows out;
3. `removing/` gets a copy of `dataset.json` and of the commit records concerned;
4. `dataset.json` goes, then those commit records: nobody can open the dataset, and nobody counts an old shard;
5. split by split: the new commit record into `removing/`, the four files, the commit record;
6. `shards.parquet`, `.nv-meta`, and `dataset.json` last;
7. `removing/` goes, then what a repair has set aside of these splits in `work/damaged/`.

Up to 4 the dataset is whole as it was; from 6 on it is whole without the rows; in between it says that it is not
finished. Every file is replaced as a whole, and each new one can be made from its old or its new form, so running
`remove` again finishes what was begun. A build refuses until it has. Where a file that is needed for it is damaged, the
message says how to give it up: without `removing/`, `repair` builds the splits concerned again from their sources.
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.commit import FORMAT, commit_path, scratch_folder
from pipeline.commit_form import malformed_commit
from pipeline.dataset import BadDataset, Dataset
from pipeline.drive import Progress
from pipeline.energon import write_energon_files
from pipeline.finish import write_shard_table
from pipeline.folder_lock import locked
from pipeline.models import referenced
from pipeline.plan import Plan, load_rows, read_plan
from pipeline.recipes import recipe_from
from pipeline.removal_checks import JOURNAL, Commits, RemoveFailed, unfinished, way_out
from pipeline.removal_search import search
from pipeline.removed import Removed, digest, read_removed, write_removed
from pipeline.set_aside import ASIDE, names_of
from pipeline.shard_without import write_without
from pipeline.split_files import sha256_of
from pipeline.storage import is_remote, join, list_names, publish_file, publish_json, read_json
from pipeline.storage import remove as remove_file
from schemas.rejects import Reason
from schemas.tables import SHARDS
from schemas.unit_record import BadRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Takedown:
    """What was done.

    Attributes:
        rows: manifest rows that are out now and were not before.
        splits: splits that were written anew.
        already: names that were asked for and had been removed before.
        missing: names that no row of the plan has.
        fitted: artifacts that were trained on the corpus, the removed audio possibly included, and stay as they are.
        fingerprint: of the dataset; bakes of it carry the same.
    """

    rows: int
    splits: tuple[int, ...]
    already: int
    missing: tuple[str, ...]
    fitted: tuple[str, ...]
    fingerprint: str


def remove(
    root: str, progress: Progress, *, ids: Iterable[str] = (), recordings: Iterable[str] = (), reason: str = ""
) -> Takedown:
    """Remove utterances by their manifest ids, or all of some recordings; names that no row has are left alone.

    Reads the rows of the whole plan once, and the shards concerned twice.

    Raises:
        RemoveFailed: if a file that is needed is missing or damaged; then nothing has been changed.
        FolderInUse: if another process works in the folder.
    """
    plan = read_plan(join(root, "plan"))
    if plan is None:
        raise RemoveFailed(f"{root}/plan/plan.json is missing or damaged: without the plan no row can be kept out")
    wanted_ids = {digest(name): name for name in ids}
    wanted_recordings = {digest(name): name for name in recordings}
    with locked(root):
        info = _description(root)
        listed = read_removed(root)
        ended: list[int] = []
        if unfinished(root):  # what was begun is ended first: its copies in `removing/` are of its own list
            covered = search(plan, {}, {}, listed).covered
            if not _lost(root, covered):  # else the names that are asked for now may be those that the list lost
                ended = _carry_out(root, plan, info, listed, covered, progress)
        transcribed = info.get("transcription") is not None
        found = search(plan, wanted_ids, wanted_recordings, listed, transcribed=transcribed)
        more = Removed.of(
            ids={name: reason for name in (wanted_ids.keys() & found.seen) | found.duplicates},
            recordings=dict.fromkeys(found.recordings, reason),
        )
        todo = _carry_out(root, plan, info, listed.with_more(more), found.covered, progress)
        _remove_copies(root, found.covered)
    earlier = found.gone | (wanted_ids.keys() & listed.ids.keys())
    earlier |= wanted_recordings.keys() & listed.recordings.keys()
    asked = [*wanted_ids.items(), *wanted_recordings.items()]
    return Takedown(
        rows=found.rows,
        splits=tuple(sorted({*ended, *todo})),
        already=len(earlier),
        missing=tuple(name for hashed, name in asked if hashed not in found.seen | earlier),
        fitted=_fitted(info),
        fingerprint=str(info["fingerprint"]),
    )


def _description(root: str) -> dict[str, Any]:
    """Return the content of `dataset.json`, or of its copy while a removal is under way.

    Raises:
        BadDataset: if there is none.
        RemoveFailed: if the copy is damaged, or missing, though a removal is under way.
    """
    try:
        return Dataset.open(root).info
    except BadDataset:
        if not unfinished(root):
            raise
    try:
        return Dataset.open(root, f"{JOURNAL}/dataset.json").info
    except BadDataset:
        raise RemoveFailed(f"{_journal(root, 'dataset')} is missing or damaged; {way_out(root)}") from None


def _journal(root: str, name: str | int) -> str:
    return join(root, JOURNAL, f"{name:06d}.json" if isinstance(name, int) else f"{name}.json")


def _begun(root: str) -> set[int]:
    """Return the splits of a removal that was not ended."""
    return {int(name[:-5]) for name in list_names(join(root, JOURNAL)) if name[:-5].isdigit()}


def _lost(root: str, covered: Mapping[int, int]) -> list[int]:
    """Return the splits of which `removed.jsonl` names other rows than when their removal was begun."""
    return [split for split in sorted(_begun(root)) if not _fits(_read_journal(root, split), covered.get(split, 0))]


def _fits(journal: Mapping[str, Any], covered: int) -> bool:
    if "after" in journal:
        return covered == _removed_of(journal["after"])
    return covered > _removed_of(journal["before"])


def _removed_of(record: Mapping[str, Any]) -> int:
    return int(record["reasons"].get(Reason.REMOVED.value, 0))


def _read_journal(root: str, split: int) -> dict[str, Any]:
    """Return the commit records of a split before and, if it came so far, after its removal.

    Raises:
        RemoveFailed: if they are damaged.
    """
    journal = read_json(_journal(root, split))
    found: dict[str, Any] = journal if isinstance(journal, dict) else {}
    if "before" not in found or any(
        malformed_commit(found[name], split) for name in ("before", "after") if name in found
    ):
        raise RemoveFailed(f"{_journal(root, split)} is damaged; {way_out(root)}")
    return found


def _carry_out(
    root: str, plan: Plan, info: dict[str, Any], listed: Removed, covered: Mapping[int, int], progress: Progress
) -> list[int]:
    """Do all that is left to do; return the splits that were written anew."""
    commits = Commits(root, str(info["fingerprint"]), covered)
    begun = _begun(root)
    if lost := _lost(root, covered):
        raise RemoveFailed(
            f"{root}/removed.jsonl names other rows of split {lost[0]} than when a removal was begun; run "
            "`interloom remove` with the ids and recordings of that removal and no others; or "
            f"{way_out(root)}"
        )
    todo = sorted({split for split in covered if not commits.done(split)} | begun)
    for split in set(range(len(plan.inputs))) - begun:
        commits.require(split, sound=split in todo)
    for split in begun:
        journal = _read_journal(root, split)
        if "after" not in journal and not commits.done(split):
            commits.require_files(journal["before"])
    if listed != read_removed(root):
        write_removed(root, listed)
    if not todo and not unfinished(root):
        return todo
    for split in set(todo) - begun:
        publish_json({"before": commits.read(split)}, _journal(root, split))
    publish_json(info, _journal(root, "dataset"))
    remove_file(join(root, "dataset.json"))
    for split in todo:
        if not commits.done(split):
            remove_file(commit_path(root, split))
    seconds = [plan.sizes[split] for split in todo]
    for number, split in enumerate(todo):
        progress(number, len(todo), sum(seconds[:number]), sum(seconds))
        if not commits.done(split):
            _rewrite(root, plan, split, covered[split])
    progress(len(todo), len(todo), sum(seconds), sum(seconds))
    _write_side_files(root, plan, info, commits)
    for name in sorted(list_names(join(root, JOURNAL))):  # digits come before `dataset.json`
        remove_file(join(root, JOURNAL, name))
    if not is_remote(root):
        Path(root, JOURNAL).rmdir()
    return todo


def _rewrite(root: str, plan: Plan, split: int, covered: int) -> None:
    """Replace the files of a split whose commit record is withdrawn, then write the new one."""
    journal = _read_journal(root, split)
    before, after = journal["before"], journal.get("after")
    folder = scratch_folder(root, split)
    try:
        rows = load_rows(plan.rows_path, split, plan.base)
        try:
            facts = write_without(root, split, rows, before["unit_counts"], folder)
        except (BadDataset, BadRecord) as error:
            raise RemoveFailed(f"{error}; {way_out(root)}") from error
        files = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(str(path))}
            for path in sorted(folder.iterdir())
        }
        if after is None:
            after = {"files": files, "format": FORMAT, "plan": before["plan"], "split": split, **facts}
            _require_balanced(root, plan, split, covered, after)
            publish_json({"after": after, "before": before}, _journal(root, split))
        elif files != after["files"]:
            raise RemoveFailed(
                f"the files of split {split} in {root}/shards changed since the removal began; {way_out(root)}"
            )
        for name in files:
            publish_file(folder / name, join(root, "shards", name))
        publish_json(after, commit_path(root, split))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_balanced(root: str, plan: Plan, split: int, covered: int, record: Mapping[str, Any]) -> None:
    total, removed = record["records"] + record["rejects"], _removed_of(record)
    if total != plan.inputs[split] or removed != covered:
        raise RemoveFailed(
            f"split {split} of {root}: {plan.inputs[split]} inputs planned and {covered} to remove, but "
            f"{record['records']} records and {record['rejects']} rejects, {removed} of them removed"
        )


def _write_side_files(root: str, plan: Plan, info: dict[str, Any], commits: Commits) -> None:
    """Write from all commit records what `pipeline.finish` writes, `dataset.json` last."""
    records: dict[int, dict[str, Any]] = {}
    reasons: dict[str, int] = {}
    for split in range(len(plan.inputs)):
        record = commits.read(split)
        if record is None:
            raise RemoveFailed(f"{commit_path(root, split)} does not hold; {way_out(root)}")
        for reason, count in record["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
        records[split] = {name: record[name] for name in SHARDS.names if name != "bytes"} | {"files": record["files"]}
    totals = {name: sum(record[name] for record in records.values()) for name in ("num_samples", "records", "rejects")}
    shards = write_shard_table(root, records)
    write_energon_files(root, records)
    # The report shows texts and plays clips of the dataset as it was.
    remove_file(join(root, "report.html"))
    publish_json({**info, **totals, "reasons": reasons, "shards": shards}, join(root, "dataset.json"))


def _remove_copies(root: str, splits: Iterable[int]) -> None:
    """Remove the files of these splits that a repair has set aside."""
    present = list_names(join(root, ASIDE, "shards"))
    for name in (name for split in splits for name in names_of(split)):
        if name.removeprefix("shards/") in present:
            remove_file(join(root, ASIDE, name))


def _fitted(info: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the artifacts that lie in the dataset, except those that the recipe named."""
    given = {ref.name for ref in referenced(recipe_from(info["recipe"], "dataset.json")) if ref.kept}
    own = {name for name, artifact in info["artifacts"].items() if artifact["path"].startswith("artifacts/")}
    return tuple(sorted(own - given))
