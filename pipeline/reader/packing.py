"""Packing: documents laid end to end into blocks of the context length."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reader.source import Packed
from stages.vocabulary import TASKS, TokenSequence, Vocabulary

IGNORED = -100
"""The label of a position that is no target."""

Block = dict[str, npt.NDArray[Any]]
"""Arrays of shape (context,), save the last.

- `input_ids`, int64.
- `labels`, int64: equal to `input_ids` (models shift by one themselves), `IGNORED` at padding and at the first token of
  each document's stretch, which the document before it cannot predict.
- `position_ids`, int64: from 0 at the beginning of each stretch.
- `document_ids`, int32: the number of the stretch within the block, -1 at padding: block-diagonal attention joins equal
  ones.
- `modality`, int8: 0 text, 1 speech, -1 padding.
- `cu_seqlens`, int32, shape (stretches + 1,), one more where there is padding: where each stretch begins, and the
  context at the end, as attention over sequences of various lengths takes it.
"""


class Packer:
    """Fills one block at a time.

    A block is cut only where the sequence allows it, so up to four positions at its end may be padding (a task, a
    marker and a group of style, pitch and HuBERT take five). A stretch that goes on with a piece begun in the block
    before re-opens with that piece's marker.
    """

    def __init__(self, context: int, vocabulary: Vocabulary) -> None:
        self._context = context
        self._markers = np.array([[vocabulary.marker_id(0)], [vocabulary.marker_id(1)]], dtype=np.int64)
        self._openings = frozenset([*self._markers.ravel().tolist(), *map(vocabulary.task_id, TASKS)])
        self._ids: list[npt.NDArray[np.int64]] = []
        self._modality: list[npt.NDArray[np.int8]] = []
        self._lengths: list[int] = []
        self._used = 0

    @property
    def used(self) -> int:
        return self._used

    @property
    def room(self) -> int:
        return self._context - self._used

    def add(self, sequence: TokenSequence, start: int) -> int:
        """Append tokens from index `start` as far as they fit; return the index of the first that does not."""
        total = len(sequence.ids)
        if start == total:
            return start
        reopens = start > 0 and int(sequence.ids[start]) not in self._openings
        end = min(total, start + self.room - reopens)
        while start < end < total and sequence.glued[end]:
            end -= 1
        if end <= start:
            return start
        if reopens:
            opening = sequence.modality[start : start + 1]
            self._ids.append(self._markers[opening[0]])
            self._modality.append(opening)
        self._ids.append(sequence.ids[start:end])
        self._modality.append(sequence.modality[start:end])
        self._lengths.append(end - start + reopens)
        self._used += end - start + reopens
        return end

    def take(self) -> Packed:
        """Return what the block holds and begin an empty one."""
        packed = Packed(
            np.concatenate([np.empty(0, np.int64), *self._ids]),
            np.concatenate([np.empty(0, np.int8), *self._modality]),
            np.array(self._lengths, dtype=np.int64),
        )
        self._ids, self._modality, self._lengths, self._used = [], [], [], 0
        return packed


def block_of(packed: Packed, context: int) -> Block:
    """Return the block, padded to the context."""
    used = len(packed.ids)
    ends = np.cumsum(packed.lengths)
    starts = ends - packed.lengths
    input_ids = np.zeros(context, dtype=np.int64)
    input_ids[:used] = packed.ids
    labels = np.full(context, IGNORED, dtype=np.int64)
    labels[:used] = packed.ids
    labels[starts] = IGNORED
    position_ids = np.zeros(context, dtype=np.int64)
    position_ids[:used] = np.arange(used) - np.repeat(starts, packed.lengths)
    document_ids = np.full(context, -1, dtype=np.int32)
    document_ids[:used] = np.repeat(np.arange(len(packed.lengths)), packed.lengths)
    modality = np.full(context, -1, dtype=np.int8)
    modality[:used] = packed.modality
    edges = [0, *ends.tolist(), *([context] if used < context else [])]
    return {
        "input_ids": input_ids,
        "labels": labels,
        "position_ids": position_ids,
        "document_ids": document_ids,
        "modality": modality,
        "cu_seqlens": np.array(edges, dtype=np.int32),
    }
