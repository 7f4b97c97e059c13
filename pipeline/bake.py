"""Bake: freeze epochs of the reader's blocks as plain WebDataset shards, equal, token for token, to what it yields.

First form: one process, local or fsspec output, a shard per `BLOCKS_PER_SHARD` blocks.
"""

import io
import tarfile
from collections.abc import Iterator

import numpy as np

from pipeline.reader.packing import Block
from pipeline.reader.sequence_reader import SequenceReader
from pipeline.shards import add_member
from pipeline.storage import join, make_dirs, publish_bytes, publish_json, read_json
from schemas.sequence import SequenceSection
from schemas.unit_record import npy_bytes

BLOCKS_PER_SHARD = 1024
FORMAT = "interloom-baked/1"


class BakeExists(RuntimeError):
    """The folder holds another bake: old shards must not mix with new ones."""


def bake(dataset: str, out: str, sequence: SequenceSection, *, seed: int, epochs: int) -> int:
    """Write the blocks of some epochs; return how many there are. `baked.json` is written last."""
    if read_json(join(out, "baked.json")) is not None:
        raise BakeExists(f"{out} holds baked sequences already; use another --out")
    reader = SequenceReader(dataset, sequence, seed=seed, epochs=epochs)
    size = reader.vocabulary.size
    dtype = np.uint16 if size <= 2**16 else np.uint32
    make_dirs(join(out, "shards"))
    count = shard = 0
    for group in _groups(iter(reader)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for block in group:
                for name in ("document_ids", "input_ids", "labels", "modality", "position_ids"):
                    array = block[name].astype(dtype) if name == "input_ids" else block[name]
                    add_member(tar, f"{count:09d}.{name}.npy", npy_bytes(array))
                count += 1
        publish_bytes(buffer.getvalue(), join(out, "shards", f"baked-{shard:06d}.tar"))
        shard += 1
    info = {
        "blocks": count,
        "context": sequence.context,
        "dtype": np.dtype(dtype).name,
        "epochs": epochs,
        "format": FORMAT,
        "seed": seed,
        "sequence": sequence.model_dump(mode="json"),
        "shards": shard,
        "vocabulary_size": size,
    }
    publish_json(info, join(out, "baked.json"))
    return count


def _groups(blocks: Iterator[Block]) -> Iterator[list[Block]]:
    group: list[Block] = []
    for block in blocks:
        group.append(block)
        if len(group) == BLOCKS_PER_SHARD:
            yield group
            group = []
    if group:
        yield group
