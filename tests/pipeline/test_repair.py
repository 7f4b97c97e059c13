"""Repair redoes what is damaged, to the same bytes, or says what is missing and touches nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from uuid import uuid4

import fsspec
import pytest

from pipeline.build import RunSettings, make_plan, run_build, run_fit
from pipeline.commit import commit_path
from pipeline.drive import EngineSettings
from pipeline.findings import Problem
from pipeline.remove import remove
from pipeline.removed import Removed, digest, write_removed
from pipeline.repair import Repaired, RepairFailed, Sources, repair
from pipeline.storage import publish_bytes, publish_json, read_json
from pipeline.verify import examine
from schemas.recipe import Recipe
from tests.takedown_builders import RECIPE, SPLITS, artifacts_of, build_dataset, tree, utterance_id

CORPUS = Path(__file__).resolve().parents[2] / "examples" / "corpus"


def quiet(*_: object) -> None:
    """No progress is shown."""


def settings_for(root: Path) -> RunSettings:
    return RunSettings(out=str(root), engine=EngineSettings(workers=1))


def mend(root: Path, **sources: object) -> Repaired:
    return repair(settings_for(root), quiet, Sources(**sources))  # type: ignore[arg-type]


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset whose sources never were."""
    root = tmp_path_factory.mktemp("made") / "dataset"
    build_dataset(str(root))
    run_build(RECIPE, artifacts_of(str(root)), settings_for(root), quiet)
    return root


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(made, tmp_path / "dataset")
    return tmp_path / "dataset"


def test_nothing_wrong_is_nothing_to_repair(dataset: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert mend(dataset) == Repaired(before=(), splits=(), aside=())
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == times


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("name", ["dataset.json", "shards.parquet", ".nv-meta/.info.json", ".nv-meta/split.yaml"])
def test_side_files_are_written_from_the_commit_records(dataset: Path, made: Path, name: str, gone: bool) -> None:
    flip(dataset / name)
    if gone:
        (dataset / name).unlink()
    assert mend(dataset).splits == ()
    assert tree(str(dataset)) == tree(str(made))


def test_strays_are_set_aside(dataset: Path, made: Path) -> None:
    (dataset / "shards" / "foo").write_text("x")
    for path in (dataset / "shards").glob("*000001*"):
        shutil.copy(path, path.parent / path.name.replace("000001", "000009"))
    done = mend(dataset)
    assert (done.splits, len(done.aside)) == ((), 6)
    assert tree(str(dataset)) == tree(str(made))
    assert (dataset / "work" / "damaged" / "shards" / "foo").read_text() == "x"


def test_a_dataset_on_an_object_store() -> None:
    root = f"memory://repair-{uuid4().hex}"
    build_dataset(root)
    settings = RunSettings(out=root, engine=EngineSettings(workers=1))
    run_build(RECIPE, artifacts_of(root), settings, quiet)
    whole = tree(root)
    publish_bytes(b"x", f"{root}/shards/foo")
    publish_bytes(b"x", f"{root}/shards.parquet")
    assert repair(settings, quiet).aside == ("shards/foo",)
    assert tree(root) == whole
    publish_bytes(b"x", f"{root}/shards/shard-000001.tar")
    damaged = tree(root)
    with pytest.raises(RepairFailed, match="are gone"):
        repair(settings, quiet)
    assert tree(root) == damaged
    fsspec.core.url_to_fs(root)[0].rm(root.removeprefix("memory:/"), recursive=True)


@pytest.mark.parametrize("damage", ["flip", "gone", "record"])
def test_where_the_sources_are_gone_it_says_so_and_touches_nothing(dataset: Path, damage: str) -> None:
    if damage == "record":
        Path(commit_path(str(dataset), 2)).unlink()
    elif damage == "gone":
        (dataset / "shards" / "shard-000002.tar").unlink()
    else:
        flip(dataset / "shards" / "shard-000002.tar")
    before = tree(str(dataset))
    with pytest.raises(RepairFailed, match=r"split 2 .*/nowhere/2\.wav"):
        mend(dataset)
    assert tree(str(dataset)) == before
    assert not (dataset / "work" / "damaged").exists()


def test_another_version_of_the_software_is_refused(dataset: Path) -> None:
    for split in range(SPLITS):
        record = read_json(commit_path(str(dataset), split))
        publish_json({**record, "plan": "0" * 16}, commit_path(str(dataset), split))
    before = tree(str(dataset))
    with pytest.raises(RepairFailed, match="with the version that built it"):
        mend(dataset)
    assert tree(str(dataset)) == before


def test_an_unfinished_removal_and_a_damaged_list_come_first(dataset: Path) -> None:
    write_removed(str(dataset), Removed.of(ids={digest(utterance_id(1, 0)): ""}))
    with pytest.raises(RepairFailed, match="interloom remove"):
        mend(dataset)
    (dataset / "removed.jsonl").write_text("{")
    with pytest.raises(RepairFailed, match=r"removed\.jsonl.*copy"):
        mend(dataset)


@pytest.mark.parametrize("name", ["plan/plan.json", "plan/splits.parquet", "recipe.yaml"])
def test_a_damaged_plan_asks_for_its_manifest(dataset: Path, name: str) -> None:
    flip(dataset / name, 0)
    before = tree(str(dataset))
    with pytest.raises(RepairFailed, match=f"{name}.*--manifest"):
        mend(dataset)
    assert tree(str(dataset)) == before


def test_a_manifest_of_other_rows_is_refused_and_the_plan_put_back(dataset: Path, tmp_path: Path) -> None:
    flip(dataset / "plan" / "splits.parquet", 0)
    before = tree(str(dataset))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "text": "t", "duration": 1}\n')
    with pytest.raises(RepairFailed, match="other rows"):
        mend(dataset, manifest=str(manifest))
    assert tree(str(dataset)) == before


def test_a_damaged_artifact_that_cannot_be_fitted_again_is_put_back(dataset: Path) -> None:
    from pipeline.fit import FitError

    flip(dataset / "artifacts" / "units.npy")
    before = tree(str(dataset))
    with pytest.raises((RepairFailed, FitError)):
        mend(dataset)
    assert tree(str(dataset)) == before


@dataclass(frozen=True)
class Real:
    """A dataset built from speech, and what it was built from."""

    root: Path
    manifest: Path
    recipe: Recipe


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Real:
    """Twelve utterances in two splits, without F0."""
    folder = tmp_path_factory.mktemp("real")
    with open(CORPUS / "manifest.jsonl") as file:
        rows = [json.loads(line) for line in islice(file, 12)]
    for name in {row["audio_filepath"] for row in rows}:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(CORPUS / name, folder / name)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe.model_validate(
        {
            "name": "real", "pitch": None, "style": None, "units": {"clusters": 20}, "store": {"f0": False},
            "sequence": {"stream": "base"}, "text": {"vocab_size": 320}, "plan": {"hours_per_shard": 0.005},
        }
    )  # fmt: skip
    root = folder / "dataset"
    make_plan(str(manifest), recipe, str(root))
    run_build(recipe, run_fit(recipe, settings_for(root), quiet), settings_for(root), quiet)
    assert examine(str(root)).findings == ()
    return Real(root, manifest, recipe)


@pytest.fixture
def copy(real: Real, tmp_path: Path) -> Path:
    """A copy that may be damaged; its sources are where they were."""
    shutil.copytree(real.root, tmp_path / "dataset")
    return tmp_path / "dataset"


def forge(root: Path) -> None:
    record = read_json(commit_path(str(root), 1))
    publish_json({**record, "records": record["records"] + 1}, commit_path(str(root), 1))


def truncate(root: Path) -> None:
    path = root / "shards" / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:4096])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda root: flip(root / "shards" / "shard-000001.tar", 5000),
    "a missing file": lambda root: (root / "shards" / "rejects-000000.jsonl").unlink(),
    "a truncated tar": truncate,
    "a forged record": forge,
    "an artifact": lambda root: flip(root / "artifacts" / "units.npy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", DAMAGE)
def test_repair_restores_identical_bytes(real: Real, copy: Path, kind: str) -> None:
    DAMAGE[kind](copy)
    bad = {finding.split for finding in examine(str(copy)).findings}
    done = mend(copy)
    assert set(done.splits) == bad - {None}
    assert tree(str(copy)) == tree(str(real.root))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plan/plan.json", "plan/splits.parquet", "recipe.yaml"])
def test_the_plan_comes_back_from_the_manifest(real: Real, copy: Path, name: str) -> None:
    (copy / name).unlink()
    mend(copy, manifest=str(real.manifest), recipe=real.recipe)
    assert {name: data for name, data in tree(str(copy)).items()} == tree(str(real.root))


@pytest.mark.slow
def test_a_split_that_is_repaired_after_a_removal_keeps_the_ids_out(copy: Path) -> None:
    remove(str(copy), quiet, ids=["story01-002"])
    run_build(Recipe.model_validate(read_json(f"{copy}/dataset.json")["recipe"]), artifacts_of(str(copy)),
              settings_for(copy), quiet)  # fmt: skip
    before = tree(str(copy))
    flip(copy / "shards" / "shard-000000.tar")
    assert mend(copy).splits == (0,)
    assert tree(str(copy)) == before
    assert examine(str(copy)).findings == ()
    flip(copy / "artifacts" / "units.npy")
    with pytest.raises(RepairFailed, match=r"restore artifacts/units\.npy from a copy"):
        mend(copy)


@pytest.mark.slow
def test_sources_that_changed_are_told(real: Real, copy: Path, tmp_path: Path) -> None:
    import soundfile

    moved = tmp_path / "moved"
    shutil.copytree(real.manifest.parent / "audio", moved / "audio")
    plan = read_json(f"{copy}/plan/plan.json")
    publish_json({**plan, "base": str(moved)}, f"{copy}/plan/plan.json")
    for path in (moved / "audio").iterdir():
        pcm, rate = soundfile.read(path)
        soundfile.write(path, pcm * 0.5, rate)
    flip(copy / "shards" / "shard-000001.tar", 5000)
    with pytest.raises(RepairFailed, match="split 1 was built again to other bytes"):
        mend(copy)
    assert (copy / "work" / "damaged" / "shards" / "shard-000001.tar").exists()
    assert not {f.problem for f in examine(str(copy)).findings} - {Problem.TOTALS}
