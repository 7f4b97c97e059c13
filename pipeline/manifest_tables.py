"""Parquet manifests: rows by batches, in bounded memory whatever the number of rows."""

from collections.abc import Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

TEXTS = ("audio_filepath", "text", "id", "recording", "speaker", "language", "license", "source")
NUMBERS = ("offset", "duration", "channel")
BATCH_ROWS = 4096
MAX_FOOTER = 2**28
"""Bytes of a file's footer: 100,000 row groups of 11 columns take 100 MB."""


class DamagedTable(ValueError):
    """The file cannot be read as a manifest; the message says why, without the name of the file."""


def parquet_rows(file: IO[bytes]) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """Yield the fields of each row, or what is wrong with it.

    Raises:
        DamagedTable: if the file is no Parquet, is damaged, or lacks or has columns of another type.
    """
    try:
        # Sizes in a damaged file may ask for more memory than there is: MemoryError.
        table = pq.ParquetFile(file, thrift_string_size_limit=MAX_FOOTER, thrift_container_size_limit=MAX_FOOTER)
        columns = _columns(table.schema_arrow)
        for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
            yield from _rows(batch)
    except (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeDecodeError) as error:
        raise DamagedTable(f"no Parquet file that can be read ({type(error).__name__}); copy it again") from None


def _columns(schema: pa.Schema) -> list[str]:
    """Return the columns that manifests have; others are not read."""
    names = schema.names
    if missing := sorted({"audio_filepath", "text"} - set(names)):
        raise DamagedTable(f"it lacks the columns {', '.join(missing)}")
    found = []
    for name in (*TEXTS, *NUMBERS):
        if names.count(name) > 1:
            raise DamagedTable(f"it has several columns {name!r}; rename one")
        if name in names:
            kind = schema.field(name).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if not _fits(kind, name):
                raise DamagedTable(f"column {name!r} is of another type than {_wanted(name)}; write it as that")
            found.append(name)
    return found


def _fits(kind: pa.DataType, name: str) -> bool:
    if types.is_null(kind):
        return True
    if name in NUMBERS:
        return bool(types.is_integer(kind) or types.is_floating(kind))
    text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(text or (types.is_integer(kind) and name in ("id", "speaker", "recording")))


def _wanted(name: str) -> str:
    return "a number" if name in NUMBERS else "a string"


def _rows(batch: pa.RecordBatch) -> Iterator[tuple[dict[str, Any] | None, str]]:
    names, broken = batch.schema.names, dict[int, str]()
    columns = [_values(batch.column(name), name, broken) for name in names]
    for index, values in enumerate(zip(*columns, strict=True)):
        if index in broken:
            yield None, f"'{broken[index]}' is not valid Unicode"
        else:
            yield dict(zip(names, values, strict=True)), ""


def _values(column: pa.Array, name: str, broken: dict[int, str]) -> list[Any]:
    """Return a column's values; enter the rows whose text is not UTF-8, which nothing checks when a file is written."""
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = [_value(column, index) for index in range(len(column))]
        for index, value in enumerate(values):
            if isinstance(value, bytes):
                broken.setdefault(index, name)
    if name == "channel" and types.is_floating(column.type):  # a column with gaps, as pandas writes it
        return [int(value) if value is not None and value.is_integer() else value for value in values]
    return list(values)


def _value(column: pa.Array, index: int) -> Any:
    try:
        return column[index].as_py()
    except UnicodeDecodeError:
        return b""
