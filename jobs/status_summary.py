"""The summary of a run as a block of plain text that an operator pastes into a ticket."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jobs.estimate_errors import compared
from pipeline.build import PlanError, planned, planned_recipe
from pipeline.finish import CODE_VERSION
from pipeline.recipes import RecipeError
from pipeline.status import Status
from pipeline.storage import join, list_names, read_json
from schemas.urls import without_secrets

PACKAGES = ("numpy", "pyarrow", "torch", "apache-beam", "ray", "s3fs")
SLOWEST = 5
FAILURES = 10


def summary_text(status: Status) -> str:
    """Return the block. Paths in it start at the dataset's folder; it holds no credentials and no transcripts."""
    lines = [
        "interloom run summary",
        *_field("dataset", status.root.rstrip("/").rsplit("/", 1)[-1]),
        *_field("versions", _versions()),
        *_field("recipe", _recipe(status)),
        *_field("state", _state(status)),
        *_field("splits", f"{status.committed:,} of {status.planned:,} committed"),
        *_field("audio", f"{status.audio_seconds_done / 3600:.3f} of {status.audio_seconds / 3600:.3f} h"),
        *_field("ledger", _ledger(status)),
        *_field(
            "rejects", ", ".join(f"{count:,} {reason}" for reason, count in status.counts.reasons.items()) or "none"
        ),
        *_field("stages", _stages(status)),
        *_field("stage records", stage_records(status) or "no timings"),
        *_field("estimate", compared(status)),
        *_field("slowest splits", _slowest(status)),
        *_field("failures", f"{len(status.failures):,}"),
        *(f"  split {failure.split}: {tidy(failure.error, status.root)}" for failure in status.failures[:FAILURES]),
        *_field("strikes", f"{len(status.struck):,}"),
        *(f"  split {strike.split}: {strike.key}, {strike.count} times" for strike in status.struck[:FAILURES]),
        *_field("logs", _logs(status.root)),
    ]
    return "".join(line + "\n" for line in lines)


def tidy(text: str, root: str) -> str:
    """Return an error as one line without credentials, the dataset's folder as DATASET and the user's home as ~."""
    line = without_secrets(" ".join(text.split()))
    plain = root.rstrip("/")
    if plain:
        line = line.replace(plain, "DATASET")
    home = str(Path.home())
    return line.replace(home + "/", "~/") if len(home) > 1 else line


def _field(name: str, value: str) -> list[str]:
    return [f"{name + ':':<16}{value}"]


def _versions() -> str:
    found = [
        f"interloom {CODE_VERSION}",
        f"python {sys.version.split()[0]}",
        f"{platform.system()} {platform.machine()}",
    ]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _recipe(status: Status) -> str:
    info = read_json(join(status.root, "dataset.json"))
    built = info.get("fingerprint", "unknown") if isinstance(info, dict) else "not finished"
    try:
        name = planned_recipe(status.root).name
    except (PlanError, RecipeError):
        name = "recipe.yaml is missing or damaged"
    return f"{name}; plan {planned(status.root).fingerprint}; build {built}"


def _state(status: Status) -> str:
    return ("fitted" if status.fitted else "not fitted") + (", finished" if status.finished else ", not finished")


def _ledger(status: Status) -> str:
    counts = status.counts
    balanced = "" if counts.inputs == counts.records + counts.rejects else " (DOES NOT ADD UP)"
    told = f"{counts.inputs:,} inputs = {counts.records:,} records + {counts.rejects:,} rejects{balanced}"
    return f"{told}; {status.inputs:,} rows planned; {counts.splits:,} commit records read"


def _stages(status: Status) -> str:
    audio = sum(timing.audio_seconds for timing in status.timings)
    if not audio:
        return "no timings"
    peak = max(timing.peak_rss_bytes for timing in status.timings)
    parts = ", ".join(f"{stage} {seconds / audio:.4f}" for stage, seconds in status.stage_seconds.items())
    return f"CPU s per audio s: {parts}; {len(status.timings):,} splits timed; largest worker {peak / 2**20:.0f} MiB"


def stage_records(status: Status) -> str:
    """Return what left each stage out of what came into it, and of how many splits; "" where nothing is known."""
    parts = ", ".join(f"{stage} {counts.left:,}/{counts.came:,}" for stage, counts in status.stage_passed.items())
    return parts and f"{parts}; {sum(bool(timing.passed) for timing in status.timings):,} splits counted"


def _slowest(status: Status) -> str:
    timed = sorted(status.timings, key=lambda timing: (-timing.wall, timing.split))[:SLOWEST]
    told: list[Any] = [f"{t.split} ({t.wall:.1f} s for {t.audio_seconds:.0f} s of audio)" for t in timed]
    return ", ".join(told) or "no timings"


def _logs(root: str) -> str:
    names = sorted(list_names(join(root, "work", "logs")))
    return ", ".join(f"DATASET/work/logs/{name}" for name in names[:20]) or "none in DATASET/work/logs"
