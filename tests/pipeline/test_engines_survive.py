"""All three engines: poison records are rejected, everything else is present, the bytes are the same."""

import hashlib
from pathlib import Path

import pytest

from pipeline.drive import EngineSettings, drive
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


def digest(root: Path) -> str:
    found = hashlib.sha256()
    for path in sorted((root / "shards").iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def lines(root: Path) -> list[str]:
    return [line for path in sorted((root / "shards").glob("lines-*")) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_poison_costs_its_records_only_and_the_same_on_every_engine(tmp_path: Path) -> None:
    poison = PoisonConfig(abort=("u003",), hang=("u009",), raises=("u014",), hoard=("u021",))
    digests = {}
    for name, settings in SETTINGS.items():
        root = tmp_path / name.replace(" ", "-")
        job, plan = job_for(root, poison, record_seconds=2.0, max_rss_bytes=2**30)
        records = drive(job, plan, settings, lambda *_: None)
        assert len(records) == 6
        digests[name] = digest(root)
        rejected = {line.split()[1]: line.split()[2] for line in lines(root) if line.startswith("-")}
        assert rejected == {"u003": "crashed", "u009": "crashed", "u014": "unexpected", "u021": "crashed"}, name
        assert len(lines(root)) == 24
    assert len(set(digests.values())) == 1, digests
