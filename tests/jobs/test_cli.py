"""The command line: help with examples, one clear line for each mistake, exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.audit_builders import hostile_dataset

COMMANDS = sorted(main.commands)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_the_commands_are_those_of_the_design() -> None:
    design = ["plan", "fit", "build", "bake", "audit", "train", "validate", "inspect", "status", "run", "demo"]
    reading = ["policy", "mixture", "score"]
    upkeep = ["recipe", "doctor", "transcribe", "remove", "verify", "repair"]
    assert sorted([*design, *reading, *upkeep]) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"interloom {command}" in result.output


def manifest(folder: Path, text: str = '{"audio_filepath": "a.wav", "text": "hello"}\n') -> str:
    path = folder / "manifest.jsonl"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "embeded", "--manifest", "M", "--out", "O"), "did you mean 'embedded'"),
        (("run", "embedded", "--manifest", "missing.jsonl", "--out", "O"), "missing.jsonl"),
        (("run", "embedded", "--set", "units.clsters=5", "--manifest", "M", "--out", "O"), "clusters"),
        (("audit", "O"), "dataset.json"),
        (("validate", "O"), "dataset.json"),
        (("inspect", "O"), "dataset.json"),
        (("status", "O"), "no plan"),
        (("build", "--out", "O"), "no plan"),
        (("bake", "O", "--out", "B"), "dataset.json"),
        (("audit", "memory://nothing"), "--report"),
        (("train", "O", "--out", "B"), "dataset.json"),
        (("plan", "embedded", "--manifest", "M", "--out", "M"), "is a file"),
        (("plan", "embedded", "--manifest", "M", "--out", "a::b"), "'::'"),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--", "--foo"), "takes no options"),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--engine", "ray", "--", "--foo"), "--foo"),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--set", "qc.min_score_all=-.inf"), "min_score_all"),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--set", "decode.min_seconds=500"), "min_seconds"),
        (
            ("run", "embedded", "--manifest", "M", "--out", "O", "--set", "sequence.policy.text_words=[30, 10]"),
            "text_words",
        ),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--set", "units.clusters=100000"), "units.clusters"),
        (("run", "embedded", "--manifest", "M", "--out", "O", "--set", "name=2024-13-45"), "--set"),
        (("recipe", "examples/broken/unknown_key.yaml"), "clusters"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], part: str) -> None:
    places = {"M": manifest(tmp_path), "O": str(tmp_path / "out")}
    result = invoke(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert part in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_manifest_without_a_usable_row_is_an_error_of_the_manifest(tmp_path: Path) -> None:
    result = invoke("plan", "embedded", "--manifest", manifest(tmp_path, "{bad\n"), "--out", str(tmp_path / "o"))
    assert result.exit_code == 2
    assert "no usable row" in result.stderr


def test_plan_and_status_work_without_any_audio(tmp_path: Path) -> None:
    out = str(tmp_path / "o")
    planned = invoke("plan", "embedded", "--manifest", manifest(tmp_path), "--out", out)
    assert planned.exit_code == 0, planned.output
    assert "1 rows" in planned.output
    status = invoke("status", out)
    assert status.exit_code == 0
    assert "0/1 splits" in status.output


def test_another_manifest_may_not_reuse_a_folder(tmp_path: Path) -> None:
    out = str(tmp_path / "o")
    invoke("plan", "embedded", "--manifest", manifest(tmp_path), "--out", out)
    changed = manifest(tmp_path, '{"audio_filepath": "b.wav", "text": "hello"}\n')
    result = invoke("plan", "embedded", "--manifest", changed, "--out", out)
    assert result.exit_code == 2
    assert "another --out" in result.stderr


def test_the_recipe_prints_its_defaults_and_its_schema() -> None:
    assert "clusters: 100" in invoke("recipe", "embedded").output
    assert '"additionalProperties": false' in invoke("recipe", "embedded", "--schema").output


def test_a_refused_recipe_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "o"
    invoke("plan", "embedded", "--manifest", manifest(tmp_path), "--out", str(out))
    before = (out / "recipe.yaml").read_bytes()
    fingerprint = {"artifacts": {}, "fingerprint": "another", "format": "interloom-artifacts/1"}
    (out / "artifacts").mkdir()
    (out / "artifacts" / "artifacts.json").write_text(json.dumps(fingerprint))
    result = invoke("plan", "demo", "--manifest", manifest(tmp_path), "--out", str(out))
    assert result.exit_code == 2
    assert "other settings" in result.stderr
    assert (out / "recipe.yaml").read_bytes() == before


def test_a_built_dataset_takes_overrides_of_reading_time_only(tmp_path: Path) -> None:
    hostile_dataset(tmp_path)
    result = invoke("bake", str(tmp_path), "--out", str(tmp_path / "b"), "--set", "units.clusters=3")
    assert result.exit_code == 2
    assert "only sequence and train" in result.stderr


def test_a_dataset_of_another_version_is_refused_by_the_key_it_has_and_we_do_not(tmp_path: Path) -> None:
    hostile_dataset(tmp_path)
    info = json.loads((tmp_path / "dataset.json").read_text())
    info["recipe"]["units"]["trust_pickle"] = False
    (tmp_path / "dataset.json").write_text(json.dumps(info))
    result = invoke("inspect", str(tmp_path))
    assert result.exit_code == 2
    assert f"{tmp_path}/dataset.json: unknown key 'units.trust_pickle'; " in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_bake_does_not_mix_with_another(tmp_path: Path) -> None:
    hostile_dataset(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "baked.json").write_text("{}")
    result = invoke("bake", str(tmp_path), "--out", str(tmp_path / "b"))
    assert result.exit_code == 2
    assert "another --out" in result.stderr


def test_the_command_to_go_on_with_tells_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("jobs.steps.transcribe_step", lambda *_: None)
    where = ["--manifest", "sftp://me:pw1@host/m.jsonl?token=pw2", "--audio-root", "sftp://me:pw3@host/audio"]
    result = invoke("transcribe", "embedded", *where, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    told = f"--manifest sftp://host/m.jsonl?token=... --audio-root sftp://host/audio --out {tmp_path}/out"
    assert told in result.output
    assert "pw" not in result.output.replace(str(tmp_path), "")
