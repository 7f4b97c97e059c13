"""Baked blocks at rest: what one sample of a baked shard holds, and its exact bytes."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.reader.source import Packed
from schemas.canonical import canonical_json
from schemas.unit_record import npy_array, npy_bytes

FORMAT = "interloom-baked/2"
MEMBERS = ("ids.npy", "json", "lengths.npy", "runs.npy")
"""Extensions of a sample's members, sorted."""

_FIRST = re.compile(rb'"first_modality":([01])[,}]')
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '(<u[24])', 'fortran_order': False, 'shape': \((\d+),\), \} *\n"
)
_HEADER_BYTES = 128


class BakedBlock(NamedTuple):
    """A block and where it comes from: the epoch in which it begins."""

    packed: Packed
    epoch: int


def ids_dtype(vocabulary_size: int) -> str:
    """Return the type that ids are stored in."""
    return "<u2" if vocabulary_size <= 2**16 else "<u4"


def block_members(block: BakedBlock, *, stream: int, index: int, dtype: str) -> dict[str, bytes]:
    """Return the members of a sample by extension, sorted.

    `ids`: tokens without padding. `lengths`, uint32: tokens of each document's stretch. `runs`, uint32: lengths of the
    runs of one modality, which alternate, beginning with `first_modality` (0 text, 1 speech) of the JSON member.
    """
    ids, modality, lengths = block.packed
    starts = np.flatnonzero(np.diff(modality, prepend=1 - modality[:1]))
    runs = np.diff(starts, append=len(modality))
    body = {"epoch": block.epoch, "first_modality": int(modality[0]), "index": index, "stream": stream}
    return {
        "ids.npy": npy_bytes(ids.astype(dtype)),
        "json": canonical_json(body).encode(),
        "lengths.npy": npy_bytes(lengths.astype("<u4")),
        "runs.npy": npy_bytes(runs.astype("<u4")),
    }


def packed_of(members: Mapping[str, bytes], *, context: int, vocabulary_size: int) -> Packed:
    """Parse and validate.

    Raises:
        ValueError: saying what is wrong.
    """
    if missing := [name for name in MEMBERS if name not in members]:
        raise ValueError(f"it has no {missing[0]}")
    ids = _array(members["ids.npy"], ids_dtype(vocabulary_size))
    lengths, runs = (_array(members[name], "<u4") for name in ("lengths.npy", "runs.npy"))
    first = _FIRST.search(members["json"])
    if first is None:
        raise ValueError("its JSON names no first_modality")
    if not 0 < len(ids) <= context or int(ids.max()) >= vocabulary_size:
        raise ValueError(
            f"{len(ids)} ids up to {int(ids.max(initial=0))} do not fit a context of {context} and a vocabulary of "
            f"{vocabulary_size}"
        )
    if int(lengths.sum()) != len(ids) or int(runs.sum()) != len(ids) or not lengths.all() or not runs.all():
        raise ValueError(f"its lengths or its runs do not add up to {len(ids)} ids")
    which = ((np.arange(len(runs)) + int(first[1])) % 2).astype(np.int8)
    return Packed(ids.astype(np.int64), np.repeat(which, runs), lengths.astype(np.int64))


def _array(data: bytes, dtype: str) -> npt.NDArray[Any]:
    """Read what `npy_bytes` wrote; anything else that numpy can read takes the slower way."""
    header = _HEADER.fullmatch(data[:_HEADER_BYTES])
    if header is not None and header[1].decode() == dtype:
        array: npt.NDArray[Any] = np.frombuffer(data, dtype=dtype, offset=_HEADER_BYTES)
        if len(array) == int(header[2]):
            return array
    return npy_array(data, np.dtype(dtype).type)
