"""The record at rest: what one sample of a shard holds, and its exact bytes."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tokenize import TokenError
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from schemas.canonical import canonical_json
from schemas.clock import Samples
from schemas.records import Encoded, Word
from schemas.urls import public_url
from schemas.words import Words

STREAMS = ("hubert", "pitch", "style")
"""Stream slots of a record. The slot says which tokens the ids become; `dataset.json` says what made them."""


class BadRecord(ValueError):
    """A sample of a shard does not hold what a record must hold."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UnitRecord:
    """One aligned utterance with its units.

    Attributes:
        words: one per whitespace token of `text`; times in samples at 16 kHz.
        doubtful: indices of words whose boundaries must not carry a modality switch.
        num_samples: length of the clip at 16 kHz.
        streams: slot to full-rate ids, uint16, shape (num_frames,).
        f0: float32 Hz, 0 where unvoiced, one per `meta["f0_hop"]` samples; or None where not stored.
        flac: the clip, 16 kHz mono, or None where not stored.
        meta: the remaining fields of the JSON member: id, recording, index, speaker, language, license, source, audio,
            source_rate, source_channels, f0_hop, score_all, score_silence, score_words, fallback.
    """

    key: str
    text: str
    words: Sequence[Word]
    doubtful: tuple[int, ...]
    num_samples: Samples
    streams: Mapping[str, npt.NDArray[np.uint16]]
    f0: npt.NDArray[np.float32] | None
    flac: bytes | None
    meta: Mapping[str, Any]

    @classmethod
    def from_encoded(cls, encoded: Encoded, *, flac: bytes | None, store_f0: bool) -> Self:
        utterance, aligned = encoded.clip.utterance, encoded.checked.aligned
        meta = {
            "audio": public_url(utterance.audio),
            "f0_hop": None if encoded.f0 is None else encoded.f0.hop,
            "fallback": aligned.fallback,
            "id": utterance.id,
            "index": utterance.index,
            "language": utterance.language,
            "license": utterance.license,
            "recording": utterance.recording,
            "score_all": rounded(aligned.score_all),
            "score_silence": rounded(aligned.score_silence),
            "score_words": rounded(aligned.score_words),
            "source": utterance.source,
            "source_channels": encoded.clip.source_channels,
            "source_rate": encoded.clip.source_rate,
            "speaker": utterance.speaker,
        }
        words = tuple(w._replace(score=rounded(w.score)) for w in aligned.words)
        return cls(
            key=utterance.key,
            text=utterance.text,
            words=words,
            doubtful=encoded.checked.doubtful,
            num_samples=encoded.clip.num_samples,
            streams={stream.name: stream.ids for stream in encoded.streams},
            f0=encoded.f0.hz if encoded.f0 is not None and store_f0 else None,
            flac=flac,
            meta=meta,
        )

    def to_members(self) -> dict[str, bytes]:
        """Return the members of the sample by extension, sorted; a pure function of the record."""
        body = {
            **self.meta,
            "doubtful": list(self.doubtful),
            "key": self.key,
            "num_samples": self.num_samples,
            "text": self.text,
            "words": [list(word) for word in self.words],
        }
        members = {"json": canonical_json(body).encode()}
        members |= {f"{name}.npy": npy_bytes(ids) for name, ids in self.streams.items()}
        if self.f0 is not None:
            members["f0.npy"] = npy_bytes(self.f0)
        if self.flac is not None:
            members["flac"] = self.flac
        return dict(sorted(members.items()))

    @classmethod
    def from_members(cls, key: str, members: Mapping[str, bytes]) -> Self:
        """Parse and validate.

        Raises:
            BadRecord: naming the key and what is wrong.
        """
        try:
            body = orjson.loads(members["json"])
            if not isinstance(body, dict):
                raise ValueError("the JSON is no object")
            words = Words.from_json(body.pop("words"))
            text, doubtful, num_samples = body.pop("text"), tuple(body.pop("doubtful")), body.pop("num_samples")
            if type(num_samples) is not int or num_samples < 0 or not {*map(type, doubtful)} <= {int}:
                raise ValueError("num_samples or doubtful are no whole numbers")
            if body.pop("key") != key:
                raise ValueError("the JSON names another key")
            streams = {name: unit_ids(members[f"{name}.npy"]) for name in STREAMS if f"{name}.npy" in members}
            f0 = npy_array(members["f0.npy"], np.float32) if "f0.npy" in members else None
        except (KeyError, TypeError, ValueError, EOFError) as error:
            raise BadRecord(f"record {key!r}: {type(error).__name__}: {error}") from error
        return cls(
            key=key,
            text=text,
            words=words,
            doubtful=doubtful,
            num_samples=Samples(num_samples),
            streams=streams,
            f0=f0,
            flac=members.get("flac"),
            meta=body,
        )


def rounded(score: float | None) -> float | None:
    """Return a score as records keep it: to four digits, or None."""
    return None if score is None else round(score, 4)


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def unit_ids(data: bytes) -> npt.NDArray[np.uint16]:
    """Read unit ids from the bytes of an .npy file: uint16, one-dimensional, read-only where the header is np.save's.

    Raises:
        ValueError: if they are anything else.
    """
    header = _UNIT_HEADER.match(data)
    # numpy's own parser evaluates the header as Python, which takes ten times as long as the rest of a stream.
    if header is not None and header.end() == 128 and len(data) == 128 + 2 * int(header[1]):
        return np.frombuffer(data, dtype="<u2", offset=128)
    return npy_array(data, np.uint16)


_UNIT_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00v\x00\{'descr': '<u2', 'fortran_order': False, 'shape': \((0|[1-9][0-9]{0,9}),\), \} +\n"
)


def npy_array(data: bytes, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Read a one-dimensional array of a given dtype from the bytes of an .npy file; there is no way to pickle.

    Raises:
        ValueError: if they are anything else, or more or fewer bytes than the header says.
    """
    stream = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, found = read(stream)
    except (SyntaxError, TokenError) as error:  # numpy evaluates the header
        raise ValueError("the header is not that of an .npy file") from error
    if found != dtype or len(shape) != 1:
        raise ValueError(f"expected a one-dimensional {np.dtype(dtype)} array, got {found}{list(shape)}")
    # Checked before anything is allocated: a header may say whatever it likes.
    if len(data) - stream.tell() != shape[0] * found.itemsize:
        raise ValueError(f"{len(data) - stream.tell()} bytes do not hold {shape[0]} of {np.dtype(dtype)}")
    return np.frombuffer(data, dtype, offset=stream.tell()).copy()
