"""What a person sees: progress, the summary of a run, and what to do next."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from jobs.terminal import safe_console
from pipeline import drive
from pipeline.status_files import Passed, Timing, add_passed, read_many
from pipeline.storage import join, list_names
from schemas.clock import SAMPLE_RATE
from schemas.rejects import Reason

PLAIN_SECONDS = 15.0
"""How often a log that is not a terminal gets a line."""

ADVICE = {
    Reason.BAD_ROW: "mend the named manifest lines",
    Reason.DUPLICATE_ID: "give every row an id of its own",
    Reason.MISSING_AUDIO: "check the audio paths; relative ones start at the manifest's folder",
    Reason.UNREADABLE_AUDIO: "copy or convert the named files again",
    Reason.EMPTY_AUDIO: "check the files' lengths and the manifest's offsets",
    Reason.TOO_SHORT: "or lower decode.min_seconds",
    Reason.TOO_LONG: "cut it at pauses, or raise decode.max_seconds",
    Reason.NOT_FINITE: "write the audio again",
    Reason.CLIPPED: "record at a lower level, or raise decode.max_clipped",
    Reason.SILENT: "check the channel, or lower decode.silence_dbfs",
    Reason.EMPTY_TEXT: "transcribe it",
    Reason.NO_WORDS: "transcribe it",
    Reason.UNSUPPORTED_SCRIPT: "use an aligner for its language",
    Reason.TOO_MANY_WORDS: "check that text and audio belong together",
    Reason.NO_ALIGNMENT: "check that text and audio belong together",
    Reason.WRONG_TRANSCRIPT: "check that text and audio belong together, or lower the qc scores",
    Reason.DOUBTFUL_WORDS: "listen to them in the report, or raise qc.max_doubtful_share",
    Reason.UNIT_COUNT: "report it: an extractor misbehaves",
    Reason.UNEXPECTED: "report it with the file",
    Reason.REMOVED: "taken down; see docs/takedown.md",
    Reason.CRASHED: "report it with the file; the run itself is unharmed",
}


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[drive.Progress]:
    """Show a bar on a terminal and a line now and then in a log."""
    if not console.is_terminal:
        yield _plain(console, label)
        return
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(label, total=None, note="starting")

        def show(done: int, planned: int, seconds: float, total: float) -> None:
            note = f"{done}/{planned} splits, {seconds / 3600:.2f}/{total / 3600:.2f} h"
            bar.update(task, completed=done, total=max(1, planned), note=note)

        yield show


def _plain(console: Console, label: str) -> drive.Progress:
    last = [0.0, -1.0]

    def show(done: int, planned: int, seconds: float, total: float) -> None:
        now = time.monotonic()
        if done != last[1] and (now - last[0] > PLAIN_SECONDS or done in (0, planned)):
            last[:] = [now, done]
            console.print(f"{label}: {done}/{planned} splits, {seconds / 3600:.2f}/{total / 3600:.2f} h of audio")

    return show


@dataclass(slots=True)
class StageSums:
    """Sums over the splits that were timed here.

    Attributes:
        costs: CPU seconds by stage.
        passed: records that came into each stage and that left it.
        audio: seconds decoded.
        peak: resident bytes of the largest worker.
    """

    costs: dict[str, float] = field(default_factory=dict)
    passed: dict[str, Passed] = field(default_factory=dict)
    audio: float = 0.0
    peak: int = 0


def stage_sums(root: str) -> StageSums:
    sums, folder = StageSums(), join(root, "work", "timings")
    for _, value in read_many(folder, sorted(list_names(folder))):
        if (timing := Timing.of(value)) is None:
            continue
        sums.audio += timing.audio_seconds
        sums.peak = max(sums.peak, timing.peak_rss_bytes)
        for stage, seconds in timing.seconds.items():
            sums.costs[stage] = sums.costs.get(stage, 0.0) + seconds
        add_passed(sums.passed, timing.passed)
    return sums


def print_summary(console: Console, root: str, info: Mapping[str, Any], wall: float) -> None:
    """Print counts, hours, the cost of each stage, rejects by reason and what to do next."""
    hours = info["num_samples"] / SAMPLE_RATE / 3600
    console.print(
        f"\n{info['name']} in {root}: {info['inputs']:,} inputs = {info['records']:,} records + "
        f"{info['rejects']:,} rejects; {hours:.3f} h in {info['splits']:,} shards; {wall:.0f} s"
    )
    _print_stages(console, stage_sums(root))
    if info["reasons"]:
        table = Table("reason", "rejects", "what to do", title="Rejects", title_justify="left")
        for reason, count in sorted(info["reasons"].items(), key=lambda item: -item[1]):
            table.add_row(reason, f"{count:,}", ADVICE.get(Reason(reason), ""))
        console.print(table)
        console.print(f"Each one with its file: {root}/shards/rejects-*.jsonl")


def _print_stages(console: Console, sums: StageSums) -> None:
    if not sums.audio:
        return
    columns = ("stage", "in", "out", "rejected", "CPU s", "CPU s per audio s")
    table = Table(*columns, title="Records and costs of the stages", title_justify="left")
    for stage, seconds in sums.costs.items():
        passed = sums.passed.get(stage)
        counts = [] if passed is None else [f"{count:,}" for count in (*passed, passed.rejected)]
        table.add_row(stage, *(counts or ("", "", "")), *_cost(seconds, sums.audio))
    table.add_row("all", "", "", "", *_cost(sum(sums.costs.values()), sums.audio))
    console.print(table)
    console.print(f"Largest worker: {sums.peak / 2**20:.0f} MiB")


def _cost(seconds: float, audio: float) -> tuple[str, str]:
    return f"{seconds:.1f}", f"{seconds / audio:.4f}"


def print_next(console: Console, *lines: str) -> None:
    console.print("Next", style="bold")
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def make_console() -> Console:
    return safe_console(soft_wrap=not sys.stdout.isatty())
