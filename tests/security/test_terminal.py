"""Hostile text never acts on a terminal: what is printed of data, of errors, and by every command that shows either."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from jobs import terminal
from jobs.console import make_console
from tests import audit_builders as builders

ROOT = Path(__file__).resolve().parents[2]
TITLE = "\x1b]0;owned\x07"
LINK = "\x1b]8;;http://example.invalid\x1b\\click\x1b]8;;\x1b\\"
PAINT = "\x1b[2J\x1b[31m"
C1 = "\x9b31m"
TURNED = "abc\u202ecod.exe\u2066"
MARKUP = "[red][link=http://example.invalid]laughter[/link] [/x]"
HOSTILE = (TITLE, LINK, PAINT, C1, TURNED, MARKUP)
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
OURS = re.compile(r"\x1b\[[0-9;]*m")
"""What a style of ours writes; data must not be able to."""


def printed(monkeypatch: pytest.MonkeyPatch, *things: object, colour: bool = False) -> str:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    console = terminal.safe_console(soft_wrap=True, force_terminal=colour, color_system="standard" if colour else None)
    for thing in things:
        console.print(thing)
    return out.getvalue()


@given(st.text())
def test_safe_text_acts_on_nothing_and_keeps_what_is_harmless(text: str) -> None:
    made = terminal.safe(text)
    assert not ACTS.search(made)
    assert len(made) == len(text)
    assert all(a == b or b == terminal.REPLACEMENT for a, b in zip(text, made, strict=True))
    assert terminal.safe(made) == made


@pytest.mark.parametrize("text", ["naïve", "日本語", "می‌خواهم", "हिन्दी", "👩‍👩‍👧", "a b\tc\n"])
def test_every_script_passes(text: str) -> None:
    assert terminal.safe(text) == text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_nothing_printed_acts(monkeypatch: pytest.MonkeyPatch, hostile: str) -> None:
    table = Table(hostile, title=hostile)
    table.add_row(hostile)
    made = printed(monkeypatch, hostile, Text(hostile), table, f"id {hostile}")
    assert not ACTS.search(made)


def test_brackets_in_a_transcript_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table("word")
    table.add_row("[laughter]")
    made = printed(monkeypatch, table, MARKUP)
    assert "[laughter]" in made
    assert MARKUP in made


def test_our_own_styles_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = printed(monkeypatch, Text(PAINT, style="bold"), colour=True)
    assert OURS.findall(made) == ["\x1b[1m", "\x1b[0m"]
    assert "\ufffd[2J\ufffd[31m" in made


def test_the_console_of_the_commands_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    console = make_console()
    for hostile in HOSTILE:
        console.print(hostile)
    assert not ACTS.search(out.getvalue())
    assert MARKUP in out.getvalue()


# The commands


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    hostile = "".join(HOSTILE)
    first = builders.record("a1", words=40, speaker=hostile, source=hostile, license=hostile, id=hostile, audio=hostile)
    second = builders.record("b1", words=40, speaker=TITLE, recording=PAINT)
    reject = {"key": "r~1", "id": hostile, "stage": "decode", "reason": "silent", "detail": hostile}
    return builders.write_dataset(
        tmp_path_factory.mktemp("terminal") / "data", [[first], [second]], [[reject], []]
    ).root


def interloom(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    out = (done.stdout + done.stderr).decode("utf-8")
    assert "Traceback" not in out
    assert not ACTS.search(out.replace("\r", "")), ACTS.findall(out)
    return out


@pytest.mark.slow
def test_every_command_that_shows_data_shows_it_as_text(dataset: Path) -> None:
    assert "[laughter]" not in MARKUP
    shown = interloom("inspect", str(dataset), "a1")
    assert "laughter[/link]" in shown
    interloom("audit", str(dataset), "--report", str(dataset.parent / "report.html"), "--examples", "1")
    interloom("policy", "--dataset", str(dataset))
    interloom("validate", str(dataset))
    interloom("verify", str(dataset))
    interloom("verify", str(dataset), "--json")
    interloom("status", str(dataset))


@pytest.mark.slow
def test_errors_show_hostile_names_as_text(dataset: Path, tmp_path: Path) -> None:
    hostile = "".join((TITLE, PAINT, C1, MARKUP.replace("/", "|")))
    manifest = tmp_path / f"{hostile}.csv"
    manifest.write_text(f"audio_filepath,{hostile}\n1,2\n")
    interloom("plan", "embedded", "--manifest", str(manifest), "--out", str(tmp_path / "out"))
    interloom("inspect", str(dataset), hostile)
    interloom("recipe", hostile)
    interloom("recipe", "embedded", "--set", f"{hostile}=1")
    names = tmp_path / "ids.txt"
    names.write_text(hostile + "\n")
    interloom("remove", str(dataset), "--ids", str(names))


@pytest.mark.slow
def test_a_noted_failure_is_shown_as_text(dataset: Path) -> None:
    failed = dataset / "work" / "failed"
    failed.mkdir(parents=True, exist_ok=True)
    (failed / "000000.json").write_text(json.dumps({"error": "".join(HOSTILE), "split": 0}))
    interloom("status", str(dataset))
