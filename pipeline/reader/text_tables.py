"""Parquet files of text, read at random: a row group is decoded into a file that is mapped into memory."""

import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reader.text_files import Found, Rows, Unusable, readable, usable

BATCH = 4096
"""Rows decoded at a time."""


class TableFile:
    """Parquet. A part is a row group: a random order over the rows of a file would decode a group for each row."""

    def __init__(self, found: Found, field: str) -> None:
        self._found, self._field = found, field
        with readable(found.path), found.open() as file:
            footer = pq.ParquetFile(file)
            self._names = tuple(footer.schema_arrow.names)
            metadata = footer.metadata
            counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self.sizes = np.array(counts, dtype=np.int64)

    def load(self, part: int) -> Rows:
        if self._field not in self._names:
            return Table(self._names, None)
        with readable(self._found.path), self._found.open() as file, tempfile.NamedTemporaryFile() as scratch:
            batches: Iterator[pa.RecordBatch] = pq.ParquetFile(file).iter_batches(
                batch_size=BATCH, row_groups=[part], columns=[self._field]
            )
            first = next(batches)
            with pa.ipc.new_file(scratch, first.schema) as writer:
                for batch in (first, *batches):
                    writer.write_batch(batch)
            scratch.flush()
            return Table(self._names, pa.ipc.open_file(pa.memory_map(scratch.name)).read_all())


class Table:
    """A row group's texts."""

    def __init__(self, names: tuple[str, ...], table: pa.Table | None) -> None:
        self._names = names
        self._column = None if table is None else table.column(0)

    @property
    def nbytes(self) -> int:
        return 0 if self._column is None else int(self._column.nbytes)

    def text(self, row: int) -> str | Unusable:
        if self._column is None:
            return Unusable.NO_FIELD
        try:
            value = self._column[row].as_py()
            return usable(value.decode() if isinstance(value, bytes) else value)
        except UnicodeDecodeError:
            return Unusable.BAD_UTF8

    def fields(self, row: int) -> tuple[str, ...]:
        return self._names
