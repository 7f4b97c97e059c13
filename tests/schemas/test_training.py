"""The train section: the learning rate, and what a resumed run may change."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.training import TrainSection


def test_the_learning_rate_by_hand() -> None:
    cosine = TrainSection(learning_rate=2.0, warmup=4, schedule="cosine", final_share=0.1)
    assert [cosine.rate(step, 14) for step in (1, 2, 4)] == [0.5, 1.0, 2.0]
    assert cosine.rate(9, 14) == pytest.approx(2.0 * 0.55)  # half way down
    assert cosine.rate(14, 14) == pytest.approx(0.2)
    assert cosine.rate(20, 14) == pytest.approx(0.2)
    constant = TrainSection(learning_rate=2.0, warmup=0)
    assert [constant.rate(step, 3) for step in (1, 2, 3)] == [2.0] * 3


@given(warmup=st.integers(0, 30), total=st.integers(1, 60), share=st.floats(0, 1))
def test_the_learning_rate_rises_and_falls_once(warmup: int, total: int, share: float) -> None:
    section = TrainSection(learning_rate=1e-3, warmup=warmup, schedule="cosine", final_share=share)
    rates = [section.rate(step, total) for step in range(1, total + 1)]
    top = min(max(warmup, 1), total)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 <= rate <= 1e-3 for rate in rates)
    assert all(rate >= share * 1e-3 * (1 - 1e-9) for rate in rates[warmup:])


def test_what_may_change_are_settings() -> None:
    assert set(TrainSection.model_fields) >= TrainSection.MAY_CHANGE
    assert {"learning_rate", "precision", "model"}.isdisjoint(TrainSection.MAY_CHANGE)
    with pytest.raises(ValueError, match="multiple of 2 x heads"):
        TrainSection(hidden_size=12, heads=4)
