"""Transcribe: a job of its own before the plan, which turns rows without text into rows of utterances with text.

Stages are one to one, so a recording cannot become its segments inside a build. Here each row without text becomes one
`Transcribed`, and the sink writes a manifest row per segment. The rows of all splits and the rows that had text already
are then joined in the manifest's order. `transcripts/transcribe.json` is the commit record: with it present, a rerun
does nothing; without it, a rerun goes on with the splits that are missing.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from pipeline import backends, chain
from pipeline.drive import EngineSettings, Progress, drive
from pipeline.finish import LedgerError, reconcile
from pipeline.job import Job, Limits
from pipeline.plan import Plan, all_rows, seconds_of, write_plan
from pipeline.storage import join, publish_bytes, publish_json, read_bytes, read_json, remove_folder
from pipeline.transcripts import TranscriptSinkConfig, manifest_row
from schemas.canonical import canonical_json
from schemas.recipe import Recipe
from schemas.records import Artifact, Utterance
from schemas.rejects import Reject
from stages.decode import DecodeConfig

FORMAT = "interloom-transcripts/1"
FOLDER = "transcripts"
SECONDS_PER_SECOND = 30.0
"""A record may take this many times its length; meant to end hangs, not slow models."""


class TranscribeError(RuntimeError):
    """The manifest cannot be transcribed; the message says why and what to do."""


def transcribe_steps(recipe: Recipe, checkpoint: Artifact) -> chain.Steps:
    """Return the job's stages: decoding with a limit on length of its own, and transcription.

    Raises:
        TranscribeError: if the recipe has no `transcribe` section.
    """
    config = backends.transcribe_config(recipe, {"transcribe_model": checkpoint})
    if recipe.transcribe is None or config is None:
        raise TranscribeError("the recipe has no transcribe section: name a checkpoint there, or give every row a text")
    decode = DecodeConfig(**{**recipe.decode.model_dump(), "max_seconds": recipe.transcribe.max_seconds})
    return (decode, config)


def transcribe(
    root: str,
    plan: Plan,
    recipe: Recipe,
    checkpoint: Artifact,
    settings: EngineSettings,
    limits: Limits,
    progress: Progress,
) -> str:
    """Return the path of a manifest in which every row has text, transcribing what has none.

    Its audio paths are those of the given plan's manifest, so relative ones start from `plan.base`. `transcripts/` and,
    while at work, `transcribe/` lie in the dataset folder `root`. Rows that the plan of the given manifest rejects are
    counted and left out.

    Raises:
        TranscribeError: if the folder holds transcripts made otherwise, or no row is left.
        RunFailed: if splits are missing in the end.
    """
    steps, sink = transcribe_steps(recipe, checkpoint), TranscriptSinkConfig()
    wanted = chain.job_fingerprint(plan.fingerprint, steps, sink)
    final, work = join(root, FOLDER, "manifest.jsonl"), join(root, "transcribe")
    if (found := read_json(join(root, FOLDER, "transcribe.json"))) is not None:
        if found.get("fingerprint") != wanted:
            raise TranscribeError(
                f"{root}/{FOLDER} was made with other settings or another manifest; use another --out"
            )
        remove_folder(work)  # where the run before ended in between
        return final
    silent = [row for row in all_rows(plan) if isinstance(row, Utterance) and not has_text(row)]
    facts: dict[int, dict[str, Any]] = {}
    if silent:
        assert recipe.transcribe is not None  # transcribe_steps has looked
        allowed = min(plan.max_seconds, recipe.transcribe.max_seconds)
        part = write_plan(work, plan.base, silent, recipe.plan.hours_per_shard, plan.max_seconds)
        job = Job(
            root=work,
            rows_path=part.rows_path,
            base=plan.base,
            fingerprint=chain.job_fingerprint(part.fingerprint, steps, sink),
            steps=steps,
            sink=sink,
            limits=_patient(limits, seconds_of(silent, allowed, allowed), part.inputs),
        )
        facts = drive(job, part, settings, progress)
        reconcile(part, facts)
    counts = _join(root, plan, facts)
    described = {"fingerprint": wanted, "format": FORMAT, "settings": chain.describe(steps)}
    transcriber = backends.transcribe_config(recipe, {"transcribe_model": checkpoint}).metadata()
    publish_json({**described, **counts, "transcriber": transcriber}, join(root, FOLDER, "transcribe.json"))
    remove_folder(work)
    return final


def has_text(row: Utterance) -> bool:
    return bool(row.text.strip())


def _patient(limits: Limits, seconds: Sequence[float], inputs: Sequence[int]) -> Limits:
    """Allow for whole recordings: one per batch, and time in proportion to the longest of them and of their splits.

    Args:
        limits: the limits as given.
        seconds: the length of each recording: what is allowed where it is unknown.
        inputs: how many of them, in order, are in each split.
    """
    rest = iter(seconds)
    longest_split = max(sum(islice(rest, count)) for count in inputs)
    return replace(
        limits,
        batch_records=1,
        record_seconds=max(limits.record_seconds, SECONDS_PER_SECOND * max(seconds)),
        split_seconds=max(limits.split_seconds, SECONDS_PER_SECOND * longest_split),
    )


def _join(root: str, plan: Plan, facts: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Join the splits' rows and those that had text, in the manifest's order; return the counts."""
    work = join(root, "transcribe")
    made: dict[str, list[str]] = {}
    for line in _lines(work, "rows", facts):
        made.setdefault(json.loads(line)["transcribed_from"], []).append(line)
    rows: list[str] = []
    rejects: list[str] = []
    reasons: Counter[str] = Counter()
    kept = 0
    for row in all_rows(plan):
        if isinstance(row, Reject):
            reasons[row.reason.value] += 1
            rejects.append(canonical_json(row.to_json()))
        elif has_text(row):
            kept += 1
            rows.append(canonical_json(manifest_row(row)))
        else:
            rows += made.pop(row.id, [])
    rejects += _lines(work, "rejects", facts)
    counts = _counts(facts, reasons) | {"inputs": sum(plan.inputs), "rows": len(rows), "with_text": kept}
    if counts["inputs"] != kept + counts["transcribed"] + len(rejects):
        parts = f"{kept} with text, {counts['transcribed']} transcribed and {len(rejects)} rejects"
        raise LedgerError(f"{counts['inputs']} rows, but {parts}")
    if made:
        raise LedgerError(f"{len(made)} transcribed rows are in no manifest, the first is {min(made)!r}")
    if not rows:
        told = ", ".join(f"{count} {reason}" for reason, count in counts["reasons"].items())
        raise TranscribeError(f"no row has a transcript: {told}; see {work}/shards/rejects-*.jsonl")
    for kind, found in (("rejects", rejects), ("dropped", list(_lines(work, "dropped", facts))), ("manifest", rows)):
        publish_bytes("".join(line + "\n" for line in found).encode(), join(root, FOLDER, f"{kind}.jsonl"))
    return counts


def _lines(work: str, kind: str, facts: Mapping[int, Mapping[str, Any]]) -> Iterator[str]:
    for split in sorted(facts):
        path = join(work, "shards", f"{kind}-{split:06d}.jsonl")
        data = read_bytes(path)
        if data is None:
            raise LedgerError(f"{path} is missing, though its split was committed; run the same command again")
        yield from data.decode().split("\n")[:-1]


def _counts(facts: Mapping[int, Mapping[str, Any]], planned: Counter[str]) -> dict[str, Any]:
    """Return the totals of the splits, with the rejects of the plan added."""
    totals: dict[str, Counter[str]] = {"reasons": planned, "dropped": Counter(), "languages": Counter()}
    for record in facts.values():
        for name, total in totals.items():
            total.update(record[name])
    summed = {name: sum(record[name] for record in facts.values()) for name in ("segment_samples", "segments")}
    return {
        **{name: dict(sorted(total.items())) for name, total in totals.items()},
        **summed,
        "rejects": totals["reasons"].total(),
        "transcribed": sum(record["records"] for record in facts.values()),
    }
