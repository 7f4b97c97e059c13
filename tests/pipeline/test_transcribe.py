"""The job that gives rows a text: what comes out is a manifest, and every row is accounted for."""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import transcribe as module
from pipeline.build import located
from pipeline.commit import commit, keep_valid, scratch_folder
from pipeline.drive import EngineSettings, RunFailed, drive
from pipeline.job import Limits
from pipeline.manifest import read_manifest
from pipeline.plan import Plan, load_rows, write_plan
from pipeline.storage import publish_bytes
from pipeline.transcribe import TranscribeError, transcribe, transcribe_steps
from pipeline.transcripts import TranscriptSink, manifest_row, segment_rows
from schemas.clock import Samples
from schemas.model_sections import TranscribeSection
from schemas.recipe import Recipe
from schemas.records import Artifact, Utterance
from schemas.rejects import Reason, Reject
from schemas.transcripts import Drop, DroppedSegment, Segment, Transcribed
from stages.checkpoints import checkpoint_of

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "tests" / "checkpoints" / "whisper_tiny"
MODEL = Artifact(path="model", sha256="0" * 64)
RECIPE = Recipe(name="t", transcribe=TranscribeSection(checkpoint="model"))
LIMITS = Limits(strikes=2)
LOCAL = EngineSettings(engine="local", workers=2, stall_seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoConfig:
    """Gives a row as many segments as the number that its id begins with; none is a reject."""

    name: ClassVar[str] = "transcribe"
    version: ClassVar[int] = 1

    dies_on: str = ""
    seconds: float = 1.0

    def setup(self) -> "Echo":
        return Echo(self)


class Echo:
    def __init__(self, config: EchoConfig) -> None:
        self._config = config

    def process(self, batch: Sequence[Utterance]) -> list[Any]:
        return [self._one(row) for row in batch]

    def _one(self, row: Utterance) -> Transcribed | Reject:
        if row.id == self._config.dies_on:
            os.kill(os.getpid(), signal.SIGSEGV)
        count = int(row.id[0])
        if not count:
            return Reject.of(row, "transcribe", Reason.SILENT, "nobody speaks")
        segments = tuple(
            Segment(Samples(i * 16_000), Samples(i * 16_000 + 8001), f"part {i} of {row.id}", -0.25, 0.125)
            for i in range(count)
        )
        dropped = (DroppedSegment(Samples(count * 16_000), Samples(count * 16_000 + 800), Drop.LOOP),)
        return Transcribed(utterance=row, language="en", detected=True, segments=segments, dropped=dropped)


def row(row_id: str, index: int, text: str = "", **more: Any) -> Utterance:
    fields = {"audio": f"{row_id}.wav", "location": f"/b/{row_id}.wav", "recording": f"rec {row_id}"} | more
    return Utterance(key=row_id, id=row_id, text=text, index=index, **{"length": Samples(320_000)} | fields)


def rows() -> list[Any]:
    bad = Reject(key="x~4", id="x", stage="plan", reason=Reason.BAD_ROW, detail="m.jsonl:5: no audio")
    more = {
        "offset": Samples(4001),
        "channel": 1,
        "speaker": "s",
        "license": "CC0-1.0",
        "source": "here",
        "language": "en-GB",
    }
    return [
        row("2a", 0),
        row("t1", 1, "as given", offset=Samples(7)),
        row("0b", 2),
        row("1c", 3, **more),
        bad,
        row("t2", 5, "also given", length=None),
        row("3d", 6, text=" \t"),
        *(row(f"1z{i}", 7 + i) for i in range(6)),
    ]


def here(job: Any, plan: Plan, settings: Any, progress: Any) -> dict[int, Any]:
    """Run a job in this process, as an engine would: splits that are committed are left alone."""
    done = keep_valid(job.root, job.fingerprint, range(len(plan.sizes)))
    (stage,), sink = [step.setup() for step in job.steps], job.sink.setup()
    for split in set(range(len(plan.sizes))) - set(done):
        folder = scratch_folder(job.root, split)
        facts = sink.write(split, iter(stage.process(load_rows(job.rows_path, split, job.base))), folder)
        done[split] = commit(job.root, split, job.fingerprint, folder, facts)
    return done


@pytest.fixture
def echo(monkeypatch):
    """Replace the stages, and the engine unless asked otherwise."""

    def use(*, in_process=True, **settings):
        monkeypatch.setattr(module, "transcribe_steps", lambda *_: (EchoConfig(**settings),))
        monkeypatch.setattr(module, "drive", here if in_process else drive)

    use()
    return use


def plan_of(tmp_path: Path, found: list[Any]) -> Plan:
    return write_plan(str(tmp_path / "given"), "/b", found, 40 / 3600)


def run(root: Path, plan: Plan, recipe: Recipe = RECIPE, limits: Limits = LIMITS) -> Path:
    return Path(transcribe(str(root), plan, recipe, MODEL, LOCAL, limits, lambda *_: None))


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "transcripts").iterdir())}


def test_every_row_is_accounted_for_in_the_manifests_order(tmp_path, echo):
    path = run(tmp_path / "out", plan_of(tmp_path, rows()))
    made = read(path)
    tail = [f"1z{i}-00000000" for i in range(6)]
    ids = ["2a-00000000", "2a-00001000", "t1", "1c-00000250", "t2", "3d-00000000", "3d-00001000", "3d-00002000", *tail]
    assert [item["id"] for item in made] == ids
    assert [item["recording"] for item in made[:4]] == ["rec 2a", "rec 2a", "rec t1", "rec 1c"]
    assert made[3] == {
        "audio_filepath": "1c.wav",
        "average_logprob": -0.25,
        "channel": 1,
        "duration": 8001 / 16_000,
        "id": "1c-00000250",
        "language": "en-GB",
        "license": "CC0-1.0",
        "no_speech": 0.125,
        "offset": 4001 / 16_000,
        "recording": "rec 1c",
        "source": "here",
        "speaker": "s",
        "text": "part 0 of 1c",
        "transcribed_from": "1c",
    }
    assert [item["id"] for item in read(path.parent / "rejects.jsonl")] == ["x", "0b"]
    dropped = read(path.parent / "dropped.jsonl")
    assert [item["id"] for item in dropped] == ["2a", "1c", "3d", *(f"1z{i}" for i in range(6))]
    assert dropped[1] == {
        "audio_filepath": "1c.wav",
        "duration": 0.05,
        "id": "1c",
        "offset": 20_001 / 16_000,
        "reason": "loop",
    }
    facts = json.loads((path.parent / "transcribe.json").read_text())
    counts = {name: facts[name] for name in ("inputs", "with_text", "transcribed", "rejects", "rows", "segments")}
    assert counts == {"inputs": 13, "with_text": 2, "transcribed": 9, "rejects": 2, "rows": 14, "segments": 12}
    assert facts["reasons"] == {"bad_row": 1, "silent": 1}
    assert facts["dropped"] == {"loop": 9}
    assert facts["languages"] == {"en": 12}
    assert facts["segment_samples"] == 12 * 8001
    assert facts["transcriber"]["model_sha256"] == MODEL.sha256
    assert not (tmp_path / "out" / "transcribe").exists()


def test_what_comes_out_reads_back_as_a_manifest_with_the_audio_where_it_was(tmp_path, echo):
    path = run(tmp_path / "out", plan_of(tmp_path, rows()))
    found = list(located(read_manifest(str(path)), "/b"))
    assert all(isinstance(item, Utterance) and item.text for item in found)
    assert found[0].location == "/b/2a.wav"
    assert (found[3].offset, found[3].length, found[3].channel) == (4001, 8001, 1)
    assert found[2] == replace(rows()[1], index=2)
    assert found[4] == replace(rows()[5], index=4)
    write_plan(str(tmp_path / "again"), "/b", found, "auto")


@pytest.mark.slow
def test_a_real_engine_writes_the_same_bytes(tmp_path, echo):
    plan = plan_of(tmp_path, rows())
    run(tmp_path / "a", plan)
    echo(in_process=False)
    run(tmp_path / "b", plan)
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_rerun_does_nothing_and_gives_the_same_bytes_elsewhere(tmp_path, echo):
    plan = plan_of(tmp_path, rows())
    path = run(tmp_path / "a", plan)
    before = {item: item.stat().st_mtime_ns for item in path.parent.iterdir()}
    assert run(tmp_path / "a", plan) == path
    assert {item: item.stat().st_mtime_ns for item in path.parent.iterdir()} == before
    run(tmp_path / "b", plan)
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("store", [False, True])
def test_what_it_worked_on_is_removed_also_by_a_rerun(tmp_path, echo, store):
    root = f"memory://transcribe-{uuid4().hex}" if store else str(tmp_path / "a")
    filesystem, key = fsspec.core.url_to_fs(root)
    plan = plan_of(tmp_path, rows())
    for _ in range(2):
        transcribe(root, plan, RECIPE, MODEL, LOCAL, LIMITS, lambda *_: None)
        assert sorted(path.split("/")[-1] for path in filesystem.ls(key, detail=False)) == ["transcripts"]
        publish_bytes(b"left by a run that was killed", f"{root}/transcribe/shards/rows-000000.jsonl")


def test_it_goes_on_where_it_was_interrupted(tmp_path, echo, monkeypatch):
    plan = plan_of(tmp_path, rows())
    run(tmp_path / "a", plan)
    with monkeypatch.context() as broken:
        broken.setattr(module, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", plan)
    shards = tmp_path / "b" / "transcribe" / "shards"
    commits = sorted(shards.glob("*.commit.json"))
    assert len(commits) > 2
    commits[1].unlink()
    before = {item: item.stat().st_mtime_ns for item in shards.iterdir() if "000001" not in item.name}
    with monkeypatch.context() as held:
        held.setattr(module, "remove_folder", lambda _: None)
        run(tmp_path / "b", plan)
    assert {item: item.stat().st_mtime_ns for item in before} == before
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.slow
def test_a_row_that_kills_its_worker_costs_no_other_row(tmp_path, echo):
    echo(in_process=False, dies_on="1z3")
    path = run(tmp_path / "out", plan_of(tmp_path, rows()))
    rejects = {item["id"]: item["reason"] for item in read(path.parent / "rejects.jsonl")}
    assert rejects == {"x": "bad_row", "0b": "silent", "1z3": "crashed"}
    assert len(read(path)) == 13


def test_other_settings_or_rows_need_another_folder(tmp_path, echo):
    run(tmp_path / "out", plan_of(tmp_path, rows()))
    with pytest.raises(TranscribeError, match="other settings or another manifest"):
        run(tmp_path / "out", plan_of(tmp_path / "more", rows()[1:]))
    echo(seconds=2.0)
    with pytest.raises(TranscribeError, match="other settings or another manifest"):
        run(tmp_path / "out", plan_of(tmp_path, rows()))


def test_rows_that_all_have_text_need_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "drive", None)
    given_rows = [item for item in rows() if isinstance(item, Utterance) and item.text.strip()]
    path = run(tmp_path / "out", plan_of(tmp_path, given_rows))
    assert [item["text"] for item in read(path)] == ["as given", "also given"]
    assert json.loads((path.parent / "transcribe.json").read_text())["transcribed"] == 0


def test_nothing_to_say_is_an_error_that_tells_why(tmp_path, echo):
    with pytest.raises(TranscribeError, match="no row has a transcript: 1 silent"):
        run(tmp_path / "out", plan_of(tmp_path, [row("0b", 0)]))
    assert not (tmp_path / "out" / "transcripts").exists()


def test_a_recipe_without_the_section_is_told_what_to_add(tmp_path):
    with pytest.raises(TranscribeError, match="no transcribe section"):
        run(tmp_path / "out", plan_of(tmp_path, rows()), Recipe(name="t"))


def test_the_recipe_reaches_the_stages():
    section = TranscribeSection(
        checkpoint="model",
        language="de",
        chunk_seconds=9.0,
        beam_size=2,
        batch_size=3,
        max_seconds=777.0,
        max_no_speech=0.5,
    )
    decode, config = transcribe_steps(RECIPE.model_copy(update={"transcribe": section}), MODEL)
    assert decode.max_seconds == 777.0
    assert decode.min_seconds == RECIPE.decode.min_seconds
    assert (config.checkpoint, config.language, config.chunk_seconds) == (MODEL, "de", 9.0)
    assert (config.beam_size, config.batch_size, config.max_no_speech) == (2, 3, 0.5)


def test_long_recordings_get_time_and_a_batch_of_their_own(tmp_path, monkeypatch):
    seen = []

    def drive(job, plan, settings, progress):
        seen.append(job)
        raise RunFailed("enough")

    monkeypatch.setattr(module, "drive", drive)
    plan = plan_of(tmp_path, [row("1a", 0, length=Samples(3600 * 16_000)), row("1b", 1)])
    with pytest.raises(RunFailed):
        run(tmp_path / "out", plan, limits=Limits(record_seconds=5.0, batch_records=8))
    assert (seen[0].limits.batch_records, seen[0].limits.record_seconds) == (1, 108_000.0)


def test_a_recording_that_claims_months_gets_no_more_time_than_the_longest_allowed(tmp_path, monkeypatch):
    seen = []

    def drive(job, plan, settings, progress):
        seen.append((job, plan))
        raise RunFailed("enough")

    monkeypatch.setattr(module, "drive", drive)
    rows = [row("1a", 0, length=Samples(9_000_000 * 16_000)), row("1b", 1)]
    plan = write_plan(str(tmp_path / "given"), "/b", rows, "auto", 7200.0)
    with pytest.raises(RunFailed):
        run(tmp_path / "out", plan, limits=Limits(record_seconds=5.0))
    assert seen[0][0].limits.record_seconds == 30 * 7200.0
    assert max(seen[0][1].sizes) <= 7200.0 + 10.0


def test_a_recording_of_unknown_length_gets_as_much_time_as_the_longest_allowed(tmp_path, monkeypatch):
    seen = []

    def drive(job, plan, settings, progress):
        seen.append(job)
        raise RunFailed("enough")

    monkeypatch.setattr(module, "drive", drive)
    with pytest.raises(RunFailed):
        run(tmp_path / "out", plan_of(tmp_path, [row("1a", 0, audio="s3://b/hours.mp3", length=None)]))
    assert seen[0].limits.record_seconds == 30 * 7200.0


def test_a_split_gets_time_in_proportion_to_its_recordings(tmp_path, monkeypatch):
    seen = []

    def drive(job, plan, settings, progress):
        seen.append((job.limits, plan.inputs))
        raise RunFailed("enough")

    monkeypatch.setattr(module, "drive", drive)
    hour = Samples(3600 * 16_000)
    given = [row("1a", 0, length=hour), row("t1", 1, "given"), row("1b", 2), row("1c", 3, length=hour)]
    given += [row("1d", 4, audio="s3://b/hours.mp3", length=None), row("1e", 5, length=hour)]
    recipe = RECIPE.model_copy(update={"plan": RECIPE.plan.model_copy(update={"hours_per_shard": 2.0})})
    with pytest.raises(RunFailed):
        run(tmp_path / "out", plan_of(tmp_path, given), recipe, Limits(split_seconds=60.0))
    limits, inputs = seen[0]
    assert inputs == (2, 3)
    assert limits.split_seconds == 30 * (3600.0 + 7200.0 + 3600.0)  # of the second one, what has no length the longest
    with pytest.raises(RunFailed):
        run(tmp_path / "short", plan_of(tmp_path, [row("1b", 0)]), recipe, Limits(split_seconds=7200.0))
    assert seen[1][0].split_seconds == 7200.0


# ---------------------------------------------------------------- rows

names = st.text(st.characters(categories=["L", "M", "N", "P", "S"]), min_size=1, max_size=9)
samples = st.integers(0, 10**9)


@settings(max_examples=30, deadline=None)
@given(
    names,
    names,
    names,
    samples,
    st.none() | samples,
    st.none() | st.integers(0, 9),
    st.sampled_from(["", "de", "en-US"]),
)
def test_a_manifest_row_reads_back_as_the_same_utterance(
    tmp_path_factory, row_id, text, recording, offset, length, channel, language
):
    want = row("k", 0, text, recording=recording, offset=offset, length=length, channel=channel, language=language)
    want = replace(want, id=row_id)
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl"
    path.write_text(json.dumps(manifest_row(want)) + "\n")
    (found,) = read_manifest(str(path))
    assert replace(found, key="k", location=want.location) == want


@settings(max_examples=30, deadline=None)
@given(samples, st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 480_000)), min_size=1, max_size=6))
def test_segments_lie_where_they_were_heard(tmp_path_factory, offset, gaps):
    at, segments = 0, []
    for gap, length in gaps:
        segments.append(Segment(Samples(at + gap), Samples(at + gap + length), "word", -0.1, 0.0))
        at += gap + length
    source = row("r", 0, offset=Samples(offset))
    found = Transcribed(utterance=source, language="en", detected=True, segments=tuple(segments), dropped=())
    path = tmp_path_factory.mktemp("m") / "manifest.jsonl"
    made = segment_rows(found)
    path.write_text("".join(json.dumps(item) + "\n" for item in made))
    back = [item for item in read_manifest(str(path)) if isinstance(item, Utterance)]
    windows = [(item.offset, item.length) for item in back]
    kept = {item["id"] for item in made}
    if len(kept) == len(made):  # starts within a millisecond would share an id; speech never does
        assert windows == [(offset + s.start, s.end - s.start) for s in segments]
    assert all(item.recording == source.recording and item.language == "en" for item in back)


@pytest.mark.parametrize(
    ("given_language", "heard", "want"), [("", "en", "en"), ("en-GB", "en", "en-GB"), ("de", "en", "en")]
)
def test_the_language_is_written_into_the_row(given_language, heard, want):
    source = row("r", 0, language=given_language)
    segments = (Segment(Samples(0), Samples(9), "word", -0.1, 0.0),)
    found = Transcribed(utterance=source, language=heard, detected=True, segments=segments, dropped=())
    assert segment_rows(found)[0]["language"] == want


def test_what_was_dropped_names_no_credentials(tmp_path):
    (outcome,) = Echo(EchoConfig()).process([row("2", 0, audio="https://u:hunter2@h/a.wav?sig=abc")])
    TranscriptSink().write(0, iter([outcome]), tmp_path)
    (dropped,) = read(tmp_path / "dropped-000000.jsonl")
    assert dropped["audio_filepath"] == "https://h/a.wav?sig=..."
    kept = {row["audio_filepath"] for row in read(tmp_path / "rows-000000.jsonl")}
    assert kept == {"https://u:hunter2@h/a.wav?sig=abc"}  # the build reads these


def test_the_sinks_facts_add_up(tmp_path):
    outcomes = Echo(EchoConfig()).process(
        [item for item in rows() if isinstance(item, Utterance) and not item.text.strip()]
    )
    facts = TranscriptSink().write(3, iter(outcomes), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{kind}-000003.jsonl" for kind in ("dropped", "rejects", "rows")
    ]
    assert facts["inputs"] == facts["records"] + facts["rejects"] == len(outcomes) == 10
    assert facts["segments"] == len(read(tmp_path / "rows-000003.jsonl")) == 12


# ---------------------------------------------------------------- the real thing


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_recording_becomes_utterances_with_a_real_model(tmp_path):
    pytest.importorskip("whisperx")
    import soundfile

    from scripts.make_whisper_tiny import sentences

    taught = sentences()[:2]
    gap = np.zeros(3 * 16_000, np.int16)
    soundfile.write(tmp_path / "talk.flac", np.concatenate([gap, taught[0][0], gap, taught[1][0], gap]), 16_000)
    soundfile.write(tmp_path / "hush.wav", gap + np.int16(50), 16_000)
    manifest = tmp_path / "m.jsonl"
    lines = [{"audio_filepath": "talk.flac", "id": "talk", "language": "en"}, {"audio_filepath": "hush.wav"}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = write_plan(str(tmp_path / "given"), str(tmp_path), list(read_manifest(str(manifest))), "auto")
    model = checkpoint_of(str(TINY))
    section = TranscribeSection(checkpoint=model.path, chunk_seconds=6.0)
    recipe = Recipe(name="t", transcribe=section)
    for out in ("a", "b"):
        transcribe(str(tmp_path / out), plan, recipe, model, LOCAL, Limits(), lambda *_: None)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    made = read_manifest(str(tmp_path / "a" / "transcripts" / "manifest.jsonl"))
    found = list(located(made, str(tmp_path)))
    assert [item.text for item in found] == [text for _, text in taught]
    assert [item.recording for item in found] == ["talk.flac"] * 2
    assert Path(found[0].location) == tmp_path / "talk.flac"
    assert [item["reason"] for item in read(tmp_path / "a" / "transcripts" / "rejects.jsonl")] == ["silent"]
