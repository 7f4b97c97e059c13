"""Packing: documents laid end to end into blocks of the context length."""

from typing import Any

import numpy as np
import numpy.typing as npt

from stages.vocabulary import TokenSequence, Vocabulary

IGNORED = -100
"""The label of a position that is no target."""

Block = dict[str, npt.NDArray[Any]]
"""Arrays of shape (context,).

- `input_ids`, int64.
- `labels`, int64: equal to `input_ids` (models shift by one themselves), `IGNORED` at padding and at the first token of
  each document's stretch, which the document before it cannot predict.
- `position_ids`, int64: from 0 at the beginning of each stretch.
- `document_ids`, int32: the number of the stretch within the block, -1 at padding: block-diagonal attention joins equal
  ones.
- `modality`, int8: 0 text, 1 speech, -1 padding.
"""


class Packer:
    """Fills one block at a time.

    A block is cut only where the sequence allows it, so up to three positions at its end may be padding (a marker and
    a group of style, pitch and HuBERT take four). A stretch that goes on with a piece begun in the block before
    re-opens with that piece's marker.
    """

    def __init__(self, context: int, vocabulary: Vocabulary) -> None:
        self._context = context
        self._markers = np.array([vocabulary.marker_id(0), vocabulary.marker_id(1)], dtype=np.int64)
        self._stretches: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]] = []
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
        reopens = sequence.ids[start] not in self._markers
        end = min(total, start + self.room - reopens)
        while start < end < total and sequence.glued[end]:
            end -= 1
        if end <= start:
            return start
        ids, modality = sequence.ids[start:end], sequence.modality[start:end]
        if reopens:
            ids = np.concatenate([self._markers[modality[:1]], ids])
            modality = np.concatenate([modality[:1], modality])
        self._stretches.append((ids, modality))
        self._used += len(ids)
        return end

    def take(self) -> Block:
        """Return the block, padded to the context, and begin an empty one."""
        block: Block = {
            "input_ids": np.zeros(self._context, dtype=np.int64),
            "labels": np.full(self._context, IGNORED, dtype=np.int64),
            "position_ids": np.zeros(self._context, dtype=np.int64),
            "document_ids": np.full(self._context, -1, dtype=np.int32),
            "modality": np.full(self._context, -1, dtype=np.int8),
        }
        at = 0
        for number, (ids, modality) in enumerate(self._stretches):
            here = slice(at, at + len(ids))
            block["input_ids"][here] = ids
            block["labels"][at + 1 : at + len(ids)] = ids[1:]
            block["position_ids"][here] = np.arange(len(ids))
            block["document_ids"][here] = number
            block["modality"][here] = modality
            at += len(ids)
        self._stretches, self._used = [], 0
        return block
