"""The reader against plain webdataset, against interleaving word by word, and against its own baked blocks.

    python -m benchmarks.reader                      20,000 utterances of about 300 tokens, some minutes
    python -m benchmarks.reader --utterances 2000    a trial
    python -m benchmarks.reader --dataset FOLDER     a built dataset in place of the synthetic one
    python -m benchmarks.reader --baked FOLDER       a bake of that dataset; without it one is made

All on the same bytes in one process on one core; figures are medians of CPU seconds of this process, rows taken in
turns, after one pass that does not count. Every row of ours reads shards, parses, draws, encodes text and speech and
packs blocks. `webdataset` rows only iterate: a sample counts for as many tokens as it gives with expressive units. The
word-by-word row holds its records in memory, uses HuBERT units only, and counts its own tokens. webdataset and
transformers must be installed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from benchmarks import reader_peers as peers
from benchmarks.reader_dataset import write_dataset
from pipeline.dataset import Dataset
from pipeline.reader.sequence_reader import SequenceReader
from pipeline.reader.source import Source
from pipeline.reader.units_source import UnitsSource
from pipeline.reader.vocabularies import vocabulary_of
from schemas.sequence import SequenceSection

CONTEXT = 2048
EPOCHS = 10
RESUME_AFTER = 1_000_000


class Row(NamedTuple):
    """A contender: its name, what is timed (returns tokens), and the samples of one pass."""

    name: str
    run: Callable[[], int]
    samples: int


def main() -> None:
    options = parsed()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.dataset or str(Path(scratch) / "dataset")
        if not options.dataset:
            write_dataset(Path(folder), options.utterances)
        dataset = Dataset.open(folder)
        baked = options.baked or bake(folder, str(Path(scratch) / "baked"))
        samples = int(dataset.info["records"])
        print(f"{samples:,} samples, {peers.size_of(dataset) / 1e6:.0f} MB, blocks of {CONTEXT}")
        rows = contenders(dataset, baked, samples, options.words)
        report(rows, measured(rows, options.repeats))
        memory(dataset, options.epochs)
        latencies(dataset)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--dataset")
    parser.add_argument("--baked")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of the measurement of memory")
    parser.add_argument("--words", type=int, default=2000, help="records of the word-by-word row")
    return parser.parse_args()


def bake(dataset: str, out: str) -> str:
    command = [sys.executable, "-m", "jobs.cli", "bake", dataset, "--out", out, "--set", f"sequence.context={CONTEXT}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def contenders(dataset: Dataset, baked: str, samples: int, words: int) -> list[Row]:
    records = peers.aligned_records(dataset, words)
    tokenize = peers.unit_tokenizer(peers.transcripts(dataset, 4000), dataset.contracts["hubert"].codebook_size)
    rows = [
        Row(f"ours, {stream}, {kind}", partial(one_epoch, *units_of(dataset, stream, join)), samples)
        for stream in ("expressive", "base")
        for kind, join in (("recordings", True), ("utterances", False))
    ]
    source, vocabulary = peers.baked_source(baked)
    return [
        *rows,
        Row("ours, baked", lambda: total(reader_of(source, vocabulary, epochs=1)), samples),
        Row("webdataset, json and npy decoded", lambda: peers.webdataset_pass(dataset, decode=True) * 0, samples),
        Row("webdataset, not decoded", lambda: peers.webdataset_pass(dataset, decode=False) * 0, samples),
        Row("word by word, from memory", lambda: peers.word_by_word_pass(records, tokenize, 0), len(records)),
    ]


def units_of(dataset: Dataset, stream: str = "expressive", join: bool = True) -> tuple[UnitsSource, Any]:
    section = {"stream": stream, "join_recordings": join, "context": CONTEXT}
    vocabulary = vocabulary_of(dataset)
    return UnitsSource(dataset, SequenceSection.model_validate(section), vocabulary, seed=0), vocabulary


def reader_of(source: Source, vocabulary: Any, epochs: int | None = None) -> SequenceReader:
    return SequenceReader([source], vocabulary, context=CONTEXT, seed=0, epochs=epochs)


def one_epoch(source: Source, vocabulary: Any) -> int:
    """Read an epoch; the source keeps the ids of words from one pass to the next, as it does from epoch to epoch."""
    return total(reader_of(source, vocabulary, epochs=1))


def total(reader: SequenceReader) -> int:
    """Read all blocks, padded and with all their arrays; return the tokens."""
    return sum(int((block["modality"] >= 0).sum()) for block in reader)


def measured(rows: list[Row], repeats: int) -> list[tuple[float, int]]:
    """Return median CPU seconds and tokens of each row; rows take turns, after one pass that does not count."""
    seconds: list[list[float]] = [[] for _ in rows]
    tokens = [0] * len(rows)
    for repeat in range(repeats + 1):
        for i, row in enumerate(rows):
            start = time.process_time()
            tokens[i] = row.run()
            if repeat:
                seconds[i].append(time.process_time() - start)
    return [(statistics.median(found), count) for found, count in zip(seconds, tokens, strict=True)]


def report(rows: list[Row], found: list[tuple[float, int]]) -> None:
    per_sample = [seconds / row.samples for row, (seconds, _) in zip(rows, found, strict=True)]
    speeds = []
    for row, (seconds, tokens) in zip(rows, found, strict=True):
        counted = tokens or found[0][1]
        speeds.append(counted / row.samples / (seconds / row.samples))
    decoded, spelt = per_sample[-3], speeds[-1]
    print(
        f"{'':34}{'us/sample':>10}{'tokens/sample':>15}{'tokens/s/core':>15}{'vs decoded':>12}{'vs word by word':>17}"
    )
    for i, (row, (_, tokens)) in enumerate(zip(rows, found, strict=True)):
        length = (tokens or found[0][1]) / row.samples
        print(
            f"{row.name:34}{per_sample[i] * 1e6:10.0f}{length:15.0f}{speeds[i]:15,.0f}"
            f"{decoded / per_sample[i]:11.2f}x{speeds[i] / spelt:16.2f}x"
        )
    print("vs decoded: samples a second against webdataset decoded; vs word by word: tokens a second against that row")


def memory(dataset: Dataset, epochs: int) -> None:
    """Print the growth of this process' own memory, without the pages of files, over epochs."""
    source, vocabulary = units_of(dataset)
    reader = reader_of(source, vocabulary, epochs=epochs)
    sizes: list[float] = []
    for _ in reader.packed():
        if reader.epoch >= len(sizes):
            sizes.append(own_megabytes())
    sizes.append(own_megabytes())
    print(f"memory: {sizes[1]:.1f} MB after an epoch, {max(sizes[1:]):.1f} MB at most over {epochs}")


def own_megabytes() -> float:
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1]) / 1024


def latencies(dataset: Dataset) -> None:
    start = time.perf_counter()
    source, vocabulary = units_of(Dataset.open(dataset.root))
    reader = reader_of(source, vocabulary)
    next(iter(reader))
    print(f"first block: {time.perf_counter() - start:.3f} s after the dataset's name was given")
    items = int(source.sizes.sum())
    for _ in zip(range(50), reader, strict=False):
        pass
    state = json.loads(json.dumps(reader.state_dict()).replace('"epoch": 0', f'"epoch": {epochs_before(dataset)}'))
    for lane in (lane for stream in state["served"].values() for lane in stream["lanes"]):
        lane["todo"] = [[lane["epoch"], *rest] for _, *rest in lane["todo"]]
    start = time.perf_counter()
    source, vocabulary = units_of(Dataset.open(dataset.root))
    reader = reader_of(source, vocabulary)
    reader.load_state_dict(state)
    next(iter(reader))
    print(f"resume: {time.perf_counter() - start:.3f} s to the next block in epoch {reader.epoch} of {items:,} items")


def epochs_before(dataset: Dataset) -> int:
    return -(-RESUME_AFTER // int(dataset.info["records"]))


if __name__ == "__main__":
    main()
