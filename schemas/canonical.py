"""Canonical JSON, hashes, and randomness that depends on nothing but its key."""

import hashlib
import json
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: Any) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN, non-ASCII characters kept."""
    return _JSON.encode(value)


def fingerprint(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def sha256_hex(data: bytes) -> str:
    """Return the sha256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def rng_for(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a generator that is a pure function of the seed and the parts (epoch, record key and so on)."""
    digest = hashlib.blake2b(canonical_json([seed, *parts]).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(cast(Any, _Key(np.frombuffer(digest, dtype="<u8")))))


class _Key(ISeedSequence):
    """Hands Philox its key. Given as `key=`, numpy first draws entropy from the system, most of the price of a draw."""

    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self._key = key

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[Any]:
        return self._key
