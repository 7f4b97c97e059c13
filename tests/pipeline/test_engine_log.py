"""What an engine prints: kept to a bound, on a full disk and with a store too."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline import engine_log
from pipeline.engine_log import EngineLog


def printed(root: str, *parts: bytes) -> EngineLog:
    """Return the log of an engine that printed so; it waits where the pipe is full."""
    log = EngineLog(root)
    for part in parts:
        os.write(log.theirs, part)
        assert log.take()
    log.handed_over()
    log.close()
    return log


def test_starts_append_and_each_keeps_its_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_log, "LOG_BYTES", 100)
    file = tmp_path / "work" / "logs" / "engine.log"
    assert printed(str(tmp_path), b"one\n", b"two\n").told() == f"; see {file}"
    assert file.read_bytes() == b"one\ntwo\n"
    printed(str(tmp_path), *[b"0123456789" * 100] * 50)
    assert file.read_bytes() == b"one\ntwo\n" + b"0123456789" * 10 + b"\n[49,900 bytes more left out]\n"
    printed(str(tmp_path), b"three")
    assert file.read_bytes() == b"three"
    assert file.with_name("engine.log.1").read_bytes().startswith(b"one")
    printed(str(tmp_path), b"x" * 100)
    printed(str(tmp_path), b"four")
    assert {path.name for path in file.parent.iterdir()} == {"engine.log", "engine.log.1"}
    assert file.with_name("engine.log.1").read_bytes() == b"three" + b"x" * 100


def test_a_full_disk_costs_lines_and_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EngineLog(str(tmp_path))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("builtins.open", full)
    for _ in range(100):
        os.write(log.theirs, b"x" * 2**16)
        assert log.take()
    log.handed_over()
    log.close()
    monkeypatch.undo()
    assert Path(log.path).read_bytes() == b""


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "; it said nothing"),
        (b"https://user:" + b"hunter2@" * 10_000 + b"\nthe end\n\n", "; its last lines: the end"),
        (b"at https://user:hunter2@host/out?token=abc\n", "; its last lines: at https://host/out?token=..."),
    ],
)
def test_with_a_store_the_last_lines_are_kept_and_half_a_line_is_not_shown(data: bytes, told: str) -> None:
    log = EngineLog("memory://out")
    os.write(log.theirs, data)
    log.handed_over()
    assert log.told() == told
    log.close()


def test_a_log_is_open_for_as_long_as_somebody_can_write(tmp_path: Path) -> None:
    log = EngineLog(str(tmp_path))
    other = os.dup(log.theirs)
    log.handed_over()
    assert log.take()  # nothing yet
    os.write(other, b"a worker that outlives the engine")
    os.close(other)
    log.close()
    assert Path(log.path).read_bytes() == b"a worker that outlives the engine"
