"""The bundled input keeps what its README promises. The oracles are soundfile and plain JSON, not our readers."""

import json
import re
from collections import Counter
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.rejects import Reason

soundfile = pytest.importorskip("soundfile")

EXAMPLES = Path(__file__).parents[2] / "examples"
CORPUS = EXAMPLES / "corpus"
BROKEN = EXAMPLES / "broken"
MARKUP = re.compile(r"\{([^|}]+)\|[^}]*\}")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


MANIFEST = rows(CORPUS / "manifest.jsonl")
GOLD = {row["id"]: row for row in rows(CORPUS / "gold.jsonl")}
EXPECTED = rows(BROKEN / "expected.jsonl")
LINES = (BROKEN / "manifest.jsonl").read_bytes().split(b"\n")[:-1]


def seconds(row: dict[str, Any]) -> float:
    return float(soundfile.info(CORPUS / row["audio_filepath"]).duration)


def test_corpus_is_large_and_varied_enough() -> None:
    assert len(MANIFEST) >= 60
    assert len({row["id"] for row in MANIFEST}) == len(MANIFEST)
    assert len({row["speaker"] for row in MANIFEST}) >= 8
    assert 360 < sum(row.get("duration") or seconds(row) for row in MANIFEST) < 600
    assert all(row["license"] == "CC0-1.0" and row["language"] == "en" for row in MANIFEST)


def test_corpus_fits_in_8_mb_and_every_file_is_used() -> None:
    files = {path for path in (CORPUS / "audio").rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in files) < 8e6
    assert files == {CORPUS / row["audio_filepath"] for row in MANIFEST}


def test_transcripts_are_those_of_the_text_file() -> None:
    recordings = yaml.safe_load((CORPUS / "texts.yaml").read_text(encoding="utf-8"))["recordings"]
    entries = [entry[1] if isinstance(entry, list) else entry for item in recordings for entry in item["texts"]]
    texts = [" ".join(re.sub(r"\[[\d.]+\]", " ", MARKUP.sub(r"\1", entry)).split()) for entry in entries]
    assert [row["text"] for row in MANIFEST] == texts


def test_recordings_are_consecutive_and_in_order() -> None:
    names = [name for name, _ in groupby(MANIFEST, key=lambda row: row["recording"])]
    assert len(names) == len(set(names)) >= 12
    for _, group in groupby((row for row in MANIFEST if "offset" in row), key=lambda row: row["recording"]):
        utterances = list(group)
        assert len({row["audio_filepath"] for row in utterances}) == 1
        for before, after in pairwise(utterances):
            assert before["offset"] + before["duration"] <= after["offset"]


@pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["id"])
def test_utterance_lies_inside_its_file(row: dict[str, Any]) -> None:
    if "duration" in row:
        offset = row.get("offset", 0.0)
        assert 0 <= offset < offset + row["duration"] <= seconds(row) + 1e-9
    else:
        assert "offset" not in row
    assert row.get("channel", 0) < soundfile.info(CORPUS / row["audio_filepath"]).channels


def test_both_ways_to_store_and_all_odd_formats_occur() -> None:
    infos = [soundfile.info(path) for path in {CORPUS / row["audio_filepath"] for row in MANIFEST}]
    assert {info.samplerate for info in infos} == {8000, 16000}
    assert {info.channels for info in infos} == {1, 2}
    assert {info.format for info in infos} == {"FLAC", "MP3"}
    per_file = Counter(row["audio_filepath"] for row in MANIFEST)
    assert 1 in per_file.values()
    assert max(per_file.values()) > 5
    assert {row.get("channel") for row in MANIFEST} == {None, 0, 1}


def test_gold_agrees_with_the_transcripts_token_for_token() -> None:
    assert list(GOLD) == [row["id"] for row in MANIFEST]
    for row in MANIFEST:
        assert [word[0] for word in GOLD[row["id"]]["words"]] == row["text"].split()


@pytest.mark.parametrize("row", MANIFEST, ids=lambda row: row["id"])
def test_gold_times_ascend_and_lie_inside_the_utterance(row: dict[str, Any]) -> None:
    now = 0.0
    for _, start, end in GOLD[row["id"]]["words"]:
        assert start is not None or end is None
        for time in (start, end):
            if time is not None:
                assert now <= time
                now = time
    assert now <= row.get("duration", seconds(row))


def test_most_words_have_gold_and_most_utterances_are_clean() -> None:
    words = [word for row in GOLD.values() for word in row["words"]]
    assert sum(start is None for _, start, _ in words) < 0.06 * len(words)
    assert sum(row["clean"] for row in GOLD.values()) >= 0.75 * len(GOLD)


def test_gold_starts_of_first_words_are_where_the_sound_starts() -> None:
    """An independent check of the shift: the first word starts where the energy rises, MP3 included."""
    for row in MANIFEST:
        path = CORPUS / row["audio_filepath"]
        rate = soundfile.info(path).samplerate
        count = round(row["duration"] * rate) if "duration" in row else -1
        wave, _ = soundfile.read(path, start=round(row.get("offset", 0) * rate), frames=count, always_2d=True)
        loud = abs(wave[:, row.get("channel", slice(None))].reshape(len(wave), -1).sum(axis=1)) > 0.004
        assert GOLD[row["id"]]["words"][0][1] == pytest.approx(loud.argmax() / rate, abs=0.1), row["id"]


def test_every_broken_line_has_an_expectation_from_the_closed_list() -> None:
    assert [row["line"] for row in EXPECTED] == list(range(1, len(LINES) + 1))
    allowed = {"record"} | {reason.value for reason in Reason}
    assert all(row["expect"] and set(row["expect"]) <= allowed for row in EXPECTED)


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: f"line-{row['line']}")
def test_expectation_names_the_id_of_its_line(row: dict[str, Any]) -> None:
    try:
        fields = json.loads(LINES[row["line"] - 1])
    except ValueError:
        fields = None
    if row["id"] is None:
        assert row["expect"] == ["bad_row"]
        assert not isinstance(fields, dict)
    else:
        assert fields["id"] == row["id"]


def test_good_rows_stand_between_broken_ones() -> None:
    good = [row["line"] for row in EXPECTED if row["expect"] == ["record"]]
    assert len(good) >= 8
    assert good[0] == 1
    assert good[-1] == len(EXPECTED)
    gaps = [after - before for before, after in pairwise(good)]
    assert sum(gap > 1 for gap in gaps) >= 4


def test_broken_covers_every_reason_that_bad_input_can_cause() -> None:
    causes = {reason for row in EXPECTED for reason in row["expect"]} - {"record"}
    # These are a stage's or a worker's fault, or a decision, not the input's.
    assert causes == {reason.value for reason in Reason} - {"unit_count", "unexpected", "crashed", "removed"}


def test_broken_is_small_and_every_file_is_used() -> None:
    files = {path.name for path in BROKEN.iterdir()}
    assert sum(path.stat().st_size for path in BROKEN.iterdir()) < 1.5e6
    texts = b"\n".join(LINES).decode("utf-8", "replace")
    assert {name for name in files if name not in texts} == {"manifest.jsonl", "expected.jsonl", "unknown_key.yaml"}
    assert "nowhere.flac" not in files
