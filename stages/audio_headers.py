"""What the header of a WAV or AIFF file says of its own size: libsndfile quietly takes what is left of a cut one."""

import io
import struct

_UNKNOWN = 0x7FFF0000
"""Programs that write into a pipe state a size from here on, or 0."""
_MOST_CHUNKS = 1000


def missing_share(source: str | io.BytesIO) -> float:
    """Return how many bytes of samples are missing, as a share of those that are there; 0 where it cannot be told.

    Args:
        source: a local path, or the bytes of a file; the position of the latter changes.
    """
    if isinstance(source, io.BytesIO):
        return _missing_share(source)
    with open(source, "rb") as file:
        return _missing_share(file)


def _missing_share(file: io.BufferedReader | io.BytesIO) -> float:
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    order, wanted = ("<", b"data") if head[:4] == b"RIFF" else (">", b"SSND")
    if head[:4] not in (b"RIFF", b"FORM"):
        return 0.0
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            return 0.0
        size = struct.unpack(f"{order}I", chunk[4:])[0]
        if chunk[:4] == wanted:
            there = end - file.tell()
            return (size - there) / there if 0 < there < size < _UNKNOWN else 0.0
        file.seek(size + size % 2, io.SEEK_CUR)
    return 0.0
