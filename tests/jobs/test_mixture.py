"""`interloom mixture`: its estimate against a whole epoch read, its one-line errors."""

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from jobs.cli import main
from jobs.mixture import tokens_from
from pipeline.dataset import Dataset
from pipeline.reader import open_reader, vocabulary_of
from schemas.sequence import Mixture
from tests.sequence_builders import corpus, write_dataset


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "d", [corpus(8)])
    lines = [json.dumps({"text": f"the cat sat on mat {i} times"}) for i in range(30)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines) + "\n")
    sources = [
        {"path": str(tmp_path / "d"), "share": 2},
        {"path": str(tmp_path / "d"), "policy": {"name": "speech_only"}, "share": 1},
        {"kind": "text", "path": str(tmp_path / "text.jsonl"), "share": 1},
    ]
    (tmp_path / "mixture.yaml").write_text(yaml.safe_dump(sources))
    return tmp_path


def mixture(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["mixture", *arguments])


def test_epochs_are_those_that_reading_takes(files: Path) -> None:
    result = mixture(str(files / "mixture.yaml"), "--tokens", "1M", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)["sources"]
    assert [source["share"] for source in found] == [0.5, 0.25, 0.25]
    assert [source["items"] for source in found] == [8, 8, 30]
    loaded = Mixture.model_validate(yaml.safe_load((files / "mixture.yaml").read_text()))
    dataset = Dataset.open(str(files / "d"))
    sequence, vocabulary = dataset.recipe.sequence, vocabulary_of(dataset)
    for source, section in zip(found, loaded.sources, strict=True):
        epoch = open_reader(Mixture(sources=[section]), sequence, seed=0, epochs=1, vocabulary=vocabulary)
        read = sum(int((block["document_ids"] >= 0).sum()) for block in epoch)
        # Blocks that go on with a piece begin with its marker once more.
        assert 0 <= read - source["epoch_tokens"] <= read / sequence.context + 1
        assert source["epochs"] == pytest.approx(source["share"] * 1e6 / source["epoch_tokens"])


def test_a_person_sees_a_table(files: Path) -> None:
    result = mixture(str(files / "mixture.yaml"), "--tokens", "100B")
    assert result.exit_code == 0, result.output
    assert "100,000,000,000 tokens" in result.stdout
    assert "25.0%" in result.stdout


@pytest.mark.parametrize(("text", "number"), [("250000", 250_000), ("1e9", 1e9), ("5M", 5e6), ("1.5b", 1.5e9)])
def test_numbers_of_tokens(text: str, number: float) -> None:
    assert tokens_from(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1e999", "5 MB"])
def test_what_is_no_number_of_tokens_is_refused(files: Path, text: str) -> None:
    result = mixture(str(files / "mixture.yaml"), "--tokens", text)
    assert result.exit_code == 2
    assert "write a number such as 250000" in result.output


def test_mistakes_in_a_mixture_are_told_in_one_line(files: Path) -> None:
    for content, said in (("- {path: d, share: 0}", "share"), ("a: [", "not valid YAML"), ("[]", "sources")):
        (files / "bad.yaml").write_text(content)
        result = mixture(str(files / "bad.yaml"), "--tokens", "5")
        assert result.exit_code == 2
        assert said in result.output
        assert len(result.output.strip().splitlines()) == 1
    assert "is missing" in mixture(str(files / "none.yaml"), "--tokens", "5").output
