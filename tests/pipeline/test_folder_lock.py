"""One run at a time works in a dataset's folder: another one is told so and changes nothing."""

import fcntl
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from jobs import steps
from jobs.cli import main
from pipeline import build, fit
from pipeline.bake import BakeConfig, bake
from pipeline.build import RunSettings, make_plan, run_build, run_fit, transcribe_first
from pipeline.drive import EngineSettings
from pipeline.folder_lock import FolderInUse, locked
from pipeline.job import Limits
from pipeline.recipes import load_recipe
from schemas.model_sections import TranscribeSection
from schemas.recipe import Recipe
from schemas.records import Artifact
from schemas.sequence import SequenceSection
from tests.sequence_builders import corpus, write_dataset

IN_USE = "is in use by another run; wait for it to end"


def quiet(*_: object) -> None:
    """No progress is shown."""


def elsewhere(do: Callable[[], Any]) -> Any:
    """Do something as another run would, which does not hold what this one holds."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(do).result()


@contextmanager
def another_run(root: Path) -> Iterator[None]:
    (root / "work").mkdir(parents=True, exist_ok=True)
    with open(root / "work" / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def take(root: str) -> None:
    with locked(root):
        pass


def settings_for(root: Path) -> RunSettings:
    return RunSettings(out=str(root), engine=EngineSettings(workers=1))


def recipe_of(seed: int) -> Recipe:
    """A recipe whose sample is three of the manifest's rows."""
    return load_recipe("embedded", [f"seed={seed}", "fit.max_hours=0.0085"])


def manifest_of(folder: Path) -> str:
    rows = [{"audio_filepath": f"{i}.wav", "text": f"row {i}", "duration": 10} for i in range(20)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "manifest.jsonl")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_who_holds_a_folder_may_take_it_again_and_nobody_else(tmp_path: Path) -> None:
    root, link = str(tmp_path / "out"), tmp_path / "link"
    link.symlink_to("out")
    code = f"from pipeline.folder_lock import locked\nwith locked({root!r}): pass"
    with locked(root):
        with locked(f"{link}/"), locked(f"{root}/fit"):
            pass
        with pytest.raises(FolderInUse, match=IN_USE):
            elsewhere(lambda: take(root))
        theirs = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert f"FolderInUse: {root} {IN_USE}" in theirs.stderr
    elsewhere(lambda: take(root))


def test_another_run_does_not_touch_the_sample_that_codebooks_are_fitted_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers read its rows while they work: with another seed they would be others, under the first one's name."""
    manifest, out, other = manifest_of(tmp_path), tmp_path / "out", recipe_of(2)

    def drive(*_: object) -> None:
        before = files(out)
        assert "fit/splits.parquet" in before
        for step in (lambda: make_plan(manifest, other, str(out)), lambda: run_fit(other, settings_for(out), quiet)):
            with pytest.raises(FolderInUse, match=IN_USE):
                elsewhere(step)
        command = ["run", "embedded", "--set", "seed=2", "--manifest", manifest, "--out", str(out)]
        told = elsewhere(lambda: CliRunner().invoke(main, command))
        assert (told.exit_code, told.output) == (1, f"interloom: {out} {IN_USE}\n")
        assert files(out) == before
        raise InterruptedError

    monkeypatch.setattr(fit, "drive", drive)
    make_plan(manifest, recipe_of(1), str(out))
    with pytest.raises(InterruptedError):
        run_fit(recipe_of(1), settings_for(out), quiet)


def test_no_step_changes_anything_while_another_run_works_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = manifest_of(tmp_path), tmp_path / "out"
    monkeypatch.setattr(build, "pin", lambda *_, **__: {"transcribe_model": Artifact(path="m", sha256="0" * 64)})
    make_plan(manifest, recipe_of(1), str(out))
    before, settings = files(out), settings_for(out)
    speech = Recipe(name="t", transcribe=TranscribeSection(checkpoint="model"))
    with another_run(out):
        for step in (
            lambda: make_plan(manifest, recipe_of(2), str(out)),
            lambda: transcribe_first(manifest, speech, settings, quiet),
            lambda: run_fit(recipe_of(1), settings, quiet),
            lambda: run_build(recipe_of(1), {}, settings, quiet),
        ):
            with pytest.raises(FolderInUse, match=f"{out} {IN_USE}"):
                step()
    assert files(out) == before


def test_a_bake_does_not_touch_the_tokenizer_of_another(tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "d", [corpus(2)]), tmp_path / "out"
    config = BakeConfig(dataset=str(dataset), sequence=SequenceSection(context=64), seed=1, epochs=1, streams=1)
    with another_run(out):
        with pytest.raises(FolderInUse, match=f"{out} {IN_USE}"):
            bake(config, str(out), EngineSettings(workers=1), Limits(), quiet)
        assert list(files(out)) == ["work/lock"]


def test_a_run_holds_its_folder_from_the_plan_to_the_end_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, out = manifest_of(tmp_path), tmp_path / "out"

    def build_step(*_: object) -> int:
        with pytest.raises(FolderInUse, match=IN_USE):
            elsewhere(lambda: make_plan(manifest, recipe_of(2), str(out)))
        raise InterruptedError

    monkeypatch.setattr(steps, "build_step", build_step)
    with pytest.raises(InterruptedError):
        steps.whole_run(Console(quiet=True), recipe_of(1), manifest, settings_for(out))
    assert "seed: 1\n" in (out / "recipe.yaml").read_text()


def test_a_recipe_that_cannot_run_leaves_no_folder(tmp_path: Path) -> None:
    command = ["run", "embedded", "--set", "align.backend=ctc", "--set", "align.checkpoint=no", "--out"]
    told = CliRunner().invoke(main, [*command, str(tmp_path / "out"), "--manifest", manifest_of(tmp_path)])
    assert told.exit_code == 2, told.output
    assert not (tmp_path / "out").exists()
