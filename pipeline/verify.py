"""Verify a dataset: files against commit records, records against their format, and all of them against the plan.

What has no second witness cannot be checked: `code_version`, `transcription` and models outside the dataset in
`dataset.json`, the base folder in `plan.json`, and text token counts and F0 in the statistics beyond their hash.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

from pipeline.commit import committed_splits
from pipeline.commit_form import commit_name, shard_names
from pipeline.dataset import Dataset
from pipeline.drive import Progress
from pipeline.findings import Expected, Finding, Problem, SplitReport
from pipeline.plan import Plan, read_plan
from pipeline.split_files import found_by, why_unreadable
from pipeline.storage import join, list_names, read_json
from pipeline.verify_side import SideCheck
from pipeline.verify_split import SplitCheck


class VerifyFailed(RuntimeError):
    """Something is damaged or missing; the message names each bad file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found.

    Attributes:
        files: files that were looked at.
        records: records that were parsed.
        findings: everything that is wrong, by file.
        planned: whether the plan was there to compare with; a copy of a dataset may lack it.
    """

    files: int
    records: int
    findings: tuple[Finding, ...] = ()
    planned: bool = True


def verify(root: str) -> Verified:
    """Hash and parse everything.

    Raises:
        BadDataset: if the folder is not a finished dataset.
        VerifyFailed: naming the bad files.
    """
    found = examine(root)
    if found.findings:
        shown = "; ".join(map(str, found.findings[:20])) + ("; and more" if len(found.findings) > 20 else "")
        raise VerifyFailed(f"{root}: {shown}. `interloom verify` lists all, `interloom repair` redoes them")
    return found


def examine(
    root: str, *, workers: int = 1, progress: Progress | None = None, only: Sequence[int] | None = None
) -> Verified:
    """Hash and parse everything and return all that is wrong; holds one record, and one row per split, in memory.

    Args:
        root: the dataset's folder.
        workers: processes that look at splits.
        progress: told of splits and of planned audio.
        only: splits to look into; None for all. The others then count by their commit records' word.

    Raises:
        BadDataset: if the folder holds neither a finished dataset nor a plan.
    """
    plan = found_by(read_plan, join(root, "plan"))
    info = found_by(read_json, join(root, "dataset.json"))
    if not isinstance(info, dict) and plan is None:
        Dataset.open(root)  # says what is wrong
    side = SideCheck(root, plan, info if isinstance(info, dict) else None)
    expected = replace(side.expected(), only=None if only is None else frozenset(only))
    reports: Iterable[SplitReport] = _reports(expected, range(side.num_splits), workers)
    if progress is not None:
        reports = _shown(reports, plan, side.num_splits, progress)
    findings: list[Finding] = []
    files = records = 0
    for report in reports:
        findings += report.findings
        files += report.files + 1
        records += report.records
        side.take(report)
    findings = [_blamed(root, finding) for finding in (*findings, *_strays(root, side.num_splits), *side.findings())]
    return Verified(
        files=files + side.files,
        records=records,
        findings=tuple(sorted(set(findings), key=_by_file)),
        planned=bool(plan),
    )


def _blamed(root: str, finding: Finding) -> Finding:
    """Return a finding with what the system says, where a file seems missing or changed because it cannot be read."""
    if finding.problem not in (Problem.MISSING, Problem.SIZE, Problem.HASH):
        return finding
    told = why_unreadable(join(root, finding.path))
    return finding if told is None else replace(finding, problem=Problem.UNREADABLE, detail=told)


def _by_file(finding: Finding) -> tuple[str, str, str]:
    return finding.path, finding.problem.value, finding.detail


def _reports(expected: Expected, splits: Sequence[int], workers: int) -> Iterator[SplitReport]:
    if workers == 1 or len(splits) < 2:
        yield from map(partial(check_split, expected), splits)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(partial(check_split, expected), splits)


def check_split(expected: Expected, split: int) -> SplitReport:
    return SplitCheck(expected, split).run()


def _shown(reports: Iterable[SplitReport], plan: Plan | None, count: int, progress: Progress) -> Iterator[SplitReport]:
    sizes = plan.sizes if plan is not None else (0.0,) * count
    done, seconds, total = 0, 0.0, sum(sizes)
    progress(0, count, 0.0, total)
    for report in reports:
        yield report
        done, seconds = done + 1, seconds + sizes[report.split]
        progress(done, count, seconds, total)


def _strays(root: str, count: int) -> list[Finding]:
    """Return what lies in `shards/` and belongs to no planned split."""
    present = found_by(list_names, join(root, "shards")) or {}
    beyond = {split for split in committed_splits(present) if split >= count}
    findings = []
    for name in sorted(present):
        digits = name.removeprefix("shard-").removeprefix("rejects-").split(".")[0]
        split = int(digits) if digits.isdigit() else None
        known = split is not None and name in (*shard_names(split).values(), commit_name(split))
        if known and split is not None and split < count:
            continue
        if known and split in beyond:
            told = f"the plan has {count} splits, from 0 on"
            findings.append(Finding(path=f"shards/{name}", problem=Problem.UNPLANNED, detail=told))
        else:
            findings.append(Finding(path=f"shards/{name}", problem=Problem.UNNAMED, detail="no commit record names it"))
    return findings


def bad_files(findings: Iterable[Finding]) -> list[str]:
    """Return the files that something is wrong with, each once."""
    return list(dict.fromkeys(finding.path for finding in findings))


def as_json(root: str, found: Verified) -> dict[str, Any]:
    """Return what `interloom verify --json` prints."""
    return {
        "dataset": root,
        "files": found.files,
        "findings": [
            {"detail": f.detail, "path": f.path, "problem": f.problem.value, "split": f.split} for f in found.findings
        ],
        "planned": found.planned,
        "records": found.records,
        "sound": not found.findings,
    }
