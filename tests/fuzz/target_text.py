"""Fuzz target: plain text that the reader mixes in. What is damaged is a BadShard or a row left out, and named."""

import random
import shutil
import tempfile
from functools import cache
from pathlib import Path

from pipeline.reader.source import BadShard, LeftOut
from pipeline.reader.text_files import Unusable
from pipeline.reader.text_source import TextSource
from stages.vocabulary import TokenSequence, Vocabulary
from tests.fuzz.mutations import mutated
from tests.fuzz.seeds_text import text_seeds
from tests.fuzz.targets import require_line
from tests.sequence_builders import SIZES, ByteTokenizer

KINDS = ("jsonl", "parquet", "folder")
MOST_SCRATCH = 2**20


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="interloom-fuzz-")


@cache
def _vocabulary() -> Vocabulary:
    return Vocabulary(ByteTokenizer(), SIZES)


def example(rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(KINDS)
    return kind, mutated(rng, text_seeds()["parquet" if kind == "parquet" else "jsonl"])


def check(kind: str, data: bytes) -> None:
    """Open a source as the reader does, and take every item; `folder` lays the file beside a sound one."""
    folder = Path(_folder().name) / "t"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path = folder / ("a.parquet" if kind == "parquet" else "a.jsonl")
    path.write_bytes(data)
    if kind == "folder":
        (folder / "b.jsonl").write_bytes(text_seeds()["jsonl"][0])
    before = {file: file.read_bytes() for file in folder.iterdir()}
    try:
        _check_source(TextSource(str(path if kind != "folder" else folder), _vocabulary(), scratch_bytes=MOST_SCRATCH))
    except ValueError as error:
        require_line(str(error), 4000)
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


def _check_source(source: TextSource) -> None:
    assert (source.sizes >= 0).all()
    source.identity()
    named = {f"{source.name}: {reason.value}" for reason in Unusable}
    for number, size in enumerate(source.sizes.tolist()):
        shard = source.open(number)
        for index in range(size):
            try:
                item = shard.item(index, 0)
            except BadShard as error:
                require_line(str(error), 4000)
                break
            if isinstance(item, LeftOut):
                assert item.why in named
            else:
                assert isinstance(item, TokenSequence)
                assert len(item.ids) > 1
        shard.close()
