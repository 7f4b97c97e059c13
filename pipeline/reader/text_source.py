"""Plain text as a source of the reader: JSON lines and Parquet, a document per row."""

import os
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.reader.source import LeftOut, Shard
from pipeline.reader.text_files import Found, Rows, TextFile, Unusable, find_files
from pipeline.reader.text_lines import LinesFile, line_offsets
from pipeline.reader.text_tables import TableFile
from schemas.rejects import one_line
from stages.interleave import Modality, Piece
from stages.vocabulary import TokenSequence, Vocabulary

SCRATCH_BYTES = 8 * 2**30
"""Disk that decoded row groups and fetched parts of remote files may take, per source."""

LISTED_FIELDS, NAME_SHOWN = 20, 80
"""How many fields a message names, and how much of each name."""


class TextSource:
    """The rows of one or several files; an item is `[Text]` and the ids of one row's text.

    Rows that hold no text are left out; the reader counts them by reason, each time they come.
    """

    def __init__(
        self,
        path: str,
        vocabulary: Vocabulary,
        *,
        field: str = "text",
        index_folder: str | None = None,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        """Find the files and how many rows they have; reads every file of JSON lines once, unless its index is kept.

        Args:
            path: a `.jsonl` or `.parquet` file or a folder of them, local or an fsspec URL.
            vocabulary: turns texts into ids.
            field: name of the text's key or column.
            index_folder: where the line indices of large files are kept; None: `interloom` in the user's cache folder.
            scratch_bytes: see `SCRATCH_BYTES`.

        Raises:
            ValueError: if there is no such file, no row, or no row that has text in the field.
            BadShard: if a file cannot be read.
        """
        self._path, self._vocabulary, self._field = path, vocabulary, field
        self._found = find_files(path)
        folder = index_folder or default_index_folder()
        self._files = [_open(found, field, folder) for found in self._found]
        self._shards = [(file, part) for file in self._files for part in range(len(file.sizes))]
        self._sizes = np.concatenate([np.zeros(0, np.int64), *(file.sizes for file in self._files)])
        self._loaded: OrderedDict[int, Rows] = OrderedDict()
        self._scratch_left = scratch_bytes
        self._require_text()

    @property
    def name(self) -> str:
        return self._path

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return self._sizes

    def identity(self) -> dict[str, Any]:
        return {"field": self._field, "files": self._described, "vocabulary": self._vocabulary.describe()}

    @cached_property
    def _described(self) -> list[list[Any]]:
        return [[found.path.rsplit("/", 1)[-1], found.size, found.head_sha256()] for found in self._found]

    def open(self, shard: int) -> Shard:
        return _TextShard(self, shard)

    def expect(self, shards: Sequence[int]) -> None:
        """Parts are small enough to be read when they are needed."""

    def rows(self, shard: int) -> Rows:
        """Return a shard's rows, loading them where they are not at hand, and letting go of others for them."""
        if shard not in self._loaded:
            file, part = self._shards[shard]
            loaded = self._loaded[shard] = file.load(part)
            self._scratch_left -= loaded.nbytes
            while self._scratch_left < 0 and len(self._loaded) > 1:
                self._scratch_left += self._loaded.popitem(last=False)[1].nbytes
        self._loaded.move_to_end(shard)
        return self._loaded[shard]

    def encode(self, shard: int, row: int) -> TokenSequence | LeftOut:
        text = self.rows(shard).text(row)
        if isinstance(text, Unusable):
            return LeftOut(f"{self._path}: {text.value}")
        return self._vocabulary.encode([Piece(modality=Modality.TEXT, text=text)])

    def _require_text(self) -> None:
        """Look for one row with text; the first one nearly always has it."""
        fields: dict[str, None] = {}
        reasons: Counter[str] = Counter()
        for shard in range(len(self._shards)):
            for row in range(int(self._sizes[shard])):
                rows = self.rows(shard)
                text = rows.text(row)
                if isinstance(text, str):
                    return
                reasons[text.value] += 1
                fields |= dict.fromkeys(rows.fields(row))
        if not reasons:
            raise ValueError(f"{self._path} holds no rows")
        names = ", ".join(repr(one_line(name[:NAME_SHOWN])) for name in islice(fields, LISTED_FIELDS)) or "none"
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        raise ValueError(
            f"{self._path}: no row has text in {self._field!r} ({why}); fields found: {names}; set `field`"
        )


def _open(found: Found, field: str, index_folder: str) -> TextFile:
    if found.path.endswith(".parquet"):
        return TableFile(found, field)
    return LinesFile(found, field, line_offsets(found, index_folder))


class _TextShard:
    """A light handle: what a shard holds in scratch is the source's to let go."""

    def __init__(self, source: TextSource, shard: int) -> None:
        self._source, self._shard = source, shard

    def item(self, index: int, epoch: int) -> TokenSequence | LeftOut:
        return self._source.encode(self._shard, index)

    def close(self) -> None:
        pass


def default_index_folder() -> str:
    """Return where the indices of large files are kept: `$XDG_CACHE_HOME` or `~/.cache`, and there `interloom`."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(cache) / "interloom" / "lines")
