"""docs/training.md: its code runs as it stands there."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.dataset import Dataset
from stages.interleave import Modality
from tests.train_builders import SEQUENCE, tiny_checkpoint, tiny_dataset

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text()
GENERATE, READ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("seed", range(4))
def test_a_checkpoint_that_has_learnt_nothing_generates_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_checkpoint(tiny_dataset(tmp_path / "out"), tmp_path / "model" / "checkpoint-000200", seed=seed)
    names: dict = {}
    exec(compile(GENERATE, "docs/training.md", "exec"), names)
    (shown,) = capsys.readouterr().out.splitlines()
    assert shown.startswith("[Text]the cat")
    assert len(names["made"]) == names["prompt"].shape[1] + 60
    pieces = names["vocabulary"].decode(names["vocabulary"].repaired(names["made"]))
    assert {piece.modality for piece in pieces} == set(Modality), "units and text, whatever the weights"


def test_the_reader_in_a_loop_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchdata")
    monkeypatch.chdir(tmp_path)
    out = tiny_dataset(tmp_path / "out")
    assert Dataset.open("out").recipe == Dataset.open(str(out)).recipe
    names: dict = {"sequence": SEQUENCE, "rank": 0, "world_size": 1}
    exec(compile(READ, "docs/training.md", "exec"), names)
    loader = names["loader"]
    found = iter(loader)
    first = [next(found) for _ in range(3)]
    assert names["collate"](first)["input_ids"].shape == (3, SEQUENCE.context)
    saved = loader.state_dict()
    assert len(names["reader_states"]([saved])) == 4, "one of each worker"
    following = next(found)["input_ids"]
    exec(compile(READ, "docs/training.md", "exec"), names)
    names["loader"].load_state_dict(saved)
    assert names["loader"] is not loader
    assert torch.equal(next(iter(names["loader"]))["input_ids"], following)
