"""A repair that is killed and run again: what it promised holds, and what it set aside is not lost."""

import json
import zlib
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import pytest

from pipeline.build import RunSettings, make_plan
from pipeline.commit import commit_path
from pipeline.drive import EngineSettings
from pipeline.fit import FitError
from pipeline.remove import remove
from pipeline.repair import Repaired, Sources, repair
from pipeline.repair_checks import RepairFailed
from pipeline.storage import join, list_names, publish_bytes, publish_json, read_bytes, read_json
from pipeline.verify import examine
from schemas.recipe import Recipe
from schemas.records import Artifact
from schemas.rejects import Reason, Reject
from tests import takedown_builders
from tests.takedown_builders import (
    RECIPE,
    SPLITS,
    Killed,
    Mortal,
    artifacts_of,
    build_dataset,
    build_split,
    finish_dataset,
    tree,
    utterance_id,
)

ASIDE = "work/damaged"
TAR, INDEX = "shards/shard-000002.tar", "shards/shard-000002.tar.idx"
UNITS, TOKENIZER, LISTING = "artifacts/units.npy", "artifacts/tokenizer.model", "artifacts/artifacts.json"


class MortalCopies(Mortal):
    """A store on which the process may also die at a copy."""

    protocol = "mortal-copies"
    store: ClassVar[dict[str, Any]] = {}

    def cp_file(self, path1: str, path2: str, **options: Any) -> Any:
        return self._change(lambda: super(MortalCopies, self).cp_file(path1, path2, **options))


fsspec.register_implementation("mortal-copies", MortalCopies, clobber=True)


def mend(root: str, **sources: Any) -> Repaired:
    return repair(RunSettings(out=root, engine=EngineSettings(workers=1)), lambda *_: None, Sources(**sources))


def dies(root: str, changes: int, **sources: Any) -> bool:
    """Repair on a store that allows so many changes; tell whether the process died of it."""
    MortalCopies.live(changes)
    try:
        mend(root, **sources)
    except Killed:
        return True
    except (RepairFailed, FitError):
        return False
    finally:
        MortalCopies.live(float("inf"))
    return False


def build_rest(root: str) -> None:
    """What a build does, with made-up stages."""
    for split in range(SPLITS):
        if read_json(commit_path(root, split)) is None:
            build_split(root, split)
    finish_dataset(root)


def killed(*_: object, **__: object) -> None:
    raise Killed


@pytest.fixture(autouse=True)
def _builder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pipeline.repair.run_build",
        lambda recipe, artifacts, settings, progress, *, repairing: build_rest(settings.out),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a sound dataset; of its sources only the names are looked at."""
    folder = tmp_path_factory.mktemp("sources")
    for recording in range(SPLITS):
        (folder / f"{recording}.wav").touch()
    build_dataset(f"{folder}/dataset", str(folder))
    return tree(f"{folder}/dataset")


@pytest.fixture
def fresh(whole: dict[str, bytes]) -> Iterator[Callable[[dict[str, bytes | None]], str]]:
    """Make datasets with other bytes in some files, None for a missing one; an earlier repair has left things."""
    made = []

    def make(damage: dict[str, bytes | None]) -> str:
        made.append(f"mortal-copies://{uuid4().hex}")
        for name, data in {**whole, **damage}.items():
            if data is not None:
                publish_bytes(data, join(made[-1], name))
            publish_bytes(b"of an earlier repair", join(made[-1], ASIDE, name))
        return made[-1]

    yield make
    MortalCopies.store.clear()


def change_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takedown_builders, "zlib", SimpleNamespace(crc32=lambda data: zlib.crc32(data) ^ 1))


def test_a_split_comes_out_as_before_wherever_the_repair_is_killed(
    whole: dict[str, bytes], fresh: Callable[[dict[str, bytes | None]], str]
) -> None:
    for changes in count():
        root = fresh({INDEX: b"x", "shards/foo": b"x"})
        died = dies(root, changes)
        mend(root)
        assert tree(root) == whole
        assert list_names(join(root, ASIDE)).keys() == {name for name in whole if "/" not in name}
        if not died:
            break
    assert changes > 20


@pytest.mark.slow
def test_other_bytes_are_told_wherever_the_repair_is_killed_and_however_often_it_runs(
    whole: dict[str, bytes], fresh: Callable[[dict[str, bytes | None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_sources(monkeypatch)
    split = [name for name in whole if "-000002." in name]
    for changes in count():
        root = fresh({INDEX: b"x"})
        died = dies(root, changes)
        for _ in range(2):
            with pytest.raises(RepairFailed, match="split 2 was built again to other bytes"):
                mend(root)
            assert {name: read_bytes(join(root, ASIDE, name)) for name in split} == {
                name: b"x" if name == INDEX else whole[name] for name in split
            }
            publish_bytes(b"damaged again", join(root, INDEX))
        if not died:
            break
    for name in split:  # restored from a copy
        publish_bytes(whole[name], join(root, name))
    mend(root)
    assert tree(root) == whole
    assert mend(root) == Repaired(before=(), splits=(), aside=())
    assert changes > 15


def test_a_build_in_between_does_not_hide_other_bytes(
    fresh: Callable[[dict[str, bytes | None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_sources(monkeypatch)
    root = fresh({INDEX: b"x"})
    assert dies(root, 12)
    build_rest(root)
    assert not examine(root).findings
    with pytest.raises(RepairFailed, match="split 2 was built again to other bytes"):
        mend(root)


@pytest.mark.parametrize("ended", [False, True])
def test_what_an_earlier_repair_promised_of_a_split_is_void_after_a_removal(
    fresh: Callable[[dict[str, bytes | None]], str], ended: bool
) -> None:
    root = fresh({INDEX: b"x"})
    if ended:
        mend(root)
    else:
        assert dies(root, 12)
        build_rest(root)
    remove(root, lambda *_: None, ids=[utterance_id(2, 0)])
    without = tree(root)
    publish_bytes(b"x", join(root, INDEX))
    mend(root)
    assert tree(root) == without
    assert mend(root) == Repaired(before=(), splits=(), aside=())


def test_audio_that_was_missing_before_is_not_missed_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(row: Any) -> Any:
        return row if isinstance(row, Reject) else Reject.of(row, "decode", Reason.MISSING_AUDIO, row.audio)

    monkeypatch.setattr(takedown_builders, "outcome", missing)
    root = str(tmp_path / "dataset")
    build_dataset(root)
    before = tree(root)
    publish_bytes(b"x", join(root, INDEX))
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.repair.run_build", killed)
        with pytest.raises(Killed):
            mend(root)
    mend(root)
    assert tree(root) == before


def fit_to(files: dict[str, bytes]) -> Callable[..., dict[str, Artifact]]:
    """A fit that gives these files, and breaks off before the listing where that is not among them."""

    def fitted(recipe: Recipe, settings: RunSettings, progress: Any) -> dict[str, Artifact]:
        for name, data in files.items():
            publish_bytes(data, join(settings.out, name))
        if LISTING not in files:
            raise FitError("the sources are gone")
        return artifacts_of(settings.out)

    return fitted


@pytest.mark.slow
@pytest.mark.parametrize("described", [True, False])
def test_artifacts_come_back_wherever_the_repair_is_killed(
    whole: dict[str, bytes],
    fresh: Callable[[dict[str, bytes | None]], str],
    monkeypatch: pytest.MonkeyPatch,
    described: bool,
) -> None:
    same = {name: data for name, data in whole.items() if name.startswith("artifacts/")}
    listing = json.loads(whole[LISTING])
    listing["artifacts"]["units"]["sha256"] = "0" * 64
    other = {TOKENIZER: b"other", UNITS: b"other", LISTING: json.dumps(listing).encode()}
    damage: dict[str, bytes | None] = {UNITS: None} if described else {UNITS: b"x", LISTING: whole[LISTING] + b"\n"}
    damage |= {} if described else {"dataset.json": None}
    for changes in count():
        root = fresh(damage)
        before = tree(root)
        monkeypatch.setattr("pipeline.repair.run_fit", fit_to(other))
        died = dies(root, changes)
        for again, failure in ((other, RepairFailed), ({TOKENIZER: b"other"}, FitError)):
            monkeypatch.setattr("pipeline.repair.run_fit", fit_to(again))
            with pytest.raises(failure):
                mend(root)
            assert {**tree(root), UNITS: b""} == {**before, UNITS: b""}
        monkeypatch.setattr("pipeline.repair.run_fit", fit_to(same))
        mend(root)
        assert tree(root) == whole
        if not died:
            break
    assert changes > 10


def test_artifacts_that_were_fitted_again_are_not_fitted_twice(
    whole: dict[str, bytes], fresh: Callable[[dict[str, bytes | None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = fresh({UNITS: b"x", LISTING: whole[LISTING] + b"\n", "dataset.json": None, INDEX: b"x"})
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.repair.run_fit", fit_to({name: whole[name] for name in (UNITS, TOKENIZER, LISTING)}))
        patch.setattr("pipeline.repair.run_build", killed)
        with pytest.raises(Killed):
            mend(root)
    monkeypatch.setattr("pipeline.repair.run_fit", fit_to({}))
    assert mend(root).splits == (2,)
    assert tree(root) == whole


def test_artifacts_that_a_person_restored_after_a_kill_stay(
    whole: dict[str, bytes], fresh: Callable[[dict[str, bytes | None]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.repair.run_fit", fit_to({TOKENIZER: b"other"}))
    root = fresh({UNITS: b"x"})
    assert dies(root, 11)
    assert read_bytes(join(root, ASIDE, UNITS)) == b"x"
    for name in (UNITS, TOKENIZER, LISTING):
        publish_bytes(whole[name], join(root, name))
    publish_bytes(b"x", join(root, INDEX))
    assert mend(root).splits == (2,)
    assert tree(root) == whole


def test_a_plan_is_whole_wherever_its_repair_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.repair.run_fit", fit_to({}))
    manifest = tmp_path / "m.jsonl"
    rows = [{"audio_filepath": f"{i}.wav", "text": "t", "id": f"u{i}", "duration": 4} for i in range(6)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (tmp_path / str(row["audio_filepath"])).touch()
    planned = tmp_path / "planned"
    plan = make_plan(str(manifest), RECIPE, str(planned))
    publish_json({"plan": plan.fingerprint, "recipe": RECIPE.model_dump(mode="json")}, f"{planned}/dataset.json")
    sound = tree(str(planned))
    bad = {"recipe.yaml": b"{", "plan/plan.json": b"{", "plan/splits.parquet": b"PAR1 and nothing"}
    for changes in count():
        root = f"mortal-copies://{uuid4().hex}"
        for name, data in {**sound, **bad}.items():
            publish_bytes(data, join(root, name))
        died = dies(root, changes, manifest=str(manifest), recipe=RECIPE)
        assert {name for name in sound if read_bytes(join(root, name)) is None} == set()
        with pytest.raises((RepairFailed, FitError)):  # there is no more than a plan
            mend(root, manifest=str(manifest), recipe=RECIPE)
        assert tree(root) == sound
        assert {name: read_bytes(join(root, ASIDE, name)) for name in bad} == bad
        if not died:
            break
    assert changes > 8
