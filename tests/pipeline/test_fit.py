"""Fit: what it leaves behind."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from pipeline import fit as module
from pipeline.drive import EngineSettings
from pipeline.fit import fit
from pipeline.job import Limits
from pipeline.plan import Plan, write_plan
from pipeline.recipes import load_recipe
from pipeline.storage import join, publish_bytes
from tests.takedown_builders import rows_of


@pytest.mark.parametrize("store", [False, True])
def test_the_texts_and_features_of_the_sample_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: bool
) -> None:
    """`fit/` holds ids, texts and features: on a store it goes as well."""
    root = f"memory://fit-{uuid4().hex}" if store else str(tmp_path / "d")
    filesystem, key = fsspec.core.url_to_fs(root)
    seen = []

    def drive(job: Any, plan: Plan, settings: Any, progress: Any) -> dict[int, Any]:
        publish_bytes(b"features", join(job.root, "shards", "features-000000.parquet"))
        return {split: {"records": 1, "reasons": {}} for split in range(len(plan.sizes))}

    def train(*_: Any) -> dict[str, dict[str, bytes]]:
        seen.extend(path[len(key) :] for path in filesystem.find(f"{key}/fit"))
        return {"units": {"units.npy": b"units"}}

    monkeypatch.setattr(module, "drive", drive)
    monkeypatch.setattr(module, "train", train)
    plan = write_plan(f"{root}/plan", "/b", rows_of("/b", 3), "auto", 120.0)
    fit(root, plan, load_recipe("embedded"), EngineSettings(), Limits(), lambda *_: None)
    assert {"/fit/plan.json", "/fit/splits.parquet", "/fit/shards/features-000000.parquet"} <= set(seen)
    assert not filesystem.exists(f"{key}/fit")
    assert filesystem.exists(f"{key}/artifacts/units.npy")
