"""Structured logs: one line for each event, on standard error, that says which split and which stage it is about.

The environment variable INTERLOOM_LOG chooses the form: `json` for one JSON object a line, `text` for plain lines;
unset, it is `text`, and the driver, which shows its progress otherwise, is silent but for warnings. Engine processes
and workers inherit the variable. Logs hold no transcripts; credentials inside a URL are left out.
"""

import json
import os
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, Literal

from schemas.urls import without_secrets

VARIABLE = "INTERLOOM_LOG"
FORMS = ("json", "text")
Level = Literal["info", "warning", "error"]
Role = Literal["driver", "engine", "worker"]


def form() -> str:
    """Return how lines are written.

    Raises:
        ValueError: if INTERLOOM_LOG is neither `json` nor `text`.
    """
    chosen = os.environ.get(VARIABLE) or "text"
    if chosen not in FORMS:
        raise ValueError(f"{VARIABLE}={chosen}: use {' or '.join(FORMS)}")
    return chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Writes the events of one process.

    Attributes:
        role: which of our processes this is.
        root: the dataset's folder, which every line names.
        stream: where lines go; standard error where None.
    """

    role: Role
    root: str = ""
    stream: IO[str] | None = None

    def tell(
        self, event: str, *, level: Level = "info", split: int | None = None, stage: str | None = None, **fields: Any
    ) -> None:
        """Write one event.

        Args:
            event: what happened, a closed set of words per caller (`docs/operations.md` lists them).
            level: `info`, `warning` or `error`.
            split: the split it is about, None where it is about none.
            stage: the stage it is about, None where it is about none.
            fields: JSON values.
        """
        chosen = form()
        if chosen == "text" and self.role == "driver" and level == "info" and not os.environ.get(VARIABLE):
            return
        known = {
            "dataset": self.root,
            "event": event,
            "level": level,
            "role": self.role,
            "split": split,
            "stage": stage,
        }
        line = _as_json(known, fields) if chosen == "json" else _as_text(known, fields)
        stream = self.stream or sys.stderr
        stream.write(line + "\n")  # one write for each line, so that lines of several processes stay whole
        stream.flush()


def _as_json(known: dict[str, Any], fields: dict[str, Any]) -> str:
    clean = {name: without_secrets(value) if isinstance(value, str) else value for name, value in fields.items()}
    known["dataset"] = without_secrets(known["dataset"])
    where = {"host": socket.gethostname(), "pid": os.getpid(), "time": _now()}
    return json.dumps({**clean, **where, **known}, sort_keys=True)  # ASCII: no other line ends


def _as_text(known: dict[str, Any], fields: dict[str, Any]) -> str:
    split = "-" if known["split"] is None else f"{known['split']:06d}"
    told = "".join(f" {name}={_shown(value)}" for name, value in fields.items())
    head = f"{_now()} {known['level']} {known['role']} {known['event']} split={split} stage={known['stage'] or '-'}"
    return without_secrets(head + told)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if text and text.isprintable() and " " not in text and '"' not in text else json.dumps(text)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
