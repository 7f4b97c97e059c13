"""Logs: one line for each event, parseable, with split and stage, without credentials."""

import ast
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.worker import COUNTED
from pipeline.log import VARIABLE, Log
from schemas.urls import without_secrets

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def told(monkeypatch, chosen, role="worker", root="/data/out", **fields):
    if chosen is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, chosen)
    stream = io.StringIO()
    Log(role=role, root=root, stream=stream).tell("split_done", **fields)
    return stream.getvalue()


def test_a_json_line_names_split_stage_role_and_dataset(monkeypatch):
    line = json.loads(told(monkeypatch, "json", split=7, stage="align", seconds=1.5))
    assert {k: line[k] for k in ("event", "level", "role", "dataset", "split", "stage", "seconds")} == {
        "event": "split_done", "level": "info", "role": "worker", "dataset": "/data/out", "split": 7,
        "stage": "align", "seconds": 1.5,
    }  # fmt: skip
    assert {"time", "pid", "host"} <= set(line)


def test_split_and_stage_are_there_even_where_there_is_none(monkeypatch):
    line = json.loads(told(monkeypatch, "json"))
    assert line["split"] is None
    assert line["stage"] is None
    assert "split=- stage=-" in told(monkeypatch, "text")


def test_a_field_cannot_pass_for_what_we_say(monkeypatch):
    assert json.loads(told(monkeypatch, "json", split=1, error="x", role="engine"))["role"] == "engine"
    line = json.loads(told(monkeypatch, "json", split=1, **{"pid": "forged"}))
    assert line["pid"] != "forged"


@given(error=TEXTS, name=st.sampled_from(["json", "text"]))
def test_an_event_is_one_line_whatever_its_fields_hold(error, name):
    with pytest.MonkeyPatch.context() as patch:
        text = told(patch, name, split=1, error=error)
        assert len(text.splitlines()) == 1
        assert text.endswith("\n")
        if name == "json":
            assert json.loads(text)["error"] == without_secrets(error)


def test_the_driver_is_silent_unless_asked_or_warned(monkeypatch):
    assert told(monkeypatch, None, role="driver") == ""
    assert told(monkeypatch, None, role="driver", level="warning") != ""
    assert told(monkeypatch, "text", role="driver") != ""
    assert told(monkeypatch, "json", role="driver") != ""
    assert told(monkeypatch, None, role="worker") != ""


def test_an_unknown_form_is_an_error_that_names_the_variable(monkeypatch):
    with pytest.raises(ValueError, match="INTERLOOM_LOG=xml: use json or text"):
        told(monkeypatch, "xml")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("s3://user:hunter2@host/bucket", "s3://host/bucket"),
        ("GET https://h/x?X-Amz-Signature=abc&y=1", "GET https://h/x?X-Amz-Signature=...&y=1"),
        ("token=abc123 rest", "token=... rest"),
        ("AWS_SECRET_ACCESS_KEY=zzz", "AWS_SECRET_ACCESS_KEY=..."),
        ("password=abc", "password=..."),
        ("key=utt-1 stays", "key=utt-1 stays"),
        ("/home/u/a@b.wav", "/home/u/a@b.wav"),
    ],
)
def test_credentials_are_left_out(monkeypatch, text, clean):
    assert without_secrets(text) == clean
    assert json.loads(told(monkeypatch, "json", error=text))["error"] == clean
    assert json.loads(told(monkeypatch, "json", root=text))["dataset"] == clean


def events_in_the_code():
    """Event to (level, fields) of every call of `Log.tell`."""
    found = {}
    for package in ("pipeline", "jobs", "stages"):
        for path in Path(package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "tell" and node.args:
                    assert isinstance(node.args[0], ast.Constant), f"{path}: an event is a word of its own"
                    given = {word.arg: word.value for word in node.keywords}
                    level = given["level"].value if "level" in given else "info"
                    fields = given.keys() - {"level", "split", "stage", None} | (
                        set(COUNTED) if None in given else set()
                    )
                    found.setdefault(node.args[0].value, []).append((level, fields))
    return found


def test_the_documentation_lists_the_events_and_their_fields():
    text = Path("docs/operations.md").read_text().partition("| event |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines()[2:]]
    told = {
        row[0].strip("` "): (row[2], set(re.findall("`([^`]+)`", row[-1])) if len(row) == 4 else set()) for row in rows
    }
    code = events_in_the_code()
    assert len(code) >= 10
    assert {event: [what] for event, what in told.items()} == code
