"""The guard: one outcome for every record, the culprit alone is rejected, and its name keeps to one line."""

from dataclasses import replace
from typing import Any

import pytest

from pipeline.guard import BrokenStage, run_stage
from schemas.rejects import Reason, Reject
from tests.poison import PoisonConfig, utterances

ROWS = utterances(4)


def test_the_culprit_is_rejected_and_its_batch_mates_are_not() -> None:
    hands: list[list[str]] = []
    found = run_stage(PoisonConfig(raises=("u002",)).setup(), "poison", ROWS, lambda keys: hands.append(list(keys)))
    assert [item for item in found if not isinstance(item, Reject)] == [ROWS[0], ROWS[1], ROWS[3]]
    detail = "u002.wav: ZeroDivisionError in stage poison"
    assert found[2] == Reject(key="u002", id="u002", stage="poison", reason=Reason.UNEXPECTED, detail=detail)
    assert hands == [["u000", "u001", "u002", "u003"], ["u000"], ["u001"], ["u002"], ["u003"]]


def test_a_hostile_name_keeps_to_one_line() -> None:
    row = replace(ROWS[0], audio="a\nb\x1b[2J\u202e" + "c" * 500)
    (found,) = run_stage(PoisonConfig(raises=("u000",)).setup(), "poison", [row], lambda _: None)
    assert isinstance(found, Reject)
    assert found.detail.startswith("a?b?[2J?ccc")
    assert found.detail.endswith(": ZeroDivisionError in stage poison")
    assert found.detail.isprintable()
    assert len(found.detail) < 250


def test_an_outcome_too_few_is_our_bug() -> None:
    class Forgetful:
        def process(self, batch: Any) -> list[Any]:
            return list(batch)[1:]

    with pytest.raises(BrokenStage, match="3 outcomes for 4 records"):
        run_stage(Forgetful(), "forgetful", ROWS, lambda _: None)
