"""Verify what describes a dataset as a whole: `dataset.json`, `shards.parquet`, `.nv-meta`, artifacts, removals."""

import io
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from pydantic import ValidationError

from pipeline import backends, chain
from pipeline.commit import commit_path
from pipeline.dataset import FORMAT
from pipeline.energon import FOLDER, PARTS, write_energon_files
from pipeline.findings import Expected, Finding, Problem, SplitReport
from pipeline.finish import CODE_VERSION
from pipeline.fit import FORMAT as ARTIFACTS
from pipeline.fit import LISTING, artifacts_json, fit_fingerprint, is_entry, kept_entries, load_artifacts
from pipeline.inside import is_inside
from pipeline.models import pinned, referenced
from pipeline.plan import Plan
from pipeline.removal_checks import JOURNAL, unfinished
from pipeline.removed import LIST, BadRemovedList, Removed, read_removed
from pipeline.split_files import exists, found_by, is_of_the_path, sha256_of
from pipeline.storage import join, read_bytes, read_json
from pipeline.verify_plan import is_canonical, plan_findings, read_recipe, recipe_findings
from schemas.canonical import canonical_json
from schemas.contract import UnitContract
from schemas.descriptions import DatasetDescription, what_is_wrong
from schemas.recipe import Recipe
from schemas.records import Artifact
from schemas.rejects import Reason
from schemas.tables import SHARDS
from stages.checkpoints import BadCheckpoint, verified_path

SUMMED = ("inputs", "num_samples", "records", "rejects")
DATASET, TABLE = "dataset.json", "shards.parquet"


class SideCheck:
    """Takes the reports of all splits, then compares what the side files say with them."""

    def __init__(self, root: str, plan: Plan | None, info: dict[str, Any] | None) -> None:
        self._root, self._plan, self._info = root, plan, info
        self._findings: list[Finding] = []
        self._rows: dict[int, dict[str, Any]] = {}
        self._reasons: Counter[str] = Counter()
        self._listed: list[int | None] = []
        self._lost: list[int | None] = []
        self._removed = self._read_removed()
        self._told = self._told_by(read_recipe(root))
        self.files = 0

    @property
    def num_splits(self) -> int:
        if self._plan is not None:
            return len(self._plan.inputs)
        said = (self._info or {}).get("splits")
        return said if isinstance(said, int) and said >= 0 else 0

    def expected(self) -> Expected:
        """Return what the splits are held against: what most witnesses say, so that one damaged file is one finding."""
        plan = self._plan
        return Expected(
            root=self._root,
            fingerprint=self._fingerprint(),
            codebooks=self._codebooks(),
            rows_path=None if plan is None else plan.rows_path,
            base="" if plan is None else plan.base,
        )

    def take(self, report: SplitReport) -> None:
        """Count a split by its commit record."""
        self._listed.append(report.listed)
        self._lost.append(report.lost)
        if report.commit is None:
            return
        tar = report.commit["files"][f"shard-{report.split:06d}.tar"]["bytes"]
        self._rows[report.split] = {"bytes": tar} | {
            name: report.commit[name] for name in SHARDS.names if name != "bytes"
        }
        self._reasons.update(report.commit["reasons"])

    def findings(self) -> list[Finding]:
        """Return all that is wrong beside the splits; to be called once every split was taken."""
        complete = len(self._rows) == self.num_splits
        self._check_description(complete)
        self._check_table()
        if complete:
            self._check_energon()
        self._check_artifacts()
        self._check_removed()
        planned = plan_findings(self._root, self._plan, self._info, self._removed)
        planned += recipe_findings(
            self._root,
            self._info,
            planned=self._plan is not None,
            trusted=self._told is not None and not self._made_with_the_other(),
        )
        self._check_listing(fitted=None if planned else self._fitted(read_recipe(self._root)))
        return self._findings + planned

    def _add(self, path: str, problem: Problem, detail: str) -> None:
        self._findings.append(Finding(path=path, problem=problem, detail=detail))

    def _read_removed(self) -> Removed:
        try:
            return read_removed(self._root)
        except BadRemovedList as error:
            self._add(LIST, Problem.UNREADABLE, str(error).removeprefix(self._root + "/"))
        except OSError as error:
            if not is_of_the_path(error, self._root):
                raise
            self._add(LIST, Problem.UNREADABLE, error.strerror or type(error).__name__)
        return Removed.of()

    def _fingerprint(self) -> str | None:
        """Return what the first commit records agree on, else what `dataset.json` says."""
        said = (self._info or {}).get("fingerprint")
        records = [found_by(read_json, commit_path(self._root, split)) for split in range(min(3, self.num_splits))]
        found = Counter(str(record.get("plan")) for record in records if isinstance(record, dict))
        most = found.most_common(1)
        if most and (most[0][1] > 1 or said is None):
            return most[0][0]
        return said if isinstance(said, str) else None

    def _codebooks(self) -> dict[str, int] | None:
        streams = self._told["streams"] if self._told is not None else (self._info or {}).get("streams")
        if not isinstance(streams, dict):
            return None
        try:
            return {name: UnitContract.from_json(value).codebook_size for name, value in streams.items()}
        except (AttributeError, KeyError, TypeError, ValueError):
            return None

    def _told_by(self, recipe: Recipe | None) -> dict[str, Any] | None:
        """Return what a build by a recipe would say of itself, None where that cannot be known or it was another."""
        fitted = found_by(load_artifacts, self._root)
        if recipe is None or fitted is None or self._plan is None or any(not ref.kept for ref in referenced(recipe)):
            return None
        artifacts = fitted[1]
        try:
            steps, sink = chain.build_steps(recipe, artifacts), chain.build_sink(recipe, artifacts)
            if chain.job_fingerprint(self._plan.fingerprint, steps, sink) != self._fingerprint():
                return None
            contracts = chain.contracts(recipe, artifacts)
            aligner = backends.align_config(recipe, artifacts).metadata()
        except (ValueError, OSError, KeyError, ImportError):
            return None
        found = all(exists(artifact.path) for artifact in artifacts.values())  # a listing may name other paths
        return {
            "aligner": dict(aligner),
            **({"artifacts": artifacts_json(artifacts, self._root)} if found else {}),
            "fingerprint": self._fingerprint(),
            "format": FORMAT,
            "name": recipe.name,
            "plan": self._plan.fingerprint,
            "streams": {name: contract.to_json() for name, contract in contracts.items()},
        }

    def _check_description(self, complete: bool) -> None:
        self.files += 1
        info, data = self._info, found_by(read_bytes, join(self._root, DATASET))
        if info is None:
            told = "not finished, or damaged" if data is not None else "it is not there"
            self._add(DATASET, Problem.MISSING, told)
            return
        if self._plan is not None and not is_canonical(data, info):
            self._add(DATASET, Problem.UNREADABLE, "it is not written as a build writes it")
        wanted: dict[str, Any] = {"format": FORMAT, "splits": self.num_splits, **(self._told or {})}
        wanted["fingerprint"] = self._fingerprint()
        if complete:
            wanted |= {name: sum(row[name] for row in self._rows.values()) for name in SUMMED}
            wanted["reasons"] = dict(self._reasons)
        for name, value in wanted.items():
            if canonical_json(info.get(name)) != canonical_json(value):
                self._add(DATASET, Problem.TOTALS, f"{name} is not what recipe, artifacts and commit records give")
        try:
            DatasetDescription.model_validate_json(data or b"")
        except ValidationError as error:
            self._add(DATASET, Problem.UNREADABLE, what_is_wrong(error))

    def _check_table(self) -> None:
        self.files += 1
        data = found_by(read_bytes, join(self._root, TABLE))
        if data is None:
            self._add(TABLE, Problem.MISSING, "the reader needs it")
            return
        said = (self._info or {}).get("shards")
        sha256 = said.get("sha256") if isinstance(said, dict) else None
        if self._info is not None and not isinstance(sha256, str):
            self._add(DATASET, Problem.UNREADABLE, f"it has no sha256 of {TABLE}")
        elif self._info is not None and sha256_of(join(self._root, TABLE)) != sha256:
            self._add(TABLE, Problem.HASH, "its sha256 is not that in dataset.json")
            return
        elif isinstance(said, dict) and said.get("bytes") != len(data):
            self._add(DATASET, Problem.TOTALS, f"it does not give the size of {TABLE}")
        try:
            rows = pq.read_table(io.BytesIO(data), schema=SHARDS).to_pylist()
        except (pa.ArrowException, OSError):
            self._add(TABLE, Problem.UNREADABLE, "not the table of shards")
            return
        for split, row in enumerate(rows):
            if split in self._rows and row != self._rows[split]:
                self._add(TABLE, Problem.TOTALS, f"row {split} is not what the commit record says")
        sums = {name: sum(row[name] for row in rows) for name in SUMMED}
        if (
            self._info is not None
            and len(self._rows) < self.num_splits
            and any(self._info.get(name) != value for name, value in sums.items())
        ):
            self._add(DATASET, Problem.TOTALS, "its totals are not those of shards.parquet")
        if len(rows) != self.num_splits:
            self._add(TABLE, Problem.TOTALS, f"{len(rows)} rows for {self.num_splits} splits")

    def _check_energon(self) -> None:
        """Compare with what is written now; the class that Energon loads may be told as another version told it."""
        with tempfile.TemporaryDirectory() as folder:
            write_energon_files(folder, self._rows)
            wanted = {path.name: path.read_bytes() for path in Path(folder, FOLDER).iterdir()}
        for name, data in sorted(wanted.items()):
            path = f"{FOLDER}/{name}"
            found = found_by(read_bytes, join(self._root, path))
            self.files += 1
            if found is None:
                if self._plan is not None:
                    self._add(path, Problem.MISSING, "Megatron-Energon reads it")
            elif found != data and not (name == "dataset.yaml" and _is_energon_class(found)):
                self._add(path, Problem.TOTALS, "not what the commit records give")

    def _check_artifacts(self) -> None:
        entries = (self._info or {}).get("artifacts", {})
        if not isinstance(entries, dict):
            self._add(DATASET, Problem.UNREADABLE, "its artifacts are no object")
            return
        for name, entry in sorted(entries.items()):
            if not is_entry(entry):
                self._add(DATASET, Problem.UNREADABLE, f"artifact {name!r} has no path or no sha256")
                continue
            path, sha256 = entry["path"], entry["sha256"]
            if not path.startswith("artifacts/"):
                continue  # a model, which stays outside the dataset
            if not is_inside(path):
                self._add(DATASET, Problem.UNREADABLE, f"artifact {name!r} lies outside the dataset")
                continue
            self.files += 1
            artifact = Artifact(path=join(self._root, path), sha256=sha256)
            if not is_sound(artifact):
                problem = Problem.HASH if exists(artifact.path) else Problem.MISSING
                self._add(path, problem, "its sha256 is not that in dataset.json")

    def _check_listing(self, fitted: str | None) -> None:
        data, loaded = found_by(read_bytes, join(self._root, LISTING)), found_by(load_artifacts, self._root)
        if self._plan is None and data is None:
            return
        self.files += 1
        if data is None or loaded is None:
            missing = (Problem.MISSING, "`fit` reads it, and would train again")
            self._add(LISTING, *(missing if data is None else (Problem.UNREADABLE, "not the list that `fit` writes")))
            return
        found = artifacts_json(loaded[1], self._root)
        said = (self._info or {}).get("artifacts")
        readable = isinstance(said, dict) and bool(said) and all(map(is_entry, said.values()))
        if readable and found != kept_entries(self._info):
            self._add(LISTING, Problem.TOTALS, "not the artifacts of dataset.json")
        elif not is_canonical(data, {"artifacts": found, "fingerprint": loaded[0], "format": ARTIFACTS}):
            self._add(LISTING, Problem.UNREADABLE, "it is not written as `fit` writes it")
        elif fitted is not None and loaded[0] != fitted:
            self._add(LISTING, Problem.TOTALS, "its fingerprint is not that of plan and recipe")

    def _made_with_the_other(self) -> bool:
        """Whether the recipe in `dataset.json` is what artifacts and commit records were made with, as far as it shows.

        Then `recipe.yaml` was changed, if they differ: the name stands in `dataset.json` twice.
        """
        info, loaded = self._info or {}, found_by(load_artifacts, self._root)
        try:
            said = Recipe.model_validate(info.get("recipe"))
            told = self._told_by(said)
        except ValueError:
            return False
        return (
            told is not None
            and loaded is not None
            and said.name == info.get("name")
            and self._fitted(said) == loaded[0]
        )

    def _fitted(self, recipe: Recipe | None) -> str | None:
        """Return the fingerprint of a fit of plan and recipe; None where another version may have computed it."""
        if recipe is None or self._plan is None or (self._info or {}).get("code_version", CODE_VERSION) != CODE_VERSION:
            return None
        given = pinned(recipe)
        return None if given is None else fit_fingerprint(self._plan, recipe, given)

    def _check_removed(self) -> None:
        data = found_by(read_bytes, join(self._root, LIST))
        lost = sum(filter(None, self._lost))
        if None in self._lost and None not in self._listed:
            reasons = (self._info or {}).get("reasons")
            said = reasons.get(Reason.REMOVED.value) if isinstance(reasons, dict) else None
            lost = max(lost, said - sum(filter(None, self._listed)) if isinstance(said, int) else 0)
        if not data:
            lost = max(lost, self._reasons.get(Reason.REMOVED.value, 0))
        if lost:
            told = f"{lost} rows were removed and are not on it, so a rebuild would bring them back"
            self._add(LIST, Problem.MISSING, told)
        if data is not None and self._removed and data != self._removed.to_bytes():
            self._add(LIST, Problem.UNREADABLE, "it is not written as `interloom remove` writes it")
        if found_by(unfinished, self._root):
            self._add(JOURNAL, Problem.REMOVED, "a removal was begun and not ended; run `interloom remove` again")


def is_sound(artifact: Artifact) -> bool:
    """Tell whether an artifact is what it was; it may be a folder."""
    if sha256_of(artifact.path) == artifact.sha256:
        return True
    try:
        return found_by(lambda _: verified_path(artifact), artifact.path) is not None
    except BadCheckpoint:
        return False


def _is_energon_class(data: bytes) -> bool:
    try:
        value: Any = yaml.safe_load(data)
    except yaml.YAMLError:
        return False
    if not isinstance(value, Mapping) or yaml.safe_dump(dict(value)).encode() != data:
        return False
    known = {"__class__": "CrudeWebdataset", "__module__": "megatron.energon"}
    return value in (known, {**known, "part_filter": list(PARTS)})
