"""How busy an accelerator is with and without work ahead across splits: python -m benchmarks.prefetch.

The accelerator is simulated: a stage that sleeps 20 ms and 7 ms for each record of its batch of 16. Before it stands
decoding that takes 8 ms a record, behind it a sink that takes 150 ms a split (encoding, writing, fsync). All sleep, as
a device and a disk would have it, so that the cores do not matter.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.executor import SplitExecutor
from pipeline.job import Job, Limits
from pipeline.plan import write_plan
from schemas.clock import Samples
from schemas.records import Utterance

BATCH = 16
DECODE_SECONDS = 0.008
SINK_SECONDS = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    name: ClassVar[str] = "decode"
    version: ClassVar[int] = 1

    def setup(self) -> "Decode":
        return Decode()


class Decode:
    def process(self, batch: Sequence[Any]) -> list[Any]:
        time.sleep(DECODE_SECONDS * len(batch))
        return list(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    name: ClassVar[str] = "device"
    version: ClassVar[int] = 1

    diary: str

    def setup(self) -> "Device":
        return Device(self.diary)


class Device:
    def __init__(self, diary: str) -> None:
        self._diary = open(diary, "a", buffering=1)  # noqa: SIM115  # lives as long as the stage

    def process(self, batch: Sequence[Any]) -> list[Any]:
        begun = time.monotonic()
        time.sleep(0.02 + 0.007 * len(batch))
        self._diary.write(f"{begun} {time.monotonic()}\n")
        return list(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkConfig:
    def setup(self) -> "Sink":
        return Sink()


class Sink:
    def write(self, split: int, outcomes: Iterable[Any], folder: Path) -> dict[str, Any]:
        keys = [outcome.key for outcome in outcomes]
        time.sleep(SINK_SECONDS)
        (folder / f"keys-{split:06d}.txt").write_text("\n".join(keys))
        return {"inputs": len(keys), "records": len(keys), "rejects": 0, "reasons": {}}


def rows(count: int, per_split: int) -> list[Utterance]:
    return [
        Utterance(
            key=f"u{i}",
            id=f"u{i}",
            audio=f"u{i}.wav",
            location="/nowhere",
            text="a",
            recording=f"r{i // per_split}",
            index=i,
            length=Samples(16_000),
        )
        for i in range(count)
    ]


def measure(splits: int, per_split: int, announce: bool) -> dict[str, float]:
    """Run splits one after another in one executor; return the device's share of the time from its first second."""
    with tempfile.TemporaryDirectory() as folder:
        plan = write_plan(f"{folder}/plan", "/nowhere", rows(splits * per_split, per_split), per_split / 3600)
        diary = f"{folder}/diary"
        job = Job(
            root=folder,
            rows_path=plan.rows_path,
            fingerprint="benchmark",
            steps=(DecodeConfig(), DeviceConfig(diary=diary)),
            sink=SinkConfig(),
            limits=Limits(batch_records=BATCH),
        )
        executor = SplitExecutor(job)
        for split in range(len(plan.sizes)):
            following = split + 1 if split + 1 < len(plan.sizes) else None
            executor.run(split, following if announce else None)
        executor.close()
        spans = [tuple(map(float, line.split())) for line in Path(diary).read_text().splitlines()]
    wall = spans[-1][1] - spans[0][0]
    return {"busy": round(sum(end - start for start, end in spans) / wall, 3), "seconds": round(wall, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--per-split", type=int, default=100)
    chosen = parser.parse_args()
    for name, announce in (("one split after another", False), ("ahead across splits", True)):
        print(json.dumps({"how": name, **measure(chosen.splits, chosen.per_split, announce)}), flush=True)


if __name__ == "__main__":
    from benchmarks import prefetch  # a child must find the configs by this name

    prefetch.main()
