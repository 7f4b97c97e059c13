"""Centroids out of joblib files: k-means models of scikit-learn, read without unpickling.

A joblib file is a pickle in whose middle the bytes of arrays lie, and unpickling runs what the file asks for. Here its
opcodes are only read (`stages.pickle_opcodes`), and arrays of numbers are taken from where they lie. Names outside a
closed list are refused, so that a hostile file is told from a damaged one.

The format: joblib's numpy_pickle.py (`NumpyArrayWrapper`: raw bytes after its BUILD, since joblib 1.2 behind a count of
padding bytes and the padding) and numpy's own `ndarray.__reduce__`. 500 centroids of 768 take less than 1 ms.
"""

import bz2
import lzma
import zlib
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.checkpoints import BadCheckpoint
from stages.pickle_opcodes import Made, Name, Reader, Refused, damaged

MAX_BYTES = 210_000_000
"""Of a file, and of what it decompresses to: 65536 centroids of 768 float32 are 201 MB."""

NUMBERS = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}
MODELS = {
    Name(f"sklearn.cluster.{module}", name)
    for module in ("_kmeans", "k_means_")
    for name in ("KMeans", "MiniBatchKMeans")
}
_WRAPPERS = {Name(f"{home}joblib.numpy_pickle", "NumpyArrayWrapper") for home in ("", "sklearn.externals.")}
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_RECONSTRUCT = {Name(module, "_reconstruct") for module in _MULTIARRAY}
_FROM_BUFFER = {Name(f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")}
_DTYPE = Name("numpy", "dtype")
_ENCODE = Name("_codecs", "encode")
_KNOWN = {
    *MODELS,
    *_WRAPPERS,
    *_RECONSTRUCT,
    *_FROM_BUFFER,
    _DTYPE,
    _ENCODE,
    Name("numpy", "ndarray"),
    *(Name(module, "scalar") for module in _MULTIARRAY),
    # `random_state_` of a fitted MiniBatchKMeans
    Name("numpy.random", "__RandomState_ctor"),
    Name("numpy.random._pickle", "__randomstate_ctor"),
    Name("numpy.random._pickle", "__bit_generator_ctor"),
    Name("numpy.random._mt19937", "MT19937"),
}
_FIX = "save `model.cluster_centers_` with numpy.save"


def read_centroids(data: bytes, path: str) -> npt.NDArray[Any]:
    """Return `cluster_centers_` of a joblib-dumped KMeans or MiniBatchKMeans: float, shape (clusters, width).

    Also read are a bare array and a dict with `cluster_centers_` or `cluster_centers`. zlib, gzip, bz2 and xz files are
    decompressed. Time and memory are linear in the size of the file, and bounded by MAX_BYTES and MAX_OPCODES.

    Args:
        data: the file.
        path: its name, for messages.

    Raises:
        BadCheckpoint: if it is damaged, too large, names anything but k-means and arrays, or holds no centroids.
    """
    try:
        value = Reader(_plain(data, path), _KNOWN, _Makers().made, _built).read()
    except Refused as error:
        raise BadCheckpoint(f"{path} is refused, and nothing in it was run: {error}; {_FIX}") from None
    except BadCheckpoint:
        raise
    except (ValueError, OverflowError, EOFError, OSError, zlib.error, lzma.LZMAError):
        raise BadCheckpoint(f"{path} is damaged, or no joblib file") from None
    if isinstance(value, Made) and value.what in MODELS:
        value = value.state
    if isinstance(value, dict):
        value = value.get("cluster_centers_", value.get("cluster_centers"))
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind != "f":
        raise BadCheckpoint(f"{path} holds no k-means model of scikit-learn with centroids; {_FIX}")
    return value


def _plain(data: bytes, path: str) -> bytes:
    """Decompress, if compressed, and never to more than MAX_BYTES."""
    _require_size(len(data))
    more: Any
    if data[:1] == b"\x80":
        return data
    if data[:1] == b"\x78":
        more = zlib.decompressobj()
    elif data[:2] == b"\x1f\x8b":
        more = zlib.decompressobj(wbits=31)
    elif data[:3] == b"BZh":
        more = bz2.BZ2Decompressor()
    elif data[:5] == b"\xfd7zXZ":
        more = lzma.LZMADecompressor(memlimit=MAX_BYTES)
    else:
        raise BadCheckpoint(f"{path} is no joblib file, or of joblib before 0.10, or compressed by lz4; {_FIX}")
    plain: bytes = more.decompress(data, MAX_BYTES + 1)
    _require_size(len(plain))
    return plain


def _require_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Refused(f"it holds more than {MAX_BYTES // 1_000_000} MB, too much for a codebook")


class _Makers:
    """The calls that are ours to answer: bytes spelt as text, and arrays of protocol 5."""

    def __init__(self) -> None:
        self._encoded = 0

    def made(self, made: Made) -> Any:
        if made.what == _ENCODE:
            return self._bytes(made.args)
        if made.what in _FROM_BUFFER:
            if len(made.args) != 4:
                damaged()
            data, dtype, shape, order = made.args
            return _array(data, dtype, shape, order == "F")
        return made

    def _bytes(self, args: tuple[Any, ...]) -> bytes:
        """Protocol 2 has no bytes: they are spelt as Latin-1 text."""
        if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
            damaged()
        self._encoded += len(args[0])  # one text may be encoded again and again
        _require_size(self._encoded)
        return args[0].encode("latin1")


def _built(reader: Reader, made: Made) -> Any:
    if made.what in _WRAPPERS:
        return _wrapped_array(reader, made.state)
    if made.what in _RECONSTRUCT:
        if not isinstance(made.state, tuple) or len(made.state) != 5:
            damaged()
        _, shape, dtype, fortran, data = made.state
        return _array(data, dtype, shape, fortran is True)
    return made


def _wrapped_array(reader: Reader, state: Any) -> npt.NDArray[Any]:
    """Consume the bytes of an array from the file, so that no array outgrows it."""
    if not isinstance(state, dict):
        damaged()
    if state.get("numpy_array_alignment_bytes") is not None:
        reader.file.read(int.from_bytes(reader.file.read(1), "little"))
    start = reader.file.tell()
    size = _dtype(state.get("dtype")).itemsize * prod(_shape(state.get("shape")))
    reader.file.seek(min(start + size, len(reader.data)))
    data = memoryview(reader.data)[start : start + size]
    return _array(data, state["dtype"], state["shape"], state.get("order") == "F")


def _array(data: Any, dtype: Any, shape: Any, fortran: bool) -> npt.NDArray[Any]:
    """Return an array on top of some bytes, which it does not copy."""
    kind, sizes = _dtype(dtype), _shape(shape)
    if not isinstance(data, bytes | bytearray | memoryview) or len(data) != prod(sizes) * kind.itemsize:
        damaged()
    flat = np.frombuffer(data, kind)
    return flat.reshape(sizes[::-1]).T if fortran else flat.reshape(sizes)


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > 4 or not all(type(n) is int and 0 <= n < 1 << 40 for n in value):
        damaged()
    return value


def _dtype(made: Any) -> np.dtype[Any]:
    """Return a number type, from `numpy.dtype("f8", ...)` and its state `(version, byte order, ...)`."""
    if not isinstance(made, Made) or made.what != _DTYPE or not made.args or not isinstance(made.args[0], str):
        damaged()
    code = made.args[0]
    if code not in NUMBERS:
        raise Refused(f"it holds an array of {ascii(code)[:20]}, which is no number type")
    order = made.state[1] if isinstance(made.state, tuple) and len(made.state) > 1 else "="
    return np.dtype(code).newbyteorder(">") if order == ">" else np.dtype(code).newbyteorder("<")
