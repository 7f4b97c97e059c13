"""The status of a build in Prometheus's text format, for the textfile collector of node_exporter.

Every value is a gauge: it is counted anew from the folder each time, and a repair or a takedown may lower it. Names and
meanings stand in `docs/operations.md`. Format: https://prometheus.io/docs/instrumenting/exposition_formats/ (0.0.4).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from pipeline.status import Status
from pipeline.status_files import Passed
from pipeline.storage import publish_bytes

Labels = Mapping[str, str]


class Metric(NamedTuple):
    """One metric: its name, what it means in one line, and its samples."""

    name: str
    text: str
    samples: list[tuple[Labels, float]]


def metrics(status: Status, now: float) -> list[Metric]:
    """Return what is known of a folder; what is not known is left out.

    Args:
        status: a look at the folder.
        now: seconds since the epoch.
    """
    counts, passed = status.counts, status.stage_passed
    struck = Counter(strike.split for strike in status.struck)
    found = [
        _one("splits_planned", "Splits of the plan.", status.planned),
        _one("splits_committed", "Splits with a commit record.", status.committed),
        _one("splits_failed", "Splits whose last attempt failed.", len(status.failures)),
        _one("rows_planned", "Manifest rows of the plan.", status.inputs),
        _one("audio_seconds_planned", "Seconds of audio that are planned.", status.audio_seconds),
        _one("audio_seconds_committed", "Planned seconds of the committed splits.", status.audio_seconds_done),
        _one("commit_records_read", "Commit records that the counts below are summed over.", counts.splits),
        _one("inputs", "Inputs of the splits read.", counts.inputs),
        _one("records", "Records of the splits read.", counts.records),
        Metric("rejects", "Rejects of the splits read, by reason.", _labelled("reason", counts.reasons)),
        _one("records_struck", "Records of splits in work that killed a worker.", len(status.struck)),
        _one("splits_struck", "Splits in work with such a record.", len(struck)),
        _one("fitted", "1 once codebooks and tokenizer are there.", float(status.fitted)),
        _one("finished", "1 once dataset.json is there.", float(status.finished)),
        _one("timings_read", "Splits that the stages' seconds and records are summed over.", len(status.timings)),
        Metric("stage_cpu_seconds", "CPU seconds by stage.", _labelled("stage", status.stage_seconds)),
        _by_stage("stage_records_in", "Records that came into each stage.", passed, lambda counts: counts.came),
        _by_stage("stage_records_out", "Records that left each stage.", passed, lambda counts: counts.left),
        _by_stage(
            "stage_records_rejected", "Records that each stage rejected.", passed, lambda counts: counts.rejected
        ),
        _one("status_timestamp_seconds", "When this was written.", now),
    ]
    if status.timings:
        peak = max(timing.peak_rss_bytes for timing in status.timings)
        found.append(_one("worker_peak_rss_bytes", "Largest resident memory of a worker.", peak))
        audio = sum(timing.audio_seconds for timing in status.timings)
        found.append(_one("timed_audio_seconds", "Audio decoded in the splits timed.", audio))
    if status.times:
        found.append(_one("last_commit_timestamp_seconds", "The latest commit.", max(status.times.values())))
    if status.rate is not None:
        found.append(_one("audio_seconds_per_second", "Audio per second, by recent commits.", status.rate))
    if status.eta_seconds is not None and not status.finished:
        found.append(_one("eta_seconds", "Seconds to go at that rate.", status.eta_seconds))
    return found


def prometheus_text(found: Iterable[Metric], dataset: str) -> str:
    """Return the exposition; every sample carries the name of the dataset as a label.

    Args:
        found: metrics in the order they are written.
        dataset: what the operator calls it; any text.
    """
    lines: list[str] = []
    for metric in found:
        name = f"interloom_{metric.name}"
        lines += [f"# HELP {name} {_help(metric.text)}", f"# TYPE {name} gauge"]
        for labels, value in metric.samples:
            pairs = ",".join(f'{key}="{_value(text)}"' for key, text in {"dataset": dataset, **labels}.items())
            lines.append(f"{name}{{{pairs}}} {float(value)!r}")
    return "".join(line + "\n" for line in lines)


def write_prometheus(status: Status, path: str, now: float) -> None:
    """Write the file whole or not at all; while it is written its name does not end in `.prom`."""
    dataset = status.root.rstrip("/").rsplit("/", 1)[-1]
    publish_bytes(prometheus_text(metrics(status, now), dataset).encode(), path)


def _one(name: str, text: str, value: float) -> Metric:
    return Metric(name, text, [({}, value)])


def _labelled(label: str, values: Mapping[str, float]) -> list[tuple[Labels, float]]:
    return [({label: key}, value) for key, value in values.items()]


def _by_stage(name: str, text: str, passed: Mapping[str, Passed], value: Callable[[Passed], int]) -> Metric:
    return Metric(name, text, _labelled("stage", {stage: value(counts) for stage, counts in passed.items()}))


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _value(text: str) -> str:
    return _help(text).replace('"', '\\"')
