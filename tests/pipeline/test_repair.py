"""Repair redoes what is damaged, to the same bytes, or says what is missing and touches nothing."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from pipeline.build import PlanError, RunSettings, make_plan, run_build, run_fit
from pipeline.commit import commit_path
from pipeline.drive import EngineSettings, RunFailed
from pipeline.findings import Problem
from pipeline.fit import FitError
from pipeline.models import resolved
from pipeline.recipes import recipe_yaml
from pipeline.remove import remove
from pipeline.removed import BadRemovedList, Removed, digest, write_removed
from pipeline.repair import Repaired, Sources, repair
from pipeline.repair_checks import RepairFailed
from pipeline.storage import publish_bytes, publish_json, read_json
from pipeline.verify import Verified, examine
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


def lines_of(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


LIST_DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda data: None,
    "empty": lambda data: b"",
    "one lost": lambda data: lines_of(data)[1],
    "torn": lambda data: data[:-9],
    "another digit": lambda data: (
        data[:-20] + b"0" + data[-19:] if data[-20:-19] != b"0" else data[:-20] + b"1" + data[-19:]
    ),
    "order": lambda data: b"".join(reversed(lines_of(data))),
    "more": lambda data: data + b'{"kind":"id","reason":"","sha256":"' + b"0" * 64 + b'"}\n',
}


@pytest.mark.parametrize("damage", LIST_DAMAGE)
@pytest.mark.parametrize("also", ["", "shards.parquet", "dataset.json"])
def test_the_list_of_removals_comes_back_from_the_rejects(dataset: Path, damage: str, also: str) -> None:
    remove(str(dataset), quiet, ids=[utterance_id(1, 0), utterance_id(3, 3), utterance_id(0, 1)], reason="restored")
    whole = tree(str(dataset))
    path = dataset / "removed.jsonl"
    data = LIST_DAMAGE[damage](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    if also:
        flip(dataset / also)
    done = mend(dataset)
    assert done.splits == ()
    assert tree(str(dataset)) == whole
    assert [finding for finding in examine(str(dataset)).findings] == []


def test_rows_that_went_with_a_recording_come_back_on_the_list_by_their_ids(dataset: Path) -> None:
    remove(str(dataset), quiet, recordings=["rec1"])
    whole = tree(str(dataset))
    (dataset / "removed.jsonl").unlink()
    mend(dataset)
    assert {name for name, data in tree(str(dataset)).items() if whole[name] != data} == {"removed.jsonl"}
    assert examine(str(dataset)).findings == ()


@pytest.mark.parametrize("also", ["shards/rejects-000001.jsonl", "shards/shard-000001.commit.json"])
def test_where_nothing_tells_what_was_removed_nobody_comes_back(dataset: Path, also: str) -> None:
    remove(str(dataset), quiet, ids=[utterance_id(1, 0), utterance_id(3, 0)])
    (dataset / "removed.jsonl").unlink()
    (dataset / "shards" / "rejects-000001.jsonl").unlink()
    (dataset / also).unlink(missing_ok=True)
    shards = {name: data for name, data in tree(str(dataset)).items() if name.startswith("shards/")}
    with pytest.raises(RepairFailed, match=r"removed\.jsonl.*copy"):
        mend(dataset)
    assert {name: data for name, data in tree(str(dataset)).items() if name.startswith("shards/")} == shards


def test_a_list_of_nothing_goes(dataset: Path, made: Path) -> None:
    (dataset / "removed.jsonl").write_text("{")
    mend(dataset)
    assert tree(str(dataset)) == tree(str(made))


@pytest.mark.parametrize("damage", ["format", "gone"])
def test_the_listing_of_sound_artifacts_needs_no_fit(dataset: Path, damage: str) -> None:
    remove(str(dataset), quiet, ids=[utterance_id(1, 0)])
    whole = tree(str(dataset))
    path = dataset / "artifacts" / "artifacts.json"
    path.write_bytes(path.read_bytes().replace(b"artifacts/1", b"artifacts/0"))
    if damage == "gone":
        path.unlink()
    mend(dataset)
    assert tree(str(dataset)) == whole


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


@pytest.mark.parametrize("described", [True, False])
def test_other_rows_change_nothing_in_a_plan_of_several_files(tmp_path: Path, described: bool) -> None:
    rows = [{"audio_filepath": f"{i}.wav", "text": "t", "id": f"u{i}", "duration": 4} for i in range(300)]
    manifest, root = tmp_path / "m.jsonl", tmp_path / "dataset"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = RECIPE.model_copy(update={"plan": RECIPE.plan.model_copy(update={"hours_per_shard": 0.001})})
    plan = make_plan(str(manifest), recipe, str(root))
    assert len(plan.inputs) == 300
    if described:
        publish_json({"plan": plan.fingerprint}, f"{root}/dataset.json")
    (root / "recipe.yaml").write_text("{")
    before = tree(str(root))
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] != "u5"))
    with pytest.raises(RepairFailed, match="other rows"):
        mend(root, manifest=str(manifest), recipe=recipe)
    assert tree(str(root)) == before


@pytest.mark.parametrize("damage", ["gone", "totals"])
@pytest.mark.parametrize("name", ["plan/splits.parquet", "recipe.yaml"])
def test_without_a_sound_description_the_commit_records_know_the_rows(
    dataset: Path, tmp_path: Path, name: str, damage: str
) -> None:
    flip(dataset / name, 0)
    info = read_json(f"{dataset}/dataset.json")
    publish_json({**info, "records": 0}, f"{dataset}/dataset.json")
    if damage == "gone":
        (dataset / "dataset.json").unlink()
    before = tree(str(dataset))
    manifest = tmp_path / "m.jsonl"
    manifest.write_text('{"audio_filepath": "a.wav", "text": "t", "duration": 1}\n')
    with pytest.raises(
        RepairFailed, match="other rows" if name == "recipe.yaml" else "with the manifest and the recipe"
    ):
        mend(dataset, manifest=str(manifest), recipe=RECIPE)
    assert tree(str(dataset)) == before
    assert not (dataset / "work" / "damaged").exists()


def test_what_the_transcriber_did_is_told_after_its_folder_was_deleted(dataset: Path) -> None:
    recipe = Recipe.model_validate({**RECIPE.model_dump(), "transcribe": {"checkpoint": "model"}})
    publish_bytes(recipe_yaml(resolved(recipe)).encode(), f"{dataset}/recipe.yaml")
    publish_json({"rejects": 2}, f"{dataset}/transcripts/transcribe.json")
    build = partial(run_build, recipe, artifacts_of(str(dataset)), settings_for(dataset), quiet)
    assert build()["transcription"] == {"rejects": 2}
    shutil.rmtree(dataset / "transcripts")
    whole = tree(str(dataset))
    build()
    assert tree(str(dataset)) == whole
    flip(dataset / "shards.parquet")
    mend(dataset)
    assert tree(str(dataset)) == whole
    publish_json({**read_json(f"{dataset}/dataset.json"), "plan": "of other rows"}, f"{dataset}/dataset.json")
    assert "transcription" not in build()


def test_a_damaged_artifact_that_cannot_be_fitted_again_is_put_back(dataset: Path) -> None:
    flip(dataset / "artifacts" / "units.npy")
    before = tree(str(dataset))
    with pytest.raises((RepairFailed, FitError, RunFailed)):
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
    "the format of the list of artifacts": lambda root: flip(root / "artifacts" / "artifacts.json", -4),
    "the fingerprint of the fit": lambda root: flip(root / "artifacts" / "artifacts.json", -45),
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
@pytest.mark.parametrize("described", [True, False])
@pytest.mark.parametrize("name", ["plan/plan.json", "plan/splits.parquet", "recipe.yaml"])
def test_the_plan_comes_back_from_the_manifest(real: Real, copy: Path, name: str, described: bool) -> None:
    if described:
        (copy / name).unlink()
    elif name != "plan/plan.json":  # without both, there is no dataset
        flip(copy / name, 0)
        (copy / "dataset.json").unlink()
    mend(copy, manifest=str(real.manifest), recipe=real.recipe)
    assert tree(str(copy)) == tree(str(real.root))


@pytest.mark.slow
def test_another_recipe_is_refused_and_the_plan_kept(real: Real, copy: Path) -> None:
    flip(copy / "recipe.yaml", 0)
    before = tree(str(copy))
    other = Recipe.model_validate({**real.recipe.model_dump(), "units": {"clusters": 21}})
    with pytest.raises(RepairFailed, match="another recipe"):
        mend(copy, manifest=str(real.manifest), recipe=other)
    assert tree(str(copy)) == before


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


def plan_of(folder: Path) -> tuple[Path, Path]:
    """Return a manifest of audio beside it and a planned, finished-looking folder."""
    folder.mkdir()
    manifest, root = folder / "m.jsonl", folder / "dataset"
    rows = [{"audio_filepath": f"{i}.wav", "text": "t", "id": f"u{i}", "duration": 4} for i in range(3)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (folder / str(row["audio_filepath"])).touch()
    plan = make_plan(str(manifest), RECIPE, str(root))
    publish_json({"plan": plan.fingerprint, "recipe": RECIPE.model_dump(mode="json")}, f"{root}/dataset.json")
    return manifest, root


def test_a_sound_base_is_kept_whatever_folder_the_manifest_comes_from(tmp_path: Path) -> None:
    manifest, root = plan_of(tmp_path / "there")
    whole = tree(str(root))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(manifest, tmp_path / "elsewhere")
    flip(root / "plan" / "splits.parquet", 0)
    with pytest.raises((RepairFailed, FitError)):  # there is no more than a plan
        mend(root, manifest=str(tmp_path / "elsewhere" / "m.jsonl"))
    assert tree(str(root)) == whole


def test_a_lost_base_is_taken_only_where_the_audio_is(tmp_path: Path) -> None:
    manifest, root = plan_of(tmp_path / "there")
    whole = tree(str(root))
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(manifest, tmp_path / "elsewhere")
    (root / "plan" / "plan.json").write_text("{")
    before = tree(str(root))
    with pytest.raises(RepairFailed, match=r"elsewhere/0\.wav.*--audio-root"):
        mend(root, manifest=str(tmp_path / "elsewhere" / "m.jsonl"))
    assert tree(str(root)) == before
    with pytest.raises((RepairFailed, FitError)):
        mend(root, manifest=str(tmp_path / "elsewhere" / "m.jsonl"), audio_root=str(tmp_path / "there"))
    assert tree(str(root)) == whole


def test_a_wrong_base_is_corrected_where_the_audio_is(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "audio").mkdir()
    for number in range(SPLITS):
        (tmp_path / "audio" / f"{number}.wav").touch()
    before = tree(str(dataset))
    with pytest.raises(RepairFailed, match=rf"{tmp_path}/empty/0\.wav.*plan\.json.* says /nowhere"):
        mend(dataset, audio_root=str(tmp_path / "empty"))
    assert tree(str(dataset)) == before
    told = mend(dataset, audio_root=str(tmp_path / "audio")).base
    assert told == f"relative audio paths start from {tmp_path}/audio now, not from /nowhere"
    assert read_json(f"{dataset}/plan/plan.json")["base"] == str(tmp_path / "audio")
    assert examine(str(dataset)).findings == ()
    (tmp_path / "m.jsonl").touch()
    assert "as plan.json says; --audio-root" in mend(dataset, manifest=str(tmp_path / "m.jsonl")).base


def test_a_damaged_file_is_repaired_though_a_listed_row_is_still_in_another(
    dataset: Path, made: Path, tmp_path: Path
) -> None:
    write_removed(str(dataset), Removed.of(ids={digest(utterance_id(1, 0)): ""}))
    (dataset / "shards.parquet").unlink()
    with pytest.raises(RepairFailed, match=r"is repaired, but shards/shard-000001\.tar still .*interloom remove"):
        mend(dataset)
    assert tree(str(dataset)).keys() - {"removed.jsonl"} == tree(str(made)).keys()
    remove(str(dataset), quiet, ids=[utterance_id(1, 0)])
    assert examine(str(dataset)).findings == ()


@pytest.mark.parametrize("name", [".nv-meta/split.yaml", "dataset.json", "shards.parquet", "removed.jsonl"])
@pytest.mark.parametrize("what", ["folder", "loop"])
def test_what_lies_in_the_place_of_a_file_is_set_aside(dataset: Path, made: Path, name: str, what: str) -> None:
    path = dataset / name
    path.unlink(missing_ok=True)
    path.mkdir() if what == "folder" else path.symlink_to(path.name)
    assert name in {finding.path for finding in examine(str(dataset)).findings}
    assert mend(dataset).aside == (name,)
    assert tree(str(dataset)) == tree(str(made))
    assert examine(str(dataset)).findings == ()


def test_a_list_that_is_damaged_amid_a_removal_is_mended_first(dataset: Path, made: Path) -> None:
    ids = [utterance_id(1, 0), utterance_id(2, 0)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.remove.write_without", stopped)
        with pytest.raises(KeyboardInterrupt):
            remove(str(dataset), quiet, ids=ids)
    listed = dataset / "removed.jsonl"
    listed.write_bytes(listed.read_bytes() + b"{")
    with pytest.raises(BadRemovedList, match="interloom repair"):
        remove(str(dataset), quiet, ids=ids)
    with pytest.raises(RepairFailed, match=r"interloom remove.* same ids"):
        mend(dataset)
    remove(str(dataset), quiet, ids=ids)
    assert examine(str(dataset)).findings == ()


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_build_brings_nobody_back_whose_removal_was_lost(dataset: Path) -> None:
    remove(str(dataset), quiet, ids=[utterance_id(1, 0)])
    build = partial(run_build, RECIPE, artifacts_of(str(dataset)), settings_for(dataset), quiet)
    build()
    assert examine(str(dataset)).findings == ()
    whole = tree(str(dataset))
    (dataset / "removed.jsonl").unlink()
    with pytest.raises(PlanError, match=r"removed\.jsonl lacks rows that were removed; run .interloom repair"):
        build()
    mend(dataset)
    build()
    assert {**tree(str(dataset)), "removed.jsonl": b""} == {**whole, "removed.jsonl": b""}


@pytest.mark.slow
def test_a_build_withdraws_shards_that_hold_rows_of_the_list(dataset: Path) -> None:
    write_removed(str(dataset), Removed.of(ids={digest(utterance_id(1, 0)): ""}))
    (dataset / "dataset.json").unlink()
    with pytest.raises(RunFailed, match=r"1 splits have no valid commit record \(1\)"):
        run_build(RECIPE, artifacts_of(str(dataset)), settings_for(dataset), quiet)


def test_what_another_run_makes_while_a_repair_looks_is_left_alone(
    dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, shard = tree(str(dataset)), dataset / "shards" / "shard-000001.tar"
    sound = shard.read_bytes()
    shard.unlink()

    def looked(root: str, **how: Any) -> Verified:
        found = examine(root, **how)
        shard.write_bytes(sound)
        return found

    monkeypatch.setattr("pipeline.repair.examine", looked)
    assert mend(dataset).aside == ()
    assert tree(str(dataset)) == whole
