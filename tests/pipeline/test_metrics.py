"""Prometheus's text format, held against a strict parser written from the format's description."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.metrics import Metric, metrics, prometheus_text, write_prometheus
from pipeline.status import Observer
from pipeline.storage import publish_json
from tests.takedown_builders import build_dataset

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
ESCAPES = {"\\": "\\", "n": "\n", '"': '"'}


def unescaped(text, quotes):
    out, position = "", 0
    while position < len(text):
        char = text[position]
        if char == "\\":
            position += 1
            assert text[position] in (ESCAPES if quotes else "\\n"), text
            char = ESCAPES[text[position]]
        position += 1
        out += char
    return out


def parse(text):
    """Parse format 0.0.4: HELP and TYPE once, before the samples of their metric, which stand together.

    Returns help texts by name, and samples as {(name, frozenset of label pairs): value}.
    """
    assert text.endswith("\n")
    helps, kinds, samples, current = {}, {}, {}, None
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            name, _, rest = line.removeprefix("# HELP ").partition(" ")
            assert NAME.fullmatch(name)
            assert name not in helps
            helps[name] = unescaped(rest, quotes=False)
        elif line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in kinds
            assert name in helps
            assert kind == "gauge"
            kinds[name], current = kind, name
        else:
            match = re.fullmatch(r"([^{ ]+)\{((?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\} (\S+)", line)
            assert match is not None, line
            assert match[1] == current
            pairs = re.findall(r"([^=,]+)=\"((?:[^\"\\]|\\.)*)\"", match[2])
            assert ",".join(f'{label}="{value}"' for label, value in pairs) == match[2]
            assert all(LABEL.fullmatch(label) for label, _ in pairs)
            key = (match[1], frozenset((label, unescaped(value, quotes=True)) for label, value in pairs))
            assert key not in samples
            samples[key] = float(match[3])
    assert set(kinds) == set(helps)
    return helps, samples


ANY = st.text(st.characters(codec="utf-8"), max_size=20)


@given(dataset=ANY, text=ANY, values=st.dictionaries(ANY, st.floats(allow_nan=False), max_size=5))
def test_any_text_survives_the_format(dataset, text, values):
    found = Metric("rejects", text, [({"reason": reason}, value) for reason, value in values.items()])
    helps, samples = parse(prometheus_text([found], dataset))
    assert helps == {"interloom_rejects": text}
    assert samples == {
        ("interloom_rejects", frozenset({("dataset", dataset), ("reason", reason)})): value
        for reason, value in values.items()
    }


@pytest.fixture
def dataset(tmp_path):
    root = tmp_path / 'out"1'
    build_dataset(str(root))
    return root


def test_the_values_are_those_of_the_folder(dataset):
    status = Observer(str(dataset)).look()
    write_prometheus(status, str(dataset.parent / "interloom.prom"), 1000.0)
    _, samples = parse((dataset.parent / "interloom.prom").read_text())
    plain = {name.removeprefix("interloom_"): v for (name, labels), v in samples.items() if len(labels) == 1}
    assert plain["splits_planned"] == plain["splits_committed"] == 4
    assert (plain["inputs"], plain["records"]) == (17, 12)
    assert plain["audio_seconds_planned"] == plain["audio_seconds_committed"] == 16
    assert plain["finished"] == plain["fitted"] == 1
    assert plain["status_timestamp_seconds"] == 1000
    assert "eta_seconds" not in plain
    reasons = {dict(labels)["reason"]: v for (name, labels), v in samples.items() if name == "interloom_rejects"}
    assert reasons == {"silent": 4, "duplicate_id": 1}
    assert all(dict(labels)["dataset"] == 'out"1' for _, labels in samples)


def test_records_are_counted_by_stage(dataset):
    cost = {"audio_seconds": 4.0, "peak_rss_bytes": 1, "seconds": [["decode", 1.0]], "started": 1.0, "wall": 1.0}
    for split in (0, 1):
        timing = {**cost, "passed": [["decode", 5, 4], ["align", 4, 2]], "split": split}
        publish_json(timing, f"{dataset}/work/timings/{split:06d}.json")
    found = metrics(Observer(str(dataset)).look(), 0.0)
    _, samples = parse(prometheus_text(found, "out"))
    counted = {(name, dict(labels)["stage"]): v for (name, labels), v in samples.items() if "stage_records" in name}
    assert counted == {
        ("interloom_stage_records_in", "decode"): 10, ("interloom_stage_records_in", "align"): 8,
        ("interloom_stage_records_out", "decode"): 8, ("interloom_stage_records_out", "align"): 4,
        ("interloom_stage_records_rejected", "decode"): 2, ("interloom_stage_records_rejected", "align"): 4,
    }  # fmt: skip


def test_only_the_whole_file_ever_ends_in_prom(dataset, monkeypatch):
    from pipeline import storage

    seen = []
    replace = storage.os.replace
    monkeypatch.setattr(storage.os, "replace", lambda a, b: (seen.append((str(a), str(b))), replace(a, b)))
    write_prometheus(Observer(str(dataset)).look(), str(dataset.parent / "a.prom"), 1.0)
    assert [(a.endswith(".prom"), b.endswith(".prom")) for a, b in seen] == [(False, True)]


def test_every_metric_is_documented(dataset):
    from pathlib import Path

    told = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    optional = {"worker_peak_rss_bytes", "timed_audio_seconds", "audio_seconds_per_second", "eta_seconds"}
    names = {metric.name for metric in metrics(Observer(str(dataset)).look(), 0.0)} | optional
    documented = set(re.findall(r"`interloom_([a-z_]+)", told))
    assert names | {"last_commit_timestamp_seconds"} == documented
