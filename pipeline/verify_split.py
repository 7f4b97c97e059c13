"""Verify one split: its commit record, the bytes of its files, and what they say of each other."""

import io
import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.commit import FORMAT, commit_path
from pipeline.commit_form import SUMS, commit_name, malformed_commit, shard_names
from pipeline.dataset import BadDataset
from pipeline.findings import Expected, Finding, Problem, SplitReport
from pipeline.plan import Row, load_rows
from pipeline.removed import Removed, is_removed, read_removed, removed_id
from pipeline.shard_facts import shard_row
from pipeline.shards import num_documents
from pipeline.split_files import found_by, opened, read_rejects, sha256_of
from pipeline.storage import file_size, join, read_bytes
from pipeline.tar_samples import tar_samples
from schemas.canonical import canonical_json
from schemas.records import Utterance
from schemas.rejects import Reason, Reject
from schemas.tables import STATS
from schemas.unit_record import BadRecord, UnitRecord

MAX_FINDINGS = 20
"""Of one kind in one file: a file that is wrong throughout is told as such and not line by line."""


@dataclass(slots=True)
class _Shard:
    """What a tar holds, gathered in one pass."""

    offsets: list[int] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, Any] = field(default_factory=dict)
    whole: bool = True


class SplitCheck:
    """Gathers the findings of one split."""

    def __init__(self, expected: Expected, split: int) -> None:
        self._expected, self._split = expected, split
        self._names = shard_names(split)
        self._findings: list[Finding] = []
        self._lost: int | None = None

    def run(self) -> SplitReport:
        commit = self._commit()
        skipped = self._expected.only is not None and self._split not in self._expected.only
        rows = None if skipped else self._planned()
        listed = None if rows is None else sum(map(is_removed, rows))
        if commit is None:
            return SplitReport(split=self._split, findings=tuple(self._findings), listed=listed)
        if listed is not None:
            self._lost = max(0, commit["reasons"].get(Reason.REMOVED.value, 0) - listed)
        slim = {name: value for name, value in commit.items() if name != "unit_counts"}
        if skipped:
            return SplitReport(split=self._split, findings=tuple(self._findings), commit=slim)
        sound = self._files(commit)
        shard = self._shard() if "tar" in sound else None
        stats = self._stats() if "stats" in sound else None
        rejects = self._rejects() if "rejects" in sound else None
        if shard is not None and "index" in sound:
            self._index(shard)
        if shard is not None and shard.whole and stats is not None:
            self._agree(shard, stats)
        if shard is not None and shard.whole and stats is not None and rejects is not None:
            self._counts(commit, shard, stats, rejects)
        if shard is not None and shard.whole and rejects is not None and rows is not None:
            self._rows(commit, shard, rejects, rows)
        return SplitReport(
            split=self._split,
            findings=tuple(self._findings),
            files=len(self._names),
            records=len(shard.rows) if shard is not None else 0,
            commit=slim,
            listed=listed,
            lost=self._lost,
        )

    def _add(self, name: str, problem: Problem, detail: str) -> None:
        path = f"shards/{name}"
        if sum(f.path == path and f.problem is problem for f in self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(path=path, problem=problem, detail=detail, split=self._split))

    def _path(self, name: str) -> str:
        return join(self._expected.root, "shards", name)

    @property
    def _commit_name(self) -> str:
        return commit_name(self._split)

    def _commit(self) -> dict[str, Any] | None:
        """Return the commit record if it can be followed."""
        path = commit_path(self._expected.root, self._split)
        name, data = self._commit_name, found_by(read_bytes, path)
        if data is None:
            self._add(name, Problem.MISSING, "the shard does not count without its commit record")
            return None
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            self._add(name, Problem.UNREADABLE, "not valid JSON")
            return None
        if (wrong := malformed_commit(record, self._split)) is not None:
            self._add(name, Problem.FORGED, wrong)
            return None
        if data != (canonical_json(record) + "\n").encode():
            self._add(name, Problem.FORGED, "it is not written as a commit writes it")
        wanted = {"format": FORMAT, "split": self._split}
        if self._expected.fingerprint is not None:
            wanted["plan"] = self._expected.fingerprint
        for key, value in wanted.items():
            if record[key] != value:
                self._add(name, Problem.FORGED, f"{key} is {record[key]!r}, {value!r} is expected")
        if record["inputs"] != record["records"] + record["rejects"]:
            self._add(name, Problem.FORGED, "inputs are not records and rejects")
        return dict(record)

    def _files(self, commit: Mapping[str, Any]) -> set[str]:
        """Return which files are what the commit record says."""
        sound = set()
        for kind, name in self._names.items():
            said, size = commit["files"][name], found_by(file_size, self._path(name))
            if size is None:
                self._add(name, Problem.MISSING, "its commit record names it")
                continue
            if size != said["bytes"]:
                self._add(name, Problem.SIZE, f"{size} bytes, its commit record says {said['bytes']}")
            elif sha256_of(self._path(name)) != said["sha256"]:
                self._add(name, Problem.HASH, "its sha256 is not that of its commit record")
            else:
                sound.add(kind)
        return sound

    def _shard(self) -> _Shard:
        """Parse every record; one in memory at a time."""
        shard, name = _Shard(), self._names["tar"]
        codebooks = self._expected.codebooks
        shard.counts = {stream: np.zeros(size, np.int64) for stream, size in (codebooks or {}).items()}
        try:
            with opened(self._path(name)) as file:
                at = 0
                for sample in tar_samples(file, name):
                    shard.offsets.append(sample.start)
                    at = sample.start + len(sample.raw)
                    self._record(shard, sample.key, sample.members)
                shard.offsets.append(at)
        except BadDataset as error:
            shard.whole = False
            self._add(name, Problem.UNREADABLE, str(error))
        return shard

    def _record(self, shard: _Shard, key: str, members: Mapping[str, bytes]) -> None:
        name = self._names["tar"]
        try:
            record = UnitRecord.from_members(key, members)
            shard.rows.append(shard_row(record, self._split))
        except (BadRecord, KeyError, TypeError, ValueError) as error:
            shard.whole = False
            told = str(error) if isinstance(error, BadRecord) else f"record {key!r}: a field is missing or wrong"
            self._add(name, Problem.UNREADABLE, told)
            return
        codebooks = self._expected.codebooks
        if codebooks is None:
            return
        if set(record.streams) != set(codebooks):
            shard.whole = False
            self._add(name, Problem.UNREADABLE, f"record {key!r}: has streams {sorted(record.streams)}")
            return
        for stream, ids in record.streams.items():
            if len(ids) and int(ids.max()) >= codebooks[stream]:
                shard.whole = False
                self._add(name, Problem.UNREADABLE, f"record {key!r}: {stream} ids beyond the codebook")
                return
        for stream, ids in record.streams.items():
            shard.counts[stream] += np.bincount(ids, minlength=codebooks[stream])

    def _index(self, shard: _Shard) -> None:
        if shard.whole:
            wanted = struct.pack(f"<{len(shard.offsets)}Q", *shard.offsets)
            if read_bytes(self._path(self._names["index"])) != wanted:
                self._add(self._names["index"], Problem.INDEX, "its offsets are not where the samples begin")

    def _stats(self) -> list[dict[str, Any]] | None:
        name = self._names["stats"]
        try:
            table = pq.read_table(io.BytesIO(read_bytes(self._path(name)) or b""))
        except (pa.ArrowException, OSError) as error:
            self._add(name, Problem.UNREADABLE, type(error).__name__)
            return None
        if not table.schema.equals(STATS):
            self._add(name, Problem.UNREADABLE, "its columns are not those of the statistics")
            return None
        return list(table.to_pylist())

    def _rejects(self) -> list[dict[str, Any]] | None:
        name = self._names["rejects"]
        try:
            rejects = read_rejects(self._path(name))
        except BadDataset as error:
            self._add(name, Problem.UNREADABLE, str(error).removeprefix(self._path("")))
            return None
        reasons = {reason.value for reason in Reason}
        for number, reject in enumerate(rejects, 1):
            if not all(isinstance(value, str) for value in reject.values()) or reject["reason"] not in reasons:
                self._add(name, Problem.UNREADABLE, f"line {number} is no reject")
        return rejects

    def _agree(self, shard: _Shard, stats: Sequence[Mapping[str, Any]]) -> None:
        """Compare the statistics with what the records give; what needs the tokenizer or F0 is left to the hashes."""
        name = self._names["stats"]
        if len(stats) != len(shard.rows):
            self._add(name, Problem.STATS, f"{len(stats)} rows for {len(shard.rows)} records")
            return
        for found, said in zip(shard.rows, stats, strict=True):
            if wrong := sorted(column for column, value in found.items() if said[column] != value):
                self._add(name, Problem.STATS, f"record {found['key']!r}: {', '.join(wrong)}")

    def _counts(
        self,
        commit: Mapping[str, Any],
        shard: _Shard,
        stats: Sequence[Mapping[str, Any]],
        rejects: Sequence[Mapping[str, Any]],
    ) -> None:
        found: dict[str, Any] = {
            "documents": num_documents(stats),
            "records": len(shard.rows),
            "rejects": len(rejects),
            "reasons": dict(Counter(reject["reason"] for reject in rejects)),
            **{column: sum(row[column] for row in stats) for column in SUMS},
        }
        if self._expected.codebooks is not None:
            found["unit_counts"] = {stream: counts.tolist() for stream, counts in shard.counts.items()}
        for name, value in found.items():
            if commit[name] != value:
                told = "" if name in ("unit_counts", "reasons") else f" {commit[name]}, its files hold {value}"
                self._add(self._commit_name, Problem.FORGED, f"{name}{told or ' are not those of its files'}")

    def _planned(self) -> list[Row] | None:
        """Return the plan's rows of the split; None where there is no plan, or where it is told to be damaged."""
        expected = self._expected
        if expected.rows_path is None:
            return None
        try:
            return load_rows(expected.rows_path, self._split, expected.base)
        except (pa.ArrowException, OSError, ValueError, KeyError):
            return None

    def _rows(
        self,
        commit: Mapping[str, Any],
        shard: _Shard,
        rejects: Sequence[Mapping[str, Any]],
        rows: Sequence[Row],
    ) -> None:
        """Check that every planned row is a record or a reject, in order, and that nothing removed is still there."""
        removed = read_removed(self._expected.root)
        if len(rows) != commit["inputs"]:
            self._add(self._commit_name, Problem.FORGED, f"{commit['inputs']} inputs, {len(rows)} are planned")
        keys = [record["key"] for record in shard.rows]
        kept, planned = set(keys), {row.key for row in rows if isinstance(row, Utterance)}
        strangers = [record for record in shard.rows if record["key"] not in planned]
        for record in strangers:
            self._stranger(record, removed)
        wanted = [row.key for row in rows if isinstance(row, Utterance) and row.key in kept]
        if wanted != [key for key in keys if key in planned]:
            self._add(self._names["tar"], Problem.UNREADABLE, "its records are not in the order of the plan")
        others = [row for row in rows if not (isinstance(row, Utterance) and row.key in kept)]
        self._lost = 0
        pairs = [pair for pair in zip(others, rejects, strict=False) if not self._differs_by_list(*pair)]
        wrong = [row.key for row, reject in pairs if not _stands_for(reject, row)]
        if (wrong or len(others) != len(rejects)) and not strangers:
            told = f"from row {wrong[0]!r} on" if wrong else f"{len(rejects)} instead of {len(others)}"
            self._add(self._names["rejects"], Problem.UNREADABLE, f"its lines are not the plan's other rows: {told}")

    def _differs_by_list(self, row: Row, reject: Mapping[str, Any]) -> bool:
        """Tell whether both are one row, which is removed by `removed.jsonl` or by the rejects, but not by both."""
        out = reject["reason"] == Reason.REMOVED.value
        if out and not is_removed(row) and reject["id"] == removed_id(row.id):
            self._lost = (self._lost or 0) + 1
            return True
        if not out and is_removed(row) and row.id == removed_id(str(reject["id"])):
            told = f"row {reject['key']!r} is on removed.jsonl; run `interloom remove` again"
            self._add(self._names["rejects"], Problem.REMOVED, told)
            return True
        return False

    def _stranger(self, record: Mapping[str, Any], removed: Removed) -> None:
        if removed.covers(record["id"], record["recording"]):
            told = f"record {record['key']!r} is on removed.jsonl; run `interloom remove` again"
            self._add(self._names["tar"], Problem.REMOVED, told)
        else:
            self._add(self._names["tar"], Problem.UNREADABLE, f"record {record['key']!r} is not in the plan")


def _stands_for(reject: Mapping[str, Any], row: Row) -> bool:
    if isinstance(row, Reject):
        return reject == row.to_json()
    return (reject["key"], reject["id"]) == (row.key, row.id)
