"""Requests that a build makes to an S3 server, counted at the server (needs moto).

    python -m benchmarks.scale_store                  requests of a build, for each split and each of its files
    python -m benchmarks.scale_store status 2000      requests and seconds of one look at so many splits
    python -m benchmarks.scale_store status 5000 --delay 0.1     the same, each answer held back for so many seconds
    python -m benchmarks.scale_store list 100000 --delay 0.1     the listing of `shards/`, page after page and by prefix

Jobs of 8 and of 24 splits, whose sinks write 1 or 4 files, run through the driver, the local engine and the executor.
The differences tell what a split costs, and what each of its files costs. LIST depends on how long a run takes: the
driver looks every few seconds.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from pipeline.drive import EngineSettings, drive
from pipeline.job import Job, Outcome
from pipeline.plan import write_plan
from schemas.records import Utterance

FEW, MANY = 8, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """A sink that writes so many small files for each split."""

    files: int

    def setup(self) -> "Files":
        return Files(self)


class Files:
    def __init__(self, config: FilesConfig) -> None:
        self._config = config

    def write(self, split: int, outcomes: Iterable[Outcome], folder: Path) -> dict[str, Any]:
        count = len(list(outcomes))
        for number in range(self._config.files):
            (folder / f"file-{split:06d}.{number}").write_text("x")
        return {"inputs": count, "records": count, "rejects": 0, "reasons": {}}


class Listing:
    """Answers LIST requests for one folder, a thousand names each, by bisection: moto walks through all its objects."""

    def __init__(self, folder: str, sizes: dict[str, int]) -> None:
        self._folder, self._names, self._sizes = folder, sorted(sizes), sizes

    def answer(self, environ: Any, start: Any) -> list[bytes] | None:
        """Return a page of a listing by version 2, None where another folder is asked for."""
        asked = dict(parse_qsl(environ.get("QUERY_STRING", "")))
        prefix = asked.get("prefix", "")
        if "list-type" not in asked or not prefix.startswith(self._folder):
            return None
        first = bisect_left(self._names, max(prefix, asked.get("continuation-token", "")))
        last = min(first + 1000, bisect_left(self._names, prefix + chr(0x10FFFF)))
        more = last == first + 1000 and last < len(self._names) and self._names[last].startswith(prefix)
        objects = "".join(
            f"<Contents><Key>{name}</Key><Size>{self._sizes[name]}</Size><ETag>&quot;{0:032x}&quot;</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for name in self._names[first:last]
        )
        token = f"<NextContinuationToken>{self._names[last]}</NextContinuationToken>" if more else ""
        start("200 OK", [("Content-Type", "application/xml")])
        return [
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{objects}</ListBucketResult>".encode()
        ]


def serve(delay: float = 0.0, listings: Sequence[Listing] = ()) -> Counter[str]:
    """Start an S3 server in this process, point the environment to it; return its count of requests by kind.

    Args:
        delay: seconds that each request waits before it is worked on, beside the others.
        listings: asked first; may grow.
    """
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    counts: Counter[str] = Counter()
    inside = DomainDispatcherApplication(create_backend_app)

    def counted(environ: Any, start: Any) -> Any:
        method = environ["REQUEST_METHOD"]
        listed = method == "GET" and "list-type" in environ.get("QUERY_STRING", "")
        counts["LIST" if listed else method] += 1
        time.sleep(delay)
        for listing in listings:
            if (page := listing.answer(environ, start)) is not None:
                return page
        return inside(environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, counted, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return counts


def look(splits: int, delay: float) -> dict[str, Any]:
    """Look at a dataset of so many splits in the store; the objects are put into the server's memory directly."""
    import fsspec
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    from benchmarks.scale import write_splits
    from pipeline.status import Observer

    listings: list[Listing] = []
    counts = serve(delay, listings)
    fsspec.filesystem("s3").mkdir("bucket")
    with tempfile.TemporaryDirectory(prefix="interloom-scale-") as folder:
        write_splits(Path(folder) / "out", splits)
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                backend.put_object("bucket", str(path.relative_to(folder)), path.read_bytes())
        files = (Path(folder) / "out" / "shards").iterdir()
        listings.append(Listing("out/shards/", {f"out/shards/{path.name}": path.stat().st_size for path in files}))
    observer = Observer("s3://bucket/out")
    counts.clear()
    begun = time.monotonic()
    found = observer.look()
    seconds = time.monotonic() - begun
    return {
        "committed": found.committed,
        "read": found.counts.splits,
        "requests": dict(counts),
        "wall_s": round(seconds, 2),
    }


def list_splits(splits: int, delay: float) -> dict[str, Any]:
    """List a folder of so many splits of five files each, page after page and by prefix."""
    from pipeline.status_files import commit_times

    names = [
        f"out/shards/{name}"
        for split in range(splits)
        for name in (
            *(f"shard-{split:06d}.{ending}" for ending in ("commit.json", "stats.parquet", "tar", "tar.idx")),
            f"rejects-{split:06d}.jsonl",
        )
    ]
    counts = serve(delay, [Listing("out/shards/", dict.fromkeys(names, 1000))])
    found = {}
    for how, planned in (("page_after_page", 0), ("by_prefix", splits)):
        counts.clear()
        cpu, begun = time.process_time(), time.monotonic()
        committed = len(commit_times("s3://bucket/out", planned))
        wall, cpu = time.monotonic() - begun, time.process_time() - cpu
        found[how] = {
            "committed": committed,
            "cpu_s": round(cpu, 1),
            "wall_s": round(wall, 1),
            "requests": dict(counts),
        }
    return found


def count(splits: int, files: int) -> dict[str, int]:
    """Run a job on a fresh server; return its requests by kind."""
    counts = serve()
    import fsspec

    fsspec.filesystem("s3").mkdir("bucket")
    rows = [_row(i) for i in range(splits)]
    plan = write_plan("s3://bucket/out/plan", "/nowhere", rows, 10 / 3600)
    job = Job(root="s3://bucket/out", rows_path=plan.rows_path, fingerprint="f" * 16, sink=FilesConfig(files=files))
    counts.clear()
    drive(job, plan, EngineSettings(workers=1), lambda *_: None)
    return dict(counts)


def _row(index: int) -> Utterance:
    return Utterance(
        key=f"u{index}", id=f"u{index}", audio="a.wav", location="/nowhere/a.wav", text="a", recording=f"r{index}",
        index=index, length=160_000,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("build", "status", "list"), default="build")
    parser.add_argument("splits", nargs="?", type=int, default=2000)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each request of `status`, `list` waits")
    args = parser.parse_args()
    if args.what != "build":
        measure = look if args.what == "status" else list_splits
        print(json.dumps({"splits": args.splits, **measure(args.splits, args.delay)}, sort_keys=True))
        return
    from benchmarks import scale_store  # by this name the engine process finds the sink

    found = {}
    for splits, files in ((FEW, 1), (MANY, 1), (MANY, 4)):
        with get_context("spawn").Pool(1) as pool:  # one server for each process
            found[splits, files] = pool.apply(scale_store.count, (splits, files))
    kinds = sorted(set().union(*found.values()))
    few, many, more = (found[key] for key in ((FEW, 1), (MANY, 1), (MANY, 4)))
    file = {kind: (more.get(kind, 0) - many.get(kind, 0)) / MANY / 3 for kind in kinds}
    split = {kind: (many.get(kind, 0) - few.get(kind, 0)) / (MANY - FEW) - file[kind] for kind in kinds}
    json.dump({"each_file": file, "each_split": split}, sys.stdout, sort_keys=True)
    print()


if __name__ == "__main__":
    main()
