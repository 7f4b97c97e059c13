"""A whole small dataset with its plan and artifacts, made by the build's own sink, commit and finish. No model runs."""

import json
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import fsspec
import numpy as np
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import backends, chain
from pipeline.build import RunSettings, build_job, planned
from pipeline.commit import commit, scratch_folder, valid_commits
from pipeline.drive import EngineSettings
from pipeline.energon import write_energon_files
from pipeline.finish import finish
from pipeline.fit import FORMAT as ARTIFACTS
from pipeline.fit import artifacts_json, fit_fingerprint, load_artifacts
from pipeline.models import pin
from pipeline.plan import Plan, Row, load_rows, write_plan
from pipeline.recipes import recipe_yaml
from pipeline.storage import join, publish_bytes, publish_json
from schemas.canonical import sha256_hex
from schemas.clock import Samples
from schemas.recipe import Recipe
from schemas.records import Aligned, Artifact, Checked, Clip, Encoded, F0Track, UnitStream, Utterance, Word
from schemas.rejects import Reason, Reject
from schemas.unit_record import npy_bytes
from tests.audit_builders import tokenizer

RECIPE = Recipe.model_validate(
    {"name": "takedown", "pitch": None, "style": None, "units": {"clusters": 20}, "sequence": {"stream": "base"}}
)
PER_RECORDING = 4
SPLITS = 4


def utterance_id(recording: int, number: int) -> str:
    """Ids with a slash and a dot, so that a key is not the id."""
    return f"rec{recording}/utt.{number}"


def rows_of(base: str, recordings: int = SPLITS) -> list[Row]:
    """Recordings of four utterances; one of each fails in a stage, and a bad row lies in the first."""
    rows: list[Row] = []
    for recording in range(recordings):
        for number in range(PER_RECORDING):
            row_id = utterance_id(recording, number)
            key = f"rec{recording}_utt_{number}-{sha256_hex(row_id.encode())[:12]}"
            rows.append(
                Utterance(
                    key=key, id=row_id, audio=f"{recording}.wav", location=f"{base}/{recording}.wav",
                    text=f"the river {number}", recording=f"rec{recording}", index=len(rows), offset=Samples(0),
                    length=Samples(16_000), speaker=f"speaker {recording}", license="CC0-1.0",
                )
            )  # fmt: skip
    bad = Reject(key="twice~2", id=utterance_id(0, 1), stage="plan", reason=Reason.DUPLICATE_ID, detail="manifest:3")
    return [*rows[:2], bad, *rows[2:]]


def outcome(row: Row) -> Encoded | Reject:
    """What the stages would make of a row: a pure function of it."""
    if isinstance(row, Reject):
        return row
    if row.id.endswith(".3"):
        return Reject.of(row, "decode", Reason.SILENT, "silent")
    rng = np.random.default_rng(zlib.crc32(row.id.encode()))
    count = int(rng.integers(12_000, 16_000))
    clip = Clip(
        utterance=row, pcm=rng.integers(-900, 900, count).astype(np.int16), source_rate=16_000, source_channels=1
    )
    words = (
        Word("the", Samples(0), Samples(4_000), -3.123456),
        Word("river", None, None, None),
        Word(row.text[-1], Samples(4_000), Samples(9_000), -4.0),
    )
    aligned = Aligned(clip=clip, words=words, score_all=-5.0, score_words=-3.6, fallback=False)
    return Encoded(
        checked=Checked(aligned=aligned, doubtful=(1,)),
        streams=(UnitStream("hubert", rng.integers(0, 20, count // 640).astype(np.uint16)),),
        f0=F0Track(hz=np.where(rng.random(90) < 0.5, 0, 120).astype(np.float32), hop=Samples(160)),
    )


def plan_dataset(root: str, base: str = "/nowhere") -> Plan:
    """Write plan, recipe and artifacts; base is where the sources would lie."""
    plan = write_plan(join(root, "plan"), base, rows_of(base), PER_RECORDING / 3600)
    publish_bytes(recipe_yaml(RECIPE).encode(), join(root, "recipe.yaml"))
    codebook = npy_bytes(np.random.default_rng(0).normal(size=(20, 39)).astype(np.float32))
    files = {"units": ("units.npy", codebook), "tokenizer": ("tokenizer.model", tokenizer())}
    for name, data in files.values():
        publish_bytes(data, join(root, "artifacts", name))
    entries = {key: {"path": f"artifacts/{name}", "sha256": sha256_hex(data)} for key, (name, data) in files.items()}
    mark = fit_fingerprint(plan, RECIPE, pin(RECIPE))
    publish_json(
        {"artifacts": entries, "fingerprint": mark, "format": ARTIFACTS}, join(root, "artifacts", "artifacts.json")
    )
    return plan


def artifacts_of(root: str) -> dict[str, Artifact]:
    loaded = load_artifacts(root)
    assert loaded is not None
    return loaded[1]


def build_split(root: str, split: int) -> None:
    """Build one split as the executor's child would, with made-up stages."""
    plan, artifacts = planned(root), artifacts_of(root)
    job = build_job(RECIPE, plan, artifacts, RunSettings(out=root, engine=EngineSettings()))
    sink = job.sink.setup()
    folder = scratch_folder(root, split)
    outcomes = [outcome(row) for row in load_rows(job.rows_path, split, job.base)]
    commit(root, split, job.fingerprint, folder, sink.write(split, outcomes, folder))


def finish_dataset(root: str) -> dict[str, Any]:
    plan, artifacts = planned(root), artifacts_of(root)
    job = build_job(RECIPE, plan, artifacts, RunSettings(out=root, engine=EngineSettings()))
    records = valid_commits(root, job.fingerprint, range(len(plan.sizes)))
    info = finish(
        root,
        plan=plan,
        recipe=RECIPE,
        records=records,
        fingerprint=job.fingerprint,
        contracts=chain.contracts(RECIPE, artifacts),
        artifacts=artifacts_json(artifacts, root),
        aligner=backends.align_config(RECIPE, artifacts).metadata(),
    )
    write_energon_files(root, records)
    return info


def build_dataset(root: str, base: str = "/nowhere") -> Plan:
    """Build everything; a `removed.jsonl` that lies in the folder already is respected, as in a real build."""
    plan = plan_dataset(root, base)
    for split in range(len(plan.sizes)):
        build_split(root, split)
    finish_dataset(root)
    return plan


def tree(root: str) -> dict[str, bytes]:
    """Every file of a dataset but `work/`, by its path within."""
    filesystem, key = fsspec.core.url_to_fs(root)
    found = {path[len(key) :].strip("/"): path for path in filesystem.find(key)}
    return {name: filesystem.cat_file(path) for name, path in sorted(found.items()) if not name.startswith("work/")}


def reject_lines(root: str, split: int) -> list[dict[str, str]]:
    data = tree(root)[f"shards/rejects-{split:06d}.jsonl"]
    return [json.loads(line) for line in data.splitlines()]


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Mortal(MemoryFileSystem):
    """A store on which the process dies at a chosen change, before it is made or after."""

    protocol = "mortal"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    left: ClassVar[float] = float("inf")
    after: ClassVar[bool] = False

    @classmethod
    def live(cls, changes: float, *, after: bool = False) -> None:
        cls.left, cls.after = changes, after

    def _change(self, do: Callable[[], Any]) -> Any:
        type(self).left -= 1
        if self.left < 0 and not self.after:
            raise Killed
        done = do()
        if self.left < 0:
            raise Killed
        return done

    def pipe_file(self, path: str, value: bytes, **options: Any) -> Any:
        return self._change(lambda: super(Mortal, self).pipe_file(path, value, **options))

    def put_file(self, lpath: str, rpath: str, **options: Any) -> Any:
        return self._change(lambda: super(Mortal, self).put_file(lpath, rpath, **options))

    def rm_file(self, path: str) -> Any:
        return self._change(lambda: super(Mortal, self).rm_file(path))


fsspec.register_implementation("mortal", Mortal, clobber=True)
