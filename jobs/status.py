"""`interloom status`: a look at a folder, a table that refreshes, a Prometheus file, and a summary for a ticket."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from jobs.amounts import duration
from jobs.status_summary import stage_records, summary_text, tidy
from pipeline.metrics import metrics, write_prometheus
from pipeline.status import Observer, Status

SHOWN = 5
"""Failures, and records with strikes, that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the caller asked for.

    Attributes:
        watch: seconds between looks, None for a single one.
        prometheus: file that gets the metrics, if any.
        summary: print the block for a ticket instead of lines.
        as_json: print JSON instead of lines.
        everything: read every commit record and timing.
    """

    watch: float | None = None
    prometheus: str | None = None
    summary: bool = False
    as_json: bool = False
    everything: bool = False


def status_step(console: Console, folder: str, wanted: Wanted) -> None:
    """Look once, or again and again until the dataset is finished or the user interrupts."""
    observer = Observer(folder, everything=wanted.everything or wanted.summary)
    if wanted.watch is not None:
        _watch(console, observer, wanted, wanted.watch)
        return
    status = observer.look()
    _export(status, wanted)
    if wanted.summary:
        click.echo(summary_text(status), nl=False)
    elif wanted.as_json:
        click.echo(json.dumps(as_json(status), indent=2, sort_keys=True))
    else:
        for line in lines_of(status, time.time()):
            console.print(line, markup=False)


def _watch(console: Console, observer: Observer, wanted: Wanted, seconds: float) -> None:
    status = observer.look()
    _export(status, wanted)
    if not console.is_terminal:
        while True:
            print(one_line(status, time.time()), flush=True)
            if status.finished:
                return
            time.sleep(seconds)
            status = observer.look()
            _export(status, wanted)
    with Live(_table(status), console=console, auto_refresh=False) as live:
        while not status.finished:
            time.sleep(seconds)
            status = observer.look()
            _export(status, wanted)
            live.update(_table(status), refresh=True)
        live.refresh()


def _export(status: Status, wanted: Wanted) -> None:
    if wanted.prometheus is not None:
        path = wanted.prometheus if "://" in wanted.prometheus else os.path.abspath(wanted.prometheus)
        write_prometheus(status, path, time.time())


def lines_of(status: Status, now: float) -> list[str]:
    """Return the plain lines of one look; the first says it all."""
    fitted = "fitted" if status.fitted else "not fitted yet"
    hours = f"{status.audio_seconds_done / 3600:.3f}/{status.audio_seconds / 3600:.3f} h"
    ended = "finished" if status.finished else "not finished"
    lines = [f"{status.root}: {fitted}; {status.committed:,}/{status.planned:,} splits committed, {hours}; {ended}"]
    if not status.finished and (pace := _pace(status, now)):
        lines.append(f"  {pace}")
    if status.counts.splits:
        lines.append(f"  {_counted(status)}")
    lines += [f"  rejected: {count:,} {reason}" for reason, count in status.counts.reasons.items()]
    if passed := stage_records(status):
        lines.append(f"  stages, records out of in: {passed}")
    lines += list(_shown(f"  failed: {tidy(failure.error, status.root)}" for failure in status.failures))
    lines += list(
        _shown(
            f"  split {strike.split}: record {strike.key} killed its worker {strike.count} times"
            for strike in status.struck
        )
    )
    return lines


def one_line(status: Status, now: float) -> str:
    """Return a look as one line of a log."""
    parts = [
        f"{status.committed}/{status.planned} splits",
        f"{status.audio_seconds_done / 3600:.2f}/{status.audio_seconds / 3600:.2f} h",
        _pace(status, now),
        f"{status.counts.rejects:,} rejects{_of(status)}",
        f"{len(status.failures)} failures" if status.failures else "",
        f"{len(status.struck)} records with strikes" if status.struck else "",
        "finished" if status.finished else "",
    ]
    return "; ".join(part for part in parts if part)


def _pace(status: Status, now: float) -> str:
    parts = []
    if status.rate is not None:
        parts.append(f"{status.rate:.1f} s of audio per second")
    if status.eta_seconds is not None and not status.finished:
        parts.append(f"about {duration(status.eta_seconds)} to go")
    if status.times and not status.finished:
        parts.append(f"last commit {duration(max(0.0, now - max(status.times.values())))} ago")
    return ", ".join(parts)


def _counted(status: Status) -> str:
    counts = status.counts
    return f"{counts.inputs:,} inputs = {counts.records:,} records + {counts.rejects:,} rejects{_of(status)}"


def _of(status: Status) -> str:
    """Say which part of the commit records was read, where it was not all of them."""
    read = status.counts.splits
    return "" if read == status.committed else f" (in {read:,} of {status.committed:,} commit records; --all reads all)"


def _shown(lines: Iterable[str]) -> Iterable[str]:
    every = list(lines)
    yield from every[:SHOWN]
    if len(every) > SHOWN:
        yield f"  and {len(every) - SHOWN:,} more"


def _table(status: Status) -> Table:
    table = Table(title=status.root, title_justify="left", show_header=False)
    share = status.audio_seconds_done / status.audio_seconds if status.audio_seconds else 0.0
    table.add_row("splits", f"{status.committed:,} of {status.planned:,}")
    table.add_row(
        "audio", f"{status.audio_seconds_done / 3600:,.3f} of {status.audio_seconds / 3600:,.3f} h ({share:.1%})"
    )
    table.add_row("pace", _pace(status, time.time()) or "-")
    table.add_row("ledger", _counted(status))
    for reason, count in status.counts.reasons.items():
        table.add_row(f"rejected: {reason}", f"{count:,}")
    if passed := stage_records(status):
        table.add_row("stages, records out of in", passed)
    for failure in status.failures[:SHOWN]:
        table.add_row(f"failed: split {failure.split}", tidy(failure.error, status.root)[:300])
    for strike in status.struck[:SHOWN]:
        table.add_row(f"strikes: split {strike.split}", f"{strike.key}: {strike.count}")
    table.add_row("state", "finished" if status.finished else "not finished")
    return table


def as_json(status: Status) -> dict[str, object]:
    """Return a look as JSON values: the metrics by name, reasons and stages as objects, failures and strikes."""
    found: dict[str, object] = {
        metric.name: metric.samples[0][1]
        for metric in metrics(status, time.time())
        if metric.samples[:1] and not metric.samples[0][0]
    }
    found |= {"dataset": status.root, "finished": status.finished, "fitted": status.fitted}
    found["rejects"] = dict(status.counts.reasons)
    found["stage_cpu_seconds"] = status.stage_seconds
    found["stage_records"] = {
        stage: {"in": counts.came, "out": counts.left, "rejected": counts.rejected}
        for stage, counts in status.stage_passed.items()
    }
    found["failures"] = [{"error": f.error, "split": f.split} for f in status.failures]
    found["strikes"] = [{"count": s.count, "key": s.key, "split": s.split} for s in status.struck]
    return found
