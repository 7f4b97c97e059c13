"""The files of a plan's rows: how they are named, and how they are written in bounded memory.

`splits.parquet` holds the first `SPLITS_PER_FILE` splits, one row group each; `splits-000001.parquet` the next, and so
on. The footer of a file grows with its row groups, and a worker reads it for each split: divided so, it stays at some
hundred kilobytes however many splits there are.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.beside import beside
from pipeline.storage import is_remote, join, make_dirs, publish_file
from schemas.tables import ROWS

SPLITS_PER_FILE = 256
GROUPS_PER_FILE = 256
"""Row groups in a file of the spool."""
SPOOLED = ROWS.names[1:]
"""What a row says before its split is known."""
SPOOL = ROWS.append(pa.field("seconds", pa.float64(), nullable=False))
_SORTED = sorted(ROWS.names)
_NOT_SAID = {True: ("reason", "detail"), False: ("length", "channel")}

Item = TypeVar("Item")


def rows_file(rows_path: str, split: int) -> str:
    """Return the file that holds a split; its row group is `split % SPLITS_PER_FILE`."""
    number = split // SPLITS_PER_FILE
    return rows_path if number == 0 else f"{rows_path.removesuffix('.parquet')}-{number:06d}.parquet"


def rows_files(rows_path: str, splits: int) -> list[str]:
    """Return the files of so many splits, in order."""
    return [rows_file(rows_path, split) for split in range(0, splits, SPLITS_PER_FILE)]


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def hashed_forms(rows: pa.Table) -> Iterator[bytes]:
    """Yield what each row adds to the fingerprint of a plan: the canonical JSON of what it says.

    Args:
        rows: a table of `schemas.tables.ROWS`.
    """
    columns = [rows.column(name).to_pylist() for name in _SORTED]
    for values in zip(*columns, strict=True):
        row = dict(zip(_SORTED, values, strict=True))
        for name in _NOT_SAID[row["reason"] is None]:
            del row[name]
        yield orjson.dumps(row)


class Spool:
    """Rows on their way from the manifest into splits, in temporary files: cutting needs the total first.

    Many files, since the footer of one stays in memory while it is written, and while it is read.

    Attributes:
        count, total: rows and audio seconds so far.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: list[Path] = []
        self._writer: pq.ParquetWriter | None = None
        self._groups = 0
        self.count, self.total = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _file(self) -> pq.ParquetWriter:
        """Return the file that the next row group goes into."""
        if self._writer is None or self._groups == GROUPS_PER_FILE:
            if self._writer is not None:
                self._writer.close()
            self._paths.append(self._folder / f"spool-{len(self._paths):06d}.parquet")
            self._writer = pq.ParquetWriter(self._paths[-1], SPOOL, compression="zstd", write_statistics=False)
            self._groups = 0
        self._groups += 1
        return self._writer

    def add(self, rows: list[tuple[Any, ...]], seconds: list[float]) -> None:
        """Take rows, each with its values in the order of `SPOOLED`, and their audio seconds."""
        columns = dict(zip(SPOOLED, zip(*rows, strict=True), strict=True))
        self._file().write_table(pa.table({"split": [0] * len(rows), **columns, "seconds": seconds}, schema=SPOOL))
        for weight in seconds:  # in order: another order may round the sum to another cut
            self.total += weight
        self.count += len(rows)

    def recordings(self) -> Iterator[tuple[str | None, float]]:
        """Yield each row's recording, None for a rejected row, and its audio seconds."""
        for batch in self._batches(["recording", "reason", "seconds"]):
            columns = (batch.column(name).to_pylist() for name in ("recording", "reason", "seconds"))
            for recording, reason, seconds in zip(*columns, strict=True):
                yield (recording if reason is None else None), seconds

    def tables(self) -> Iterator[tuple[pa.Table, list[float]]]:
        """Yield the rows, some thousands at a time, and their audio seconds."""
        for batch in self._batches(SPOOL.names):
            yield pa.table(batch.select(ROWS.names).columns, schema=ROWS), batch.column("seconds").to_pylist()

    def _batches(self, columns: list[str]) -> Iterator[pa.Table]:
        for path in self._paths:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield file.read_row_group(group, columns=columns, use_threads=False)


class RowsWriter:
    """Writes the files of a plan's rows, split after split.

    Attributes:
        inputs, sizes: rows and audio seconds of each split so far.
    """

    def __init__(self, root: str, folder: Path) -> None:
        self._rows_path, self._local = join(root, "splits.parquet"), folder / "rows.parquet"
        self._hash = hashlib.sha256()
        self._parts: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self.inputs: list[int] = []
        self.sizes: list[float] = []

    @property
    def fingerprint(self) -> str:
        """Hash of what the rows say and how they are cut, not of how Parquet stores it."""
        return self._hash.hexdigest()[:16]

    def add(self, table: pa.Table, seconds: list[float], splits: list[int]) -> None:
        """Take the next rows with their splits, which never descend."""
        start = 0
        for split, members in groupby(splits):
            count = len(list(members))
            if split == len(self.inputs):
                self._end_split()
                self.inputs.append(0)
                self.sizes.append(0.0)
            part = table.slice(start, count)
            part = part.set_column(0, ROWS.field("split"), pa.array([split] * count, pa.int32()))
            self._parts.append(part)
            self._hash.update(b"".join(hashed_forms(part)))
            for weight in seconds[start : start + count]:
                self.sizes[-1] += weight
            self.inputs[-1] += count
            start += count

    def close(self) -> None:
        """Write the last split and publish the last file."""
        self._end_split()
        self._end_file()

    def _end_split(self) -> None:
        if not self._parts:
            return
        if (len(self.inputs) - 1) % SPLITS_PER_FILE == 0:
            self._end_file()
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._local, ROWS, compression="zstd", write_statistics=False)
        whole = pa.concat_tables(self._parts).combine_chunks()
        self._writer.write_table(whole, row_group_size=max(1, whole.num_rows))
        self._parts = []

    def _end_file(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        written = len(self.inputs) - 1 if self._parts else len(self.inputs)
        final = rows_file(self._rows_path, written - 1)
        if is_remote(final):
            publish_file(self._local, final)
            return
        make_dirs(os.path.dirname(final))
        with open(self._local, "rb") as source, beside(final) as file:
            shutil.copyfileobj(source, file)
