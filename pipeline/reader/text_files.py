"""Files of plain text: what they hold, where they are, and what can be wrong with a row."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.reader.source import BadShard
from pipeline.storage import is_remote
from schemas.rejects import one_line

HEAD = 65_536
DAMAGE = (
    pa.ArrowInvalid,
    pa.ArrowIndexError,
    pa.ArrowKeyError,
    pa.ArrowNotImplementedError,
    pa.ArrowTypeError,
    OSError,
)
"""What comes of reading a file that is damaged, gone, or of a kind that nothing installed reads."""


class Unusable(Enum):
    """Why a row gives no document."""

    NOT_JSON = "not JSON"
    NOT_AN_OBJECT = "not a JSON object"
    BAD_UTF8 = "not valid UTF-8"
    NO_FIELD = "field missing"
    NOT_TEXT = "not a string"
    EMPTY = "empty"


class Rows(Protocol):
    """A part of a file, ready to be read. `nbytes` is the scratch space that it takes."""

    @property
    def nbytes(self) -> int: ...

    def text(self, row: int) -> str | Unusable: ...

    def fields(self, row: int) -> tuple[str, ...]:
        """Return the names of a row's fields, as far as it has any."""


class TextFile(Protocol):
    """One file. `sizes` are the rows of each part."""

    @property
    def sizes(self) -> npt.NDArray[np.int64]: ...

    def load(self, part: int) -> Rows:
        """Return a part.

        Raises:
            BadShard: if the file is damaged, or gone.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A file as its store describes it. `changed` is a time or a tag, as text."""

    path: str
    size: int
    changed: str

    def open(self) -> Any:
        return fsspec.open(self.path, "rb").open()

    def head_sha256(self) -> str:
        with self.open() as file:
            return hashlib.sha256(io.BufferedReader(file).read(HEAD)).hexdigest()  # a stream gives less at once


def find_files(path: str) -> list[Found]:
    """Return the `.jsonl` and `.parquet` files that a path names, a file or a folder of them, sorted by name.

    Raises:
        ValueError: if there is none.
    """
    filesystem, key = fsspec.core.url_to_fs(path)
    try:
        infos = filesystem.ls(key, detail=True) if filesystem.isdir(key) else [filesystem.info(key)]
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a .jsonl or .parquet file, or a folder of them") from None
    files = [info for info in infos if info["type"] == "file"]
    known = sorted((info for info in files if info["name"].endswith((".jsonl", ".parquet"))), key=lambda i: i["name"])
    if not known:
        others = ", ".join(sorted(info["name"].rsplit("/", 1)[-1] for info in files)[:5]) or "nothing"
        raise ValueError(f"{path} holds no .jsonl or .parquet file (compressed lines must be unpacked), but {others}")
    tags = ("mtime", "LastModified", "last_modified", "updated", "ETag", "created")
    return [
        Found(
            path=filesystem.unstrip_protocol(info["name"]) if is_remote(path) else info["name"],
            size=int(info["size"]),
            changed=next((str(info[tag]) for tag in tags if info.get(tag)), ""),
        )
        for info in known
    ]


def usable(value: Any) -> str | Unusable:
    if isinstance(value, Unusable):
        return value
    if not isinstance(value, str):
        return Unusable.NOT_TEXT
    try:
        value.encode()  # JSON may spell half a surrogate pair, which no tokenizer takes
    except UnicodeEncodeError:
        return Unusable.BAD_UTF8
    return value if value.strip() else Unusable.EMPTY


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn what damaged or vanished files raise into BadShard."""
    try:
        yield
    except DAMAGE as error:
        raise damaged(path, told(error)) from error


def told(error: Exception) -> str:
    """Return an error as a line of a message."""
    return f"{type(error).__name__}: {one_line(' '.join(str(error).split()))}"


def damaged(path: str, detail: str) -> BadShard:
    return BadShard(f"{path} cannot be read ({detail}); copy it again, or take it out of the folder")
