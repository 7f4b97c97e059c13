"""An hour in one piece against the same hour cut at silences: words, units, memory.

    python -m benchmarks.hour [--minutes 60] [--units FOLDER --layer L] [--keep FOLDER]

Joins the bundled utterances, a second of silence after each five, into one recording; builds it once as one utterance
and once as many, with the tiny trained CTC aligner of the tests and an encoder, and compares what stands at the same
samples.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from pipeline.dataset import Dataset
from pipeline.manifest import read_manifest
from schemas.clock import SAMPLE_RATE
from schemas.records import Utterance
from schemas.unit_record import UnitRecord
from stages.audio_files import read_window
from stages.decode import to_pcm

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = ROOT / "tests" / "checkpoints"
PIECE = 5
"""Utterances between two cuts."""
SILENCE = SAMPLE_RATE
GRID = 640
"""Cuts lie on multiples of this, so that frames of the pieces and of the whole stand for the same samples."""


class Difference(NamedTuple):
    """What differs between the whole and its pieces.

    Attributes:
        words, moved: words in all, and those whose start differs by more than 20 ms.
        frames, other: unit frames that both have, and those with another id.
        other_far: those among them further than 1 s from every cut.
    """

    pieces: int
    words: int
    moved: int
    worst_ms: float
    frames: int
    other: int
    other_far: int


def write_recording(folder: Path, minutes: float) -> None:
    """Write `hour.wav`, `whole.jsonl` (one row) and `cut.jsonl` (a row for each piece, `id`s in order)."""
    rows = [row for row in read_manifest(str(ROOT / "examples/corpus/manifest.jsonl")) if isinstance(row, Utterance)]
    pieces: list[tuple[int, int, str]] = []
    at = 0
    with soundfile.SoundFile(folder / "hour.wav", "w", SAMPLE_RATE, 1, "PCM_16") as file:
        while at < minutes * 60 * SAMPLE_RATE:
            start, texts = at, []
            for _ in range(PIECE):
                row = rows[(len(pieces) * PIECE + len(texts)) % len(rows)]
                window = read_window(row, 120.0)
                pcm = to_pcm(window.samples, window.rate)
                file.write(pcm)
                at += len(pcm)
                texts.append(row.text)
            rest = SILENCE + -(at + SILENCE) % GRID
            file.write(np.zeros(rest, np.int16))
            at += rest
            pieces.append((start, at - start, " ".join(texts)))
    shared = {"audio_filepath": "hour.wav", "recording": "hour"}
    whole = {**shared, "id": "whole", "text": " ".join(text for _, _, text in pieces)}
    (folder / "whole.jsonl").write_text(json.dumps(whole) + "\n")
    cut = [
        {
            **shared,
            "id": f"piece-{i:05d}",
            "text": text,
            "offset": start / SAMPLE_RATE,
            "duration": length / SAMPLE_RATE,
        }
        for i, (start, length, text) in enumerate(pieces)
    ]
    (folder / "cut.jsonl").write_text("".join(json.dumps(row) + "\n" for row in cut))


def build(folder: Path, name: str, settings: list[str]) -> tuple[Dataset, float, float]:
    """Build `NAME.jsonl`; return the dataset, the largest worker in MiB and CPU seconds per second of audio."""
    out = folder / name
    command = [sys.executable, "-m", "jobs.cli", "run", "embedded", "--manifest", str(folder / f"{name}.jsonl")]
    command += ["--out", str(out), "--workers", "1", "--record-seconds", "7200", "--memory-gb", "12"]
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    timings = [json.loads(path.read_text()) for path in (out / "work" / "timings").glob("*.json")]
    peak = max(timing["peak_rss_bytes"] for timing in timings) / 2**20
    cpu = sum(seconds for timing in timings for _, seconds in timing["seconds"])
    return Dataset.open(str(out)), peak, cpu / sum(timing["audio_seconds"] for timing in timings)


def settings_for(units: Path, layer: int) -> list[str]:
    return [
        "decode.max_seconds=7200",
        "align.backend=ctc",
        f"align.checkpoint={CHECKPOINTS / 'ctc_tiny'}",
        "units.backend=hubert",
        f"units.checkpoint={units}",
        f"units.layer={layer}",
        "units.quantiser.clusters=100",
        "pitch=null",
        "style=null",
        "store.f0=false",
        "store.audio=false",
        "sequence.stream=base",
        "text.vocab_size=400",
        "plan.hours_per_shard=0.25",
    ]


def compare(whole: Dataset, cut: Dataset, starts: list[int]) -> Difference:
    """Compare word starts, and unit ids that stand for the same samples."""
    (one,) = records(whole)
    many = records(cut)
    grid, size = whole.contracts["hubert"].grid, len(one.streams["hubert"])
    mine = [word.start for word in one.words]
    theirs = [
        None if word.start is None else word.start + starts[int(r.meta["id"].rpartition("-")[2])]
        for r in many
        for word in r.words
    ]
    both = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    shifts = np.abs(np.array([a - b for a, b in both]))
    other = far = frames = 0
    cuts = np.array(starts)
    for record in many:
        first = starts[int(record.meta["id"].rpartition("-")[2])] // grid.hop
        ids = record.streams["hubert"]
        ids = ids[: max(0, size - first)]
        differs = ids != one.streams["hubert"][first : first + len(ids)]
        where = np.array([grid.position(first + int(i)) for i in np.flatnonzero(differs)])
        frames += len(ids)
        other += len(where)
        if len(where):
            far += int((np.abs(where[:, None] - cuts[None, :]).min(axis=1) > SAMPLE_RATE).sum())
    moved = int((shifts > 0.02 * SAMPLE_RATE).sum()) + len(mine) - len(both)
    return Difference(len(many), len(mine), moved, float(shifts.max()) / 16, frames, other, far)


def records(dataset: Dataset) -> list[UnitRecord]:
    return [record for split in range(dataset.num_splits) for record in dataset.records(split)]


def measure(folder: Path, minutes: float, units: Path, layer: int) -> tuple[Difference, float, float]:
    """Return the difference, the peak of the worker that built the whole in MiB, and its CPU seconds per second."""
    write_recording(folder, minutes)
    settings = settings_for(units, layer)
    cut, _, _ = build(folder, "cut", settings)
    # The whole gets the codebook of the pieces, so that ids mean the same.
    codebook = [f"units.quantiser.path={cut.artifact('units')}", f"text.path={cut.artifact('tokenizer')}"]
    size = f"units.quantiser.clusters={cut.contracts['hubert'].codebook_size}"
    whole, peak, cost = build(folder, "whole", [*settings, *codebook, size])
    rows = [json.loads(line) for line in (folder / "cut.jsonl").read_text().splitlines()]
    starts = [round(row["offset"] * SAMPLE_RATE) for row in rows]
    return compare(whole, cut, starts), peak, cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--units", type=Path, default=CHECKPOINTS / "hubert_layer")
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        found, peak, cost = measure(folder, options.minutes, options.units.absolute(), options.layer)
    print(f"{options.minutes:g} min as one utterance, and in {found.pieces} pieces")
    print(f"words: {found.words}, start differs by more than 20 ms: {found.moved}, at most {found.worst_ms:.0f} ms")
    print(
        f"units: {found.frames} frames, other id: {found.other} ({found.other / found.frames:.2%}), "
        f"further than 1 s from a cut: {found.other_far}"
    )
    print(f"the whole: largest worker {peak:,.0f} MiB, {cost:.3f} CPU s per s of audio")


if __name__ == "__main__":
    main()
