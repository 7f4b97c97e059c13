"""A storm: builds that are hit at random moments and run again until they are done, and what must be true then."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import psutil

from pipeline.process import marked
from tests.faults import victims
from tests.faults.build import EXIT_FAILED, RECORDS
from tests.faults.cluster import Cluster

REPOSITORY = Path(__file__).resolve().parents[2]
FAULTS = ("kill",) * 8 + ("stop", "starve", "fill")
STOPPED_SECONDS = 2.0
FULL_SECONDS = 1.5
ALLOWED_EXITS = {0, EXIT_FAILED, -9}
MAX_RUNS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """How a storm blows over one engine.

    Attributes:
        options: of the engine.
        mean_share: mean time between two faults, in quiet builds.
        stall_seconds: the driver's watchdog.
        targets: parts that are hit, as often as they are named.
        surely: the part that the last kill of a build goes to, unless it was hit before.
    """

    options: tuple[str, ...] = ()
    mean_share: float = 0.1
    stall_seconds: float
    targets: tuple[str, ...]
    surely: str = ""


CLIMATES = {
    "local": Climate(stall_seconds=20.0, targets=("driver", "engine", "child", "child")),
    "beam": Climate(stall_seconds=45.0, targets=("driver", "engine", "worker", "child", "child", "child")),
    "ray": Climate(
        stall_seconds=60.0, targets=("driver", "engine", "worker", "worker", "child", "child", "child", "node")
    ),
}


CLUSTER = Climate(
    stall_seconds=60.0,
    targets=("driver", "engine", "worker", "child", "child", "second node"),
    surely="second node",
)


@dataclass(slots=True, kw_only=True)
class Storm:
    """What happened to one build.

    Attributes:
        hits: how often each fault met each part.
        runs: starts of the driver, with their exit codes.
        seconds: from the first start to the end of the last.
        records: records worked on, repeats included.
        problems: what should not be.
    """

    seed: int
    hits: Counter[str] = field(default_factory=Counter)
    runs: list[int] = field(default_factory=list)
    seconds: float = 0.0
    records: int = 0
    problems: list[str] = field(default_factory=list)

    def done_again(self, calm: "Calm") -> float:
        """Return the splits' worth of records that were worked on more often than in the quiet build."""
        return (self.records - calm.records) / RECORDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Calm:
    """The quiet build: digests by file name, wall seconds, records worked on."""

    digests: dict[str, str]
    seconds: float
    records: int


def kills(hits: Counter[str]) -> int:
    return sum(count for name, count in hits.items() if name.startswith("kill"))


class Place:
    """A folder for builds, on a small file system of its own where this machine lets us mount one."""

    def __init__(self, megabytes: int = 64) -> None:
        self.cluster: Cluster | None = None
        self.path = Path(tempfile.mkdtemp(prefix="ilf-", dir="/tmp"))  # short: Ray's sockets lie below
        self.disk = self.path / "d"
        self.temporary = self.path / "t"
        self.disk.mkdir()
        self.temporary.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.disk)]
        self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to know."""
        own = {"TMPDIR": str(self.temporary), "FAULTS_DIARY": str(self.path / "diary")}
        return own if self.cluster is None else {**own, **self.cluster.environment}

    def gather(self) -> Climate:
        """Start a cluster; return how storms blow over it."""
        folder = self.path / "n"
        folder.mkdir()
        self.cluster = Cluster(folder, REPOSITORY)
        return replace(CLUSTER, options=(f"--address={self.cluster.address}",))

    def fill(self) -> None:
        """Leave no byte free."""
        with open(self.disk / "filler", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(2**16))
            except OSError:
                return

    def free(self) -> None:
        (self.disk / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.close()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.disk)], check=False)
        shutil.rmtree(self.path, ignore_errors=True)


def start(engine: str, climate: Climate, place: Place, root: Path) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, **place.environment}
    command = [sys.executable, "-m", "tests.faults.build", str(root), engine, str(climate.stall_seconds)]
    with open(place.path / "driver.log", "ab") as log:
        return subprocess.Popen(
            [*command, *climate.options],
            cwd=REPOSITORY,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def quiet(engine: str, climate: Climate, place: Place) -> Calm:
    """Build while nobody disturbs."""
    root, begun = place.disk / "quiet", time.monotonic()
    code = start(engine, climate, place, root).wait()
    if code:
        raise RuntimeError(f"the quiet build ended with {code}: {(place.path / 'driver.log').read_text()[-2000:]}")
    seconds, found = time.monotonic() - begun, digests(root)
    shutil.rmtree(root)
    return Calm(digests=found, seconds=seconds, records=_worked_on(place))


def _worked_on(place: Place) -> int:
    diary = place.path / "diary"
    return len(diary.read_bytes().splitlines()) if diary.exists() else 0


def digests(root: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((root / "shards").iterdir())}


def blow(engine: str, climate: Climate, place: Place, seed: int, most: int, calm: Calm) -> Storm:
    """Build once, with at most so many kills at random moments; run again until it is done; look what is there."""
    rng, storm, root = Random(seed), Storm(seed=seed), place.disk / "storm"
    diary, begun = place.path / "diary", time.monotonic()
    diary.unlink(missing_ok=True)
    process = start(engine, climate, place, root)
    try:
        while True:
            left = most - kills(storm.hits)
            wait = rng.expovariate(1 / (climate.mean_share * calm.seconds)) if left > 0 else None
            try:
                code = process.wait(wait)
            except subprocess.TimeoutExpired:
                _one_fault(process, climate, place, rng, storm, last=left == 1)
                continue
            storm.runs.append(code)
            if code == 0 or not _is_allowed(code, storm) or len(storm.runs) == MAX_RUNS:
                break
            process = start(engine, climate, place, root)
    finally:
        process.kill()
    storm.seconds = time.monotonic() - begun
    storm.records = _worked_on(place)
    storm.problems += _problems(place, root, storm, calm)
    shutil.rmtree(root, ignore_errors=True)
    return storm


def _is_allowed(code: int, storm: Storm) -> bool:
    """A driver may fail or be killed; one without memory may be ended by libraries in C++ that it was loading."""
    return code in ALLOWED_EXITS or (code == -signal.SIGABRT and storm.hits["starve driver"] > 0)


def _one_fault(
    process: "subprocess.Popen[bytes]", climate: Climate, place: Place, rng: Random, storm: Storm, *, last: bool
) -> None:
    fault, target, patient = rng.choice(FAULTS), rng.choice(climate.targets), rng.random() < 0.25
    if last and climate.surely and not any(name.endswith(climate.surely) for name in storm.hits):
        fault, target = "kill", climate.surely
    if fault == "fill":
        if place.mounted:
            place.fill()
            time.sleep(FULL_SECONDS)
            place.free()
            storm.hits["fill disk"] += 1
        return
    if target == "second node":
        if place.cluster is not None and place.cluster.kill_second():
            storm.hits["kill second node"] += 1
            time.sleep(rng.uniform(0, 5))
            place.cluster.look_after()
        return
    victim = victims.find(process.pid, target, rng, () if place.cluster is None else place.cluster.roots)
    if victim is None or not victims.hit(victim, fault):
        return
    storm.hits[f"{fault} {target}"] += 1
    if fault == "stop" and not (patient and target != "driver"):  # else the watchdogs must notice
        time.sleep(STOPPED_SECONDS)
        victims.release(victim)


def _problems(place: Place, root: Path, storm: Storm, calm: Calm) -> list[str]:
    """Return everything that is not as after a quiet build."""
    if storm.runs[-1] != 0:
        return [f"ended with exit code {storm.runs[-1]}: {(place.path / 'driver.log').read_text()[-1500:]}"]
    found, problems, expected = digests(root), [], calm.digests
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        problems.append(f"other bytes than the quiet build: {different[:5]}")
    for folder in ("tmp", "strikes", "failed", "alive"):
        if list((root / "work" / folder).glob("*")):
            problems.append(f"work/{folder} is not empty")
    problems += [f"left {path}" for path in root.rglob("*.tmp-*")]
    problems += [f"left {path}" for path in place.temporary.iterdir()]
    family = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:16]
    deadline = time.monotonic() + 10
    while (alive := marked("INTERLOOM_RUN", family)) and time.monotonic() < deadline:
        time.sleep(0.2)
    problems += [f"process {pid} lives on: {_command(pid)}" for pid in alive]
    faults = sum(storm.hits.values())
    lost = storm.done_again(calm)
    if lost > faults * WORKERS * SPLITS_IN_WORK:
        problems.append(f"{lost:.1f} splits were done again after {faults} faults")
    return problems


WORKERS = 2
SPLITS_IN_WORK = 2
"""The split that a worker is at, and the one that it works on ahead."""


def _command(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())[:120]
    except psutil.Error:
        return "gone"
