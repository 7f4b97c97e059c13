"""A build on a store whose server is killed and started again, while somebody reads all the time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commit import committed_splits
from pipeline.drive import EngineSettings, drive
from pipeline.storage import join, list_names, read_bytes, read_json
from schemas.records import Clip
from schemas.rejects import Reason, Reject
from tests.faults.s3 import BUCKET, Proxy, Server, bucket
from tests.pipeline.test_executor import keys
from tests.poison import LinesConfig, PoisonConfig, job_for, utterances

SPLITS = 40
LARGE = LinesConfig(large=2**20)
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

    def __init__(self, root: str, expected: dict[str, bytes]) -> None:
        super().__init__(daemon=True)
        self._root, self._expected, self._stop_asked = root, expected, threading.Event()
        self._seen: set[str] = set()
        self.looks = self.records = 0
        self.bad: list[str] = []

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                self._look()
            except OSError:
                time.sleep(0.1)  # the server is away
            except Exception as error:
                self.bad.append(f"the reader died: {error!r}")
                return

    def _look(self) -> None:
        names = list_names(join(self._root, "shards"))
        self.bad += [f"{name} has {size} bytes" for name, size in names.items() if size != len(self._expected[name])]
        self.bad += [f"{name} was there and is gone" for name in self._seen - set(names)]
        self._seen |= set(names)
        for split in sorted(committed_splits(names)):
            record = read_json(join(self._root, "shards", f"shard-{split:06d}.commit.json"))
            if record is None:
                self.bad.append(f"the record of split {split} is listed, and torn")
                continue
            for name in record["files"]:
                if read_bytes(join(self._root, "shards", name)) != self._expected[name]:
                    self.bad.append(f"{name} is not what its record says")
            self.records += 1
        self.looks += 1

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


def outages(server: Server, proxy: Proxy, root: str) -> list[str]:
    """Cut an upload, kill the server in the midst of one and bring it back, drop the line: each after some splits."""
    done: list[str] = []
    killed = threading.Event()

    def kill() -> None:
        server.kill()
        proxy.down = True  # until it has its memory back
        killed.set()

    def after(count: int) -> None:
        while len(committed_splits(list_names(join(root, "shards")))) < count:
            time.sleep(0.2)

    after(3)
    proxy.cut_after = 700  # bytes: in the midst of a record or of a file
    done.append("cut")
    after(8)
    proxy.in_put = (2**16, kill)
    assert killed.wait(120), "no upload of that size came"
    time.sleep(2.0)
    server.start()
    proxy.down = False
    done.append("server killed in mid-upload")
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
    drive(replace(calm, sink=LARGE), plan, LOCAL, quiet)
    expected = {path.name: path.read_bytes() for path in (tmp_path / "calm" / "shards").iterdir()}
    with bucket(tmp_path) as (server, proxy):
        root = f"s3://{BUCKET}/out"
        job, plan = job_for(root, poison, count=4 * SPLITS)
        reader = Reader(root, expected)
        reader.start()
        with ThreadPoolExecutor(1) as pool:
            weather = pool.submit(outages, server, proxy, root)
            weather.add_done_callback(lambda _: setattr(proxy, "down", False))  # a failure of it must be seen
            records = drive(replace(job, sink=LARGE), plan, LOCAL, quiet)
            assert weather.result() == ["cut", "server killed in mid-upload", "response lost", "line down"]
        reader.stop()
        assert sum(record["records"] for record in records.values()) == 4 * SPLITS == len(keys(*range(SPLITS)))
        found = {name: read_bytes(join(root, "shards", name)) for name in list_names(join(root, "shards"))}
    assert found == expected
    assert reader.bad == []
    assert reader.records > SPLITS
    assert proxy.cuts == 3


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
