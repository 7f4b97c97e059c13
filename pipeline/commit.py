"""The commit of a split: its files first, its commit record last. Readers and reruns trust commit records only."""

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.commit_form import commit_name
from pipeline.inside import is_inside
from pipeline.storage import (
    file_size,
    is_remote,
    join,
    list_names,
    make_dirs,
    publish_file,
    publish_json_once,
    read_json,
    remove,
)

FORMAT = "interloom-commit/1"
GOING = "going-"
"""Names of folders in `work/` that are being removed begin so."""
FETCHERS = 32
"""Commit records of a store that are fetched at once."""


class CommitConflict(RuntimeError):
    """A split was done twice with different bytes: a stage is not deterministic, or two settings share one folder."""


def commit_path(root: str, split: int) -> str:
    return join(root, "shards", commit_name(split))


def committed_splits(names: Iterable[str]) -> set[int]:
    """Return the splits whose commit records are among some file names."""
    return {int(match[1]) for name in names if (match := re.fullmatch(r"shard-(\d{6,})\.commit\.json", name))}


def scratch_folder(root: str, split: int, owner: str = "") -> Path:
    """Make a fresh scratch folder for one attempt; on the same file system as `root` where that is local.

    Where `root` is remote it lies in the temporary folder, which whoever started us removes.

    Args:
        root: the dataset's folder.
        split: whose files it will receive.
        owner: whose scratch is removed together, see `remove_scratch`.
    """
    if is_remote(root):
        import tempfile

        return Path(tempfile.mkdtemp(prefix=f"interloom-{split:06d}-"))
    folder = Path(root) / "work" / "tmp" / owner / f"{split:06d}-{uuid.uuid4().hex}"
    folder.mkdir(parents=True)
    return folder


def remove_scratch(root: str, owner: str = "") -> None:
    """Remove the scratch folders of one owner, or of all.

    At once: a child on another machine that outlived its engine finds all files of a shard, or none.
    """
    if not is_remote(root):
        work = Path(root) / "work"
        with suppress(FileNotFoundError):
            os.rename(work / "tmp" / owner, work / f"{GOING}{uuid.uuid4().hex}")
        for folder in work.glob(f"{GOING}*"):  # others' too, which a kill may have left
            shutil.rmtree(folder, ignore_errors=True)


def commit(root: str, split: int, fingerprint: str, folder: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Publish the files of a scratch folder, then the commit record; remove the scratch folder.

    Raises:
        CommitConflict: if a record exists that names other bytes.
    """
    files = {path.name: _describe(path) for path in sorted(folder.iterdir())}
    record = {"files": files, "format": FORMAT, "plan": fingerprint, "split": split, **facts}
    make_dirs(join(root, "shards"))
    existing = read_json(commit_path(root, split))
    if existing is not None and existing != record:
        raise _conflict(root, split)
    for name in files:
        publish_file(folder / name, join(root, "shards", name))
    if not publish_json_once(record, commit_path(root, split)):
        raise _conflict(root, split)
    shutil.rmtree(folder, ignore_errors=True)
    return record


def _conflict(root: str, split: int) -> CommitConflict:
    return CommitConflict(
        f"{commit_path(root, split)} names other bytes than this run made; verify, or use another --out"
    )


def _describe(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def valid_commit(root: str, fingerprint: str, split: int) -> dict[str, Any] | None:
    """Return a split's commit record if it counts; costs a look at the split's own files, however many there are."""
    record = read_json(commit_path(root, split))
    return record if _counts(record, fingerprint, split, lambda name: file_size(join(root, "shards", name))) else None


def valid_commits(root: str, fingerprint: str, splits: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return the commit records that count, without their unit counts: of this fingerprint, every file at its size."""
    present = list_names(join(root, "shards"))

    def size_of(name: str) -> int | None:  # a store's listing may lag behind what was written
        lagging = name not in present and is_remote(root)
        return file_size(join(root, "shards", name)) if lagging else present.get(name)

    def slim(split: int) -> Any:
        return _slim(read_json(commit_path(root, split)))

    chosen = sorted(committed_splits(present) & set(splits))
    if is_remote(root):
        with ThreadPoolExecutor(FETCHERS) as pool:
            records = dict(zip(chosen, pool.map(slim, chosen), strict=True))
    else:  # no thread: see `_Handover` in pipeline/drive.py
        records = {split: slim(split) for split in chosen}
    return {split: record for split, record in sorted(records.items()) if _counts(record, fingerprint, split, size_of)}


def _slim(record: Any) -> Any:
    """Leave out what nobody needs of all splits at once: the counts of units, most of a record."""
    return (
        {name: value for name, value in record.items() if name != "unit_counts"} if isinstance(record, dict) else record
    )


def _counts(record: Any, fingerprint: str, split: int, size_of: Callable[[str], int | None]) -> bool:
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        return False
    if record.get("plan") != fingerprint or record.get("split") != split:
        return False
    if not isinstance(files := record.get("files"), dict):
        return False
    return all(_is_described(name, file) and size_of(name) == file["bytes"] for name, file in files.items())


def _is_described(name: str, file: Any) -> bool:
    return is_inside(name) and isinstance(file, dict) and type(file.get("bytes")) is int


def keep_valid(root: str, fingerprint: str, splits: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Return the commit records that count and delete those that do not, so that their splits are redone.

    Raises:
        CommitConflict: if a record belongs to another plan.
    """
    valid = valid_commits(root, fingerprint, splits)
    present = committed_splits(list_names(join(root, "shards")))
    for split in sorted(present & set(splits) - set(valid)):
        record = read_json(commit_path(root, split))
        if isinstance(record, dict) and record.get("plan") not in (None, fingerprint):
            raise CommitConflict(f"{commit_path(root, split)} belongs to another plan; use another --out or delete it")
        remove(commit_path(root, split))
    return valid
