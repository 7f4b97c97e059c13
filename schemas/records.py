"""Records that flow between stages: frozen, slotted, keyword-only. Each state of an utterance is a type of its own.

Utterance --decode--> Clip --normalise--> Spoken --align--> Aligned --qc--> Checked --units, f0, pitch, style--> Encoded
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One manifest row.

    Attributes:
        key: record key: letters, digits, `-` and `_` only, unique in a dataset, a pure function of `id`.
        id: the id that the manifest gives, unchanged.
        audio: the audio file as the manifest names it; without the credentials of a URL it goes into the record.
        location: where it really lies: an absolute path or a URL that fsspec opens.
        text: the transcript as given.
        recording: name of the recording; its utterances follow each other in order.
        index: row number in the manifest, from 0.
        offset: where the utterance starts in the file, in samples at 16 kHz.
        length: its length in samples at 16 kHz, or None for "to the end of the file".
        channel: 0-based channel, or None for the mean of all channels.
    """

    key: str
    id: str
    audio: str
    location: str
    text: str
    recording: str
    index: int
    offset: Samples = Samples(0)
    length: Samples | None = None
    channel: int | None = None
    speaker: str = ""
    language: str = ""
    license: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Clip:
    """A decoded utterance.

    Attributes:
        pcm: int16, shape (num_samples,), mono, 16 kHz.
        source_rate: sample rate of the file in Hz.
        source_channels: channels in the file.
    """

    utterance: Utterance
    pcm: npt.NDArray[np.int16]
    source_rate: int
    source_channels: int

    @property
    def num_samples(self) -> Samples:
        return Samples(len(self.pcm))


class Token(NamedTuple):
    """An original, whitespace-separated token of the transcript and how it is spoken.

    `spoken` holds lower-case words with no punctuation, and is empty for a token that is not spoken
    (bare punctuation) or cannot be (a foreign script).
    """

    text: str
    spoken: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spoken:
    """A clip with its transcript in spoken form. Joining the tokens' texts by spaces gives the transcript's words."""

    clip: Clip
    tokens: tuple[Token, ...]


class Word(NamedTuple):
    """An original token and when it is spoken: the half-open interval [start, end) of samples at 16 kHz.

    `start` and `end` are both None for a token without a time (never an invented one). `score` is the aligner's
    mean log-likelihood per frame in nats, None where the token has no time or the aligner has no score.
    """

    text: str
    start: Samples | None
    end: Samples | None
    score: float | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aligned:
    """A clip whose words have times.

    Attributes:
        words: one per original token, in order; timed words ascend and do not overlap.
        score_all: mean log-likelihood per frame over all frames, silences included, in nats; None where the aligner
            has no scores (imported alignments).
        score_words: the same over the frames of words only.
        fallback: True where the narrow search found no path and the full one did.
        score_silence: the lowest mean of a stretch of at least half a second taken for silence, or None without one.
        doubtful: indices of words that the aligner itself does not vouch for, such as those that a wildcard stood for.
    """

    clip: Clip
    words: tuple[Word, ...]
    score_all: float | None
    score_words: float | None
    fallback: bool
    score_silence: float | None = None
    doubtful: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Checked:
    """An alignment that passed QC, with what QC found.

    Attributes:
        doubtful: indices of words whose score is below the recipe's threshold or that have no time. The boundary
            of such a word never carries a modality switch.
    """

    aligned: Aligned
    doubtful: tuple[int, ...]

    @property
    def clip(self) -> Clip:
        return self.aligned.clip


class UnitStream(NamedTuple):
    """Full-rate unit ids of one stream, never deduplicated: uint16, shape (num_frames,)."""

    name: str
    ids: npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class F0Track:
    """Fundamental frequency.

    Attributes:
        hz: float32, shape (num_frames,), 0 where unvoiced.
        hop: samples at 16 kHz from one frame to the next; frame i stands for sample i * hop.
    """

    hz: npt.NDArray[np.float32]
    hop: Samples


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """A checked clip with the unit streams extracted so far, in the order of extraction."""

    checked: Checked
    streams: tuple[UnitStream, ...]
    f0: F0Track | None = None

    @property
    def clip(self) -> Clip:
        return self.checked.clip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitFeatures:
    """What one clip contributes to the training of codebooks.

    Attributes:
        key: record key.
        speaker: speaker label, possibly empty.
        text: the transcript.
        units: float32, shape (num_frames, num_features): the unit extractor's features; no rows where it needs no
            training, and so for the others.
        pitch: float32, shape (num_rows, num_features): the pitch quantiser's features.
        style: float32, shape (num_windows, num_features): the style extractor's features.
    """

    key: str
    speaker: str
    text: str
    units: npt.NDArray[np.float32]
    pitch: npt.NDArray[np.float32]
    style: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A file that decides results: checked against its sha256 whenever it is loaded."""

    path: str
    sha256: str


JsonObject = dict[str, Any]
