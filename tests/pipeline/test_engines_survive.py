"""All engines: poison records are rejected, everything else is present, the bytes are the same, nothing lives on."""

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.drive import EngineSettings, drive
from pipeline.process import marked
from tests.poison import PoisonConfig, job_for

SETTINGS = {
    "local": EngineSettings(engine="local", workers=2, stall_seconds=120),
    "beam in memory": EngineSettings(engine="beam", workers=1, stall_seconds=120),
    "beam processes": EngineSettings(engine="beam", workers=2, stall_seconds=120),
    "beam portable": EngineSettings(
        engine="beam",
        workers=1,
        options=("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK"),
        stall_seconds=120,
    ),
    "ray": EngineSettings(engine="ray", workers=2, stall_seconds=120),
}
POISON = PoisonConfig(
    abort=("u003",),
    segfault=("u006",),
    hang=("u009",),
    raises=("u014",),
    prints=("u016",),
    forks=("u019",),
    hoard=("u021",),
)
CRASHED = ("u003", "u006", "u009", "u016", "u019", "u021")


def line(key: str) -> str:
    """Return what the sink writes for a record."""
    if key in CRASHED:
        return f"- {key} crashed {key}.wav: killed, hung or starved its worker 2 times\n"
    if key == "u014":
        return "- u014 unexpected u014.wav: ZeroDivisionError in stage poison\n"
    return f"+ {key}\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_seven_poisons_cost_seven_records_and_nothing_else(tmp_path: Path, name: str) -> None:
    root = tmp_path / "root"
    job, plan = job_for(root, POISON, record_seconds=3.0, max_rss_bytes=2**30)
    records = drive(job, plan, SETTINGS[name], lambda *_: None)
    for split in range(6):
        expected = "".join(line(f"u{i:03d}") for i in range(4 * split, 4 * split + 4)).encode()
        assert (root / "shards" / f"lines-{split:06d}.txt").read_bytes() == expected
        assert records[split]["files"][f"lines-{split:06d}.txt"]["sha256"] == hashlib.sha256(expected).hexdigest()
    assert sum(record["rejects"] for record in records.values()) == 7
    assert sum(record["records"] for record in records.values()) == 17
    assert not marked("INTERLOOM_RUN", hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:16])
    assert not [path for folder in ("tmp", "strikes", "alive") for path in (root / "work" / folder).glob("*")]
