"""What a build costs: CPU by stage, overhead by engine, memory by worker, on the corpus repeated to some length.

    python -m benchmarks.run --minutes 30 --long-minutes 120

Overhead is the share of the workers' time, from the start of the first split to the return of the driver, in which no
split was being worked on; the CPU share is what the process tree spent outside of splits after start-up. Loading of
models and the start of the engine are reported apart.
"""

import argparse
import json
import os
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from pipeline.build import RunSettings, build_job, make_plan, run_fit
from pipeline.drive import EngineSettings, drive
from pipeline.engines import ENGINES, EngineName
from pipeline.job import Job
from pipeline.plan import Plan
from pipeline.recipes import load_recipe
from pipeline.storage import list_names, read_json

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "examples" / "corpus" / "manifest.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="audio for the comparison of engines")
    parser.add_argument(
        "--long-minutes", type=float, default=120.0, help="audio for the memory check; 0 to leave it out"
    )
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="interloom-bench-") as folder:
        run(options, Path(folder), Console(width=110))


def run(options: argparse.Namespace, folder: Path, console: Console) -> None:
    recipe = load_recipe("embedded")
    fitted = RunSettings(out=str(folder / "fit"), engine=EngineSettings(workers=options.workers))
    make_plan(str(CORPUS), recipe, fitted.out)
    artifacts = run_fit(recipe, fitted, quiet)
    results = []
    jobs = [(name, options.minutes) for name in options.engines]
    if options.long_minutes:
        jobs.append((options.engines[0], options.long_minutes))
    for engine, minutes in jobs:
        manifest = repeated(folder / f"{minutes:g}.jsonl", minutes)
        settings = replace(fitted, out=str(folder / f"{engine}-{minutes:g}"))
        plan = make_plan(str(manifest), recipe, settings.out)
        job = build_job(recipe, plan, artifacts, settings)
        results.append(measure(engine, job, plan, options.workers))
        show(console, results)
    show_stages(console, results[0])


def repeated(path: Path, minutes: float) -> Path:
    """Write a manifest that repeats the corpus, with ids and recordings of their own."""
    rows = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    import soundfile

    lengths = [row.get("duration") or soundfile.info(CORPUS.parent / row["audio_filepath"]).duration for row in rows]
    count = max(1, round(minutes * 60 / sum(lengths) + 0.5))
    with open(path, "w") as file:
        for turn in range(count):
            for row in rows:
                audio = str(CORPUS.parent / row["audio_filepath"])
                names = {"id": f"{turn}-{row['id']}", "recording": f"{turn}-{row['recording']}"}
                file.write(json.dumps({**row, **names, "audio_filepath": audio}) + "\n")
    return path


def measure(engine: EngineName, job: Job, plan: Plan, workers: int) -> dict[str, Any]:
    """Build once and return the figures."""
    with TreeMonitor() as monitor:
        began = time.time()
        drive(job, plan, EngineSettings(engine=engine, workers=workers), quiet)
        ended = time.time()
    folder = Path(job.root) / "work" / "timings"
    timings = [read_json(str(folder / name)) for name in sorted(list_names(str(folder)))]
    started = min(timing["started"] for timing in timings)
    window = ended - started
    stages: dict[str, float] = {}
    for timing in timings:
        for stage, seconds in timing["seconds"]:
            stages[stage] = stages.get(stage, 0.0) + seconds
    result = {
        "engine": engine,
        "audio": sum(timing["audio_seconds"] for timing in timings),
        "splits": len(timings),
        "start_up": started - began,
        "window": window,
        "overhead": 1 - sum(timing["wall"] for timing in timings) / (workers * window),
        "tree_cpu": monitor.cpu_after(started),
        "stage_cpu": sum(stages.values()),
        "stages": stages,
        "peak_worker": max(timing["peak_rss_bytes"] for timing in timings),
        "peak_tree": monitor.peak,
        "workers": workers,
    }
    shutil.rmtree(job.root)
    return result


class TreeMonitor:
    """Samples CPU time and memory of all our descendants; good to a sampling step."""

    def __init__(self, step: float = 0.25) -> None:
        self._step, self._stop = step, threading.Event()
        self._cpu: dict[tuple[int, float], float] = {}
        self._history: list[tuple[float, float]] = []
        self.peak = 0

    def __enter__(self) -> "TreeMonitor":
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def cpu_after(self, moment: float) -> float:
        """Return CPU seconds spent since a moment."""
        before = max((cpu for at, cpu in self._history if at <= moment), default=0.0)
        return self._history[-1][1] - before

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(self._step):
            memory = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    times, created = process.cpu_times(), process.create_time()
                    memory += process.memory_info().rss
                except psutil.Error:
                    continue
                self._cpu[(process.pid, created)] = times.user + times.system
            self.peak = max(self.peak, memory)
            self._history.append((time.time(), sum(self._cpu.values())))


def show(console: Console, results: list[dict[str, Any]]) -> None:
    """Print the comparison so far."""
    table = Table(title=f"Engines, {results[0]['workers']} workers", title_justify="left")
    heads = ("engine", "audio min", "splits", "start-up s", "run s", "x real time", "overhead, wall", "overhead, CPU")
    for head in (*heads, "worker MiB", "tree MiB"):
        table.add_column(head, justify="right")
    for found in results:
        table.add_row(
            found["engine"],
            f"{found['audio'] / 60:.1f}",
            str(found["splits"]),
            f"{found['start_up']:.1f}",
            f"{found['window']:.1f}",
            f"{found['audio'] / found['window']:.1f}",
            f"{found['overhead']:.1%}",
            f"{1 - found['stage_cpu'] / found['tree_cpu']:.1%}",
            f"{found['peak_worker'] / 2**20:.0f}",
            f"{found['peak_tree'] / 2**20:.0f}",
        )
    console.print(table)


def show_stages(console: Console, found: dict[str, Any]) -> None:
    """Print the cost of each stage."""
    table = Table("stage", "CPU s", "CPU s per audio s", title=f"Stages, {found['engine']}", title_justify="left")
    for stage, seconds in found["stages"].items():
        table.add_row(stage, f"{seconds:.1f}", f"{seconds / found['audio']:.4f}")
    table.add_row("all", f"{found['stage_cpu']:.1f}", f"{found['stage_cpu'] / found['audio']:.4f}")
    console.print(table)


def quiet(*_: object) -> None:
    """Show no progress."""


if __name__ == "__main__":
    main()
