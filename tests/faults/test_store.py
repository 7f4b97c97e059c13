"""A build on a store whose server is killed and started again, while somebody reads all the time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.commit import committed_splits
from pipeline.drive import EngineSettings, drive
from pipeline.storage import join, list_names, read_bytes, read_json
from schemas.records import Clip
from schemas.rejects import Reason, Reject
from tests.faults.s3 import BUCKET, Proxy, Server, bucket
from tests.pipeline.test_executor import keys
from tests.poison import PoisonConfig, job_for, utterances

SPLITS = 40
LOCAL = EngineSettings(engine="local", workers=2, stall_seconds=200)


def quiet(*_: object) -> None:
    """No progress is shown."""


class Reader(threading.Thread):
    """Looks at everything that can be seen, all the time, and notes what is not as it must be.

    Attributes:
        looks: rounds that were made.
        records: commit records that were read and held.
        bad: what should not have been seen.
    """

    def __init__(self, root: str, expected: dict[str, int]) -> None:
        super().__init__(daemon=True)
        self._root, self._expected, self._stop_asked = root, expected, threading.Event()
        self.looks = self.records = 0
        self.bad: list[str] = []

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self._look()
            except OSError:
                time.sleep(0.1)  # the server is away

    def _look(self) -> None:
        names = list_names(join(self._root, "shards"))
        for name, size in names.items():
            if name.startswith("lines-") and size != self._expected[name]:
                self.bad.append(f"{name} has {size} bytes")
        for split in sorted(committed_splits(names))[-3:]:
            record = read_json(join(self._root, "shards", f"shard-{split:06d}.commit.json"))
            if record is None:
                self.bad.append(f"the record of split {split} is listed, and torn")
                continue
            for name, file in record["files"].items():
                data = read_bytes(join(self._root, "shards", name))
                if data is None or len(data) != file["bytes"]:
                    self.bad.append(f"{name} is not what its record says")
            self.records += 1
        self.looks += 1

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def outages(server: Server, proxy: Proxy, root: str) -> list[str]:
    """Cut an upload, kill the server and bring it back, drop the line: each once some splits are there."""
    done: list[str] = []

    def after(count: int) -> None:
        while len(committed_splits(list_names(join(root, "shards")))) < count:
            time.sleep(0.2)

    after(3)
    proxy.cut_after = 700  # bytes: in the midst of a record or of a file
    done.append("cut")
    after(8)
    server.kill()
    proxy.down = True  # until it has its memory back
    time.sleep(2.0)
    server.start()
    proxy.down = False
    done.append("server killed")
    after(20)
    proxy.swallow = ".commit.json"
    done.append("response lost")
    after(25)
    proxy.down = True
    proxy.drop_all()
    time.sleep(3.0)
    proxy.down = False
    done.append("line down")
    return done


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_killed_in_mid_build_costs_nothing(tmp_path: Path) -> None:
    poison = PoisonConfig(seconds=0.05)
    calm, plan = job_for(tmp_path / "calm", poison, count=4 * SPLITS)
    drive(calm, plan, LOCAL, quiet)
    expected: dict[str, Any] = {path.name: path.read_bytes() for path in (tmp_path / "calm" / "shards").iterdir()}
    with bucket(tmp_path) as (server, proxy):
        root = f"s3://{BUCKET}/out"
        job, plan = job_for(root, poison, count=4 * SPLITS)
        reader = Reader(root, {name: len(data) for name, data in expected.items()})
        reader.start()
        with ThreadPoolExecutor(1) as pool:
            weather = pool.submit(outages, server, proxy, root)
            records = drive(job, plan, LOCAL, quiet)
            assert weather.result() == ["cut", "server killed", "response lost", "line down"]
        reader.stop()
        assert sum(record["records"] for record in records.values()) == 4 * SPLITS == len(keys(*range(SPLITS)))
        found = {name: read_bytes(join(root, "shards", name)) for name in list_names(join(root, "shards"))}
    assert found == expected
    assert reader.bad == []
    assert reader.records > SPLITS
    assert proxy.cuts == 2


@pytest.mark.slow
def test_audio_is_read_from_a_store(tmp_path: Path) -> None:
    import numpy as np
    import s3fs
    import soundfile

    from stages.decode import DecodeConfig

    tone = (np.sin(np.arange(32_000) / 20) * 8000).astype(np.int16)
    soundfile.write(tmp_path / "tone.flac", tone, 16_000)
    there, missing = [
        replace(row, location=f"s3://{BUCKET}/audio/{name}", length=None)
        for row, name in zip(utterances(2), ("tone.flac", "none.flac"), strict=True)
    ]
    with bucket(tmp_path):
        s3fs.S3FileSystem().put_file(str(tmp_path / "tone.flac"), f"{BUCKET}/audio/tone.flac")
        clip, reject = DecodeConfig().setup().process([there, missing])
    assert isinstance(clip, Clip)
    assert np.array_equal(clip.pcm, tone)
    assert isinstance(reject, Reject)
    assert reject.reason == Reason.MISSING_AUDIO
