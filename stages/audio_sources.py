"""Where audio lies: a regular local file, or an object behind a URL. Nothing else is ever opened.

A fifo, a device, a socket or a folder would block a worker or feed it without end; a URL of another kind may name a
program's own files or chain one file system to another.
"""

import errno
import io
import os
import re
import stat
from typing import Any

from schemas.path_errors import OF_THE_PATH
from schemas.rejects import Reason
from schemas.store_errors import is_away, is_unknown
from schemas.urls import public_url

STORES = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "hdfs", "memory", "oss", "s3", "s3a", "webhdfs"})
WEB = frozenset({"http", "https"})
"""A server that cannot be reached costs the record: anybody may name one. A store that cannot be reached stops the
split, which is run again: no record is to blame."""
MAX_OBJECT = 2 << 30
"""Bytes that are read of an object, into memory: three hours of stereo at 48 kHz in 16 bits."""
PIECE = 16 << 20
"""Bytes that are asked for at once where a file is read again: more than a decoder asks for at once."""
KERNEL_FILES = ("/proc/", "/sys/")
OF_THE_OBJECT = frozenset(
    {"400", "403", "404", "405", "AccessDenied", "AllAccessDisabled", "InvalidBucketName", "InvalidObjectState"}
    | {"InvalidURI", "KeyTooLongError", "MethodNotAllowed", "NoSuchBucket", "NoSuchKey"}
)
"""Codes with which S3 refuses one object. Others tell of us (an expired token, a wrong clock) or of itself."""
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII)


class AudioProblem(Exception):
    """What is wrong with one utterance's audio; becomes a reject."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def scheme_of(location: str) -> str:
    """Return the scheme of a URL, "" for a local path.

    Raises:
        ValueError: if it is a URL that is never opened; the message says why.
    """
    if "://" not in location:
        return ""
    found = _URL.match(location)
    if found is None:
        raise ValueError("holds '://' but begins with no scheme")
    if found[1] not in STORES | WEB:
        raise ValueError(
            f"{found[1][:40]}:// is no place to read audio from; use a path, s3://, gs://, az:// or https://"
        )
    if "::" in location:
        raise ValueError("a chained URL ('::') is never opened")
    return found[1]


class Sources:
    """Opens the audio of one row after the other, and keeps the last object: rows of a recording follow each other.

    So an object is fetched once for all rows that follow each other in one worker, and its bytes stay in memory until
    another row is opened. Threads may share it: two of them may fetch the same object then, each gets a stream of its
    own.
    """

    def __init__(self) -> None:
        self._kept: tuple[str, bytes | AudioProblem] | None = None

    def open(self, location: str) -> str | io.BytesIO:
        """Return a local path that is a regular file, or the bytes behind a URL.

        Raises:
            AudioProblem: if it cannot be had.
            OSError: EIO, if a store cannot be reached or the system does not give a file.
        """
        try:
            scheme = scheme_of(location)
        except ValueError as error:
            raise AudioProblem(Reason.MISSING_AUDIO, str(error)) from None
        if scheme:
            return io.BytesIO(self._bytes(location, scheme))
        self._kept = None
        return _regular(location)

    def _bytes(self, location: str, scheme: str) -> bytes:
        kept = self._kept  # one look: another thread may replace it
        if kept is None or kept[0] != location:
            self._kept = kept = None  # two objects are never held
            kept = (location, _object(location, scheme))
            self._kept = kept
        if isinstance(kept[1], AudioProblem):
            raise AudioProblem(kept[1].reason, kept[1].detail)
        return kept[1]


def open_source(location: str) -> str | io.BytesIO:
    """Return a local path or the bytes behind a URL as `Sources.open` does, and keep nothing."""
    return Sources().open(location)


def _regular(location: str) -> str:
    """Return a local path that is a regular file.

    Raises:
        AudioProblem: if it is none.
        OSError: EIO, if the system does not say.
    """
    try:
        found = os.stat(location)
    except (OSError, ValueError) as error:
        raise _told(error, location) from None
    if not stat.S_ISREG(found.st_mode):
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "not a regular file")
    if found.st_size == 0:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "the file is empty")
    if not os.access(location, os.R_OK):
        require_given(location)  # it tells "no" whatever the error
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "no permission to read it")
    return location


def require_given(source: str | io.BytesIO) -> None:
    """Read a source once more, since decoders take an error of the system for the end of the file or for damage.

    Costs a pass over the file, of at most MAX_OBJECT bytes. Files of the kernel are left alone.

    Raises:
        AudioProblem: if the file is gone or may not be read.
        OSError: EIO, if the system does not give it.
        MemoryError: if there is none for a piece.
    """
    if isinstance(source, io.BytesIO):
        bytearray(PIECE)
        return
    if os.path.realpath(source).startswith(KERNEL_FILES):
        return
    try:
        with open(source, "rb", buffering=0) as file:
            left = MAX_OBJECT
            while left > 0 and (piece := file.read(PIECE)):
                left -= len(piece)
    except PermissionError:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "no permission to read it") from None
    except OSError as error:
        raise _told(error, source) from None


def _told(error: OSError | ValueError, location: str) -> AudioProblem | OSError:
    """Return what an error costs: the record, where its path is to blame, else the split."""
    known = {errno.ELOOP: "a loop of links", errno.ENAMETOOLONG: "a name longer than the file system takes"}
    number = error.errno or 0 if isinstance(error, OSError) else errno.ENOENT
    if number in OF_THE_PATH:
        return AudioProblem(Reason.MISSING_AUDIO, known.get(number, "no such file"))
    return OSError(errno.EIO, f"the system does not give the file: {os.strerror(number)}", location)


def _object(location: str, scheme: str) -> bytes | AudioProblem:
    """Fetch an object; the problem of one that is too large is returned, since finding it out again costs as much.

    Raises:
        AudioProblem: if it cannot be had.
        OSError: EIO, if a store cannot be reached.
    """
    import fsspec

    # One answer of a web server, as a stream: put together from ranges it would be cut where HEAD tells a wrong size.
    options = {"block_size": 0} if scheme in WEB else {}
    try:
        with fsspec.open(location, "rb", **options) as remote:
            data = _whole(remote)
    except FileNotFoundError:
        raise AudioProblem(Reason.MISSING_AUDIO, "no such object") from None
    except Exception as error:
        if not (isinstance(error, OSError) or is_away(error) or is_unknown(error)):
            raise
        code = _s3_code(error, location)
        if code and code not in OF_THE_OBJECT:
            raise OSError(errno.EIO, f"the object store refuses: {code}", public_url(location)) from error
        if isinstance(error, PermissionError | IsADirectoryError):
            raise AudioProblem(Reason.UNREADABLE_AUDIO, "no permission to read it, or no object") from None
        if scheme in WEB or getattr(error, "errno", None) == errno.EINVAL:
            detail = "the server does not give it whole, or it cannot be named so"
            raise AudioProblem(Reason.MISSING_AUDIO, detail) from None
        told = f"the object store cannot be reached: {type(error).__name__}"
        raise OSError(errno.EIO, told, public_url(location)) from error
    if not data:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "the file is empty")
    if len(data) > MAX_OBJECT:
        return AudioProblem(Reason.UNREADABLE_AUDIO, f"larger than {MAX_OBJECT >> 30} GiB, which are held in memory")
    return data


def _s3_code(error: BaseException, location: str) -> str:
    """Return the code with which S3 refused, "" where the error is none of S3's."""
    answer = getattr(error.__cause__, "response", None) or {}
    code = str(answer.get("Error", {}).get("Code", ""))
    if code.isdigit():  # HEAD is answered without a body, which would tell more
        import fsspec

        filesystem, key = fsspec.core.url_to_fs(location)
        try:
            filesystem.cat_file(key, start=0, end=1)
        except OSError as told:
            answer = getattr(told.__cause__, "response", None) or {}
            return str(answer.get("Error", {}).get("Code", code))
    return code


def _whole(remote: Any) -> bytes:
    """Return an object's bytes, at most one more than may be held; a stream gives what has arrived, not what is asked.

    Raises:
        OSError: if a store's object ends before its size.
    """
    pieces: list[bytes] = []
    left = MAX_OBJECT + 1
    while left > 0 and (piece := remote.read(left)):
        pieces.append(piece)
        left -= len(piece)
    size = getattr(remote, "size", None)
    if left > 0 and size is not None and sum(map(len, pieces)) < size:
        raise OSError(errno.EIO, "the object ends before its size")
    return b"".join(pieces)
