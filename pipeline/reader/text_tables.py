"""Parquet files of text, read at random: a row group is decoded into a file that is mapped into memory."""

import tempfile
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.reader.text_files import DAMAGE, Found, Rows, Unusable, damaged, readable, told, usable

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
        if min(counts, default=0) < 0 or sum(counts) != metadata.num_rows:
            raise damaged(found.path, "its footer contradicts itself")
        self.sizes = np.array(counts, dtype=np.int64)

    def load(self, part: int) -> Rows:
        if self._field not in self._names:
            return Table(self._found.path, self._names, None)
        with readable(self._found.path), self._found.open() as file, tempfile.NamedTemporaryFile() as scratch:
            batches: Iterator[pa.RecordBatch] = pq.ParquetFile(file).iter_batches(
                batch_size=BATCH, row_groups=[part], columns=[self._field]
            )
            first, promised = next(batches, None), int(self.sizes[part])
            rows = 0 if first is None else first.num_rows
            if first is not None:
                with pa.ipc.new_file(scratch, first.schema) as writer:
                    writer.write_batch(first)
                    for batch in batches:
                        writer.write_batch(batch)
                        rows += batch.num_rows
            if rows != promised:
                raise damaged(self._found.path, f"row group {part} holds {rows} rows, its footer says {promised}")
            scratch.flush()
            return Table(self._found.path, self._names, pa.ipc.open_file(pa.memory_map(scratch.name)).read_all())


class Table:
    """A row group's texts."""

    def __init__(self, path: str, names: tuple[str, ...], table: pa.Table | None) -> None:
        self._path, self._names = path, names
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
        except DAMAGE as error:  # such as an index beyond the end of its dictionary
            raise damaged(self._path, told(error)) from error

    def fields(self, row: int) -> tuple[str, ...]:
        return self._names
