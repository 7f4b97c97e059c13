"""The commands remove, verify and repair: one line for each mistake, exit codes, what is told."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from tests.takedown_builders import build_dataset, utterance_id


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    """A finished dataset whose sources never were."""
    build_dataset(str(tmp_path / "dataset"))
    return str(tmp_path / "dataset")


def names(tmp_path: Path, *lines: str) -> str:
    (tmp_path / "names.txt").write_text("\r\n".join(lines) + "\r\n\n")
    return str(tmp_path / "names.txt")


@pytest.mark.parametrize("command", ["remove", "verify", "repair"])
def test_help_shows_an_example(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"interloom {command} out" in result.output


def test_removal_tells_what_was_done_and_what_was_not(dataset: str, tmp_path: Path) -> None:
    path = names(tmp_path, utterance_id(1, 0), utterance_id(1, 1))
    result = invoke("remove", dataset, "--ids", path, "--reason", "ticket 1")
    assert result.exit_code == 0, result.output
    assert "2 rows removed" in result.output
    assert "1 splits written anew" in result.output
    assert "tokenizer, units" in result.output
    assert "bake them again" in result.output
    assert invoke("verify", dataset).exit_code == 0


@pytest.mark.parametrize(("option", "code"), [((), 1), (("--missing-ok",), 0)])
def test_names_that_are_not_there(dataset: str, tmp_path: Path, option: tuple[str, ...], code: int) -> None:
    path = names(tmp_path, utterance_id(1, 0), "no\x1b[31mbody")
    result = invoke("remove", dataset, "--ids", path, *option)
    assert result.exit_code == code
    assert "1 rows removed" in result.output
    assert r"'no\x1b[31mbody'" in result.output
    assert "\x1b" not in result.output


def test_whole_recordings(dataset: str, tmp_path: Path) -> None:
    result = invoke("remove", dataset, "--recordings", names(tmp_path, "rec2"))
    assert (result.exit_code, "4 rows removed" in result.output) == (0, True)


def test_verify_names_the_bad_files_and_repair_what_is_gone(dataset: str) -> None:
    (Path(dataset) / "shards" / "shard-000001.tar").unlink()
    (Path(dataset) / "shards" / "foo\x1b").write_text("")
    result = invoke("verify", dataset)
    assert result.exit_code == 1
    assert "shards/shard-000001.tar: missing: " in result.output
    assert "shards/foo\\x1b: unnamed: " in result.output
    value = json.loads(invoke("verify", dataset, "--json", "--workers", "2").stdout)
    assert [item["problem"] for item in value["findings"]] == ["unnamed", "missing"]
    repaired = invoke("repair", dataset, "--workers", "1")
    assert repaired.exit_code == 1
    assert repaired.stderr.count("\n") == 1
    assert "/nowhere/1.wav" in repaired.stderr


def test_repair_of_side_files_needs_no_sources(dataset: str) -> None:
    (Path(dataset) / "shards.parquet").unlink()
    result = invoke("repair", dataset, "--workers", "1")
    assert result.exit_code == 0, result.output
    assert "1 bad files repaired, 0 splits built again" in result.output
    assert "nothing to repair" in invoke("repair", dataset, "--workers", "1").output


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("remove", "D"), 2, "--ids"),
        (("remove", "D", "--ids", "missing.txt"), 2, "missing.txt"),
        (("remove", "N", "--ids", "F"), 1, "plan.json"),
        (("verify", "N"), 2, "dataset.json"),
        (("repair", "N"), 2, "dataset.json"),
    ],
)
def test_a_mistake_is_one_line(dataset: str, tmp_path: Path, arguments: tuple[str, ...], code: int, part: str) -> None:
    places = {"D": dataset, "N": str(tmp_path / "none"), "F": names(tmp_path, "a")}
    result = invoke(*(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == code, result.output
    assert part in result.stderr


def test_a_file_that_is_no_text_is_refused(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"\xff\xfe")
    result = invoke("remove", dataset, "--ids", str(tmp_path / "ids"))
    assert result.exit_code == 2
    assert "UTF-8" in result.stderr


def test_a_mark_of_byte_order_is_no_part_of_the_first_id(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "ids").write_bytes(b"\xef\xbb\xbf" + utterance_id(1, 0).encode() + b"\r\n")
    result = invoke("remove", dataset, "--ids", str(tmp_path / "ids"), "--missing-ok")
    assert "1 rows removed" in result.output


def test_a_recording_that_went_by_its_ids_had_been_removed_before(dataset: str, tmp_path: Path) -> None:
    ids = (utterance_id(2, number) for number in range(4))
    assert invoke("remove", dataset, "--ids", names(tmp_path, *ids)).exit_code == 0
    result = invoke("remove", dataset, "--recordings", names(tmp_path, "rec2"))
    assert (result.exit_code, "1 names had been removed before" in result.output) == (0, True)


def test_repair_says_which_folder_audio_paths_start_from(dataset: str, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").touch()
    result = invoke("repair", dataset, "--workers", "1", "--manifest", str(tmp_path / "m.jsonl"))
    assert result.exit_code == 0, result.output
    assert f"start from /nowhere, as plan.json says; --audio-root {tmp_path} changes that\n" in result.output


@pytest.mark.parametrize("command", [("build", "--out", ""), ("verify", "")])
def test_no_path_is_no_folder(command: tuple[str, ...]) -> None:
    result = invoke(*command)
    assert (result.exit_code, result.stderr) == (
        2,
        "interloom: an empty path: name a folder, the current one with '.'\n",
    )
