"""Units from a speech encoder: one layer of HuBERT, wav2vec 2.0 or WavLM, quantised.

A stream holds as many ids as the model has frames: a clip of n samples has (n - receptive) // hop + 1 of them, since
nothing is padded, and its last samples may have no unit of their own. (slamkit pads 40 samples on each side for the
25 Hz model; here frame i always stands for sample offset + i * hop of the clip itself, and the contract says so.)

Clips longer than a window pass in windows that see some context. What the whole clip decides is the same in each of
them, so only attention differs from a single pass; `benchmarks/units.py` measures how many ids that changes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from schemas.clock import Samples, samples_from_seconds, seconds_from_samples
from schemas.contract import UnitContract
from schemas.records import Artifact, Checked, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reason, Reject
from stages.quantisers import Quantiser, QuantiserConfig
from stages.speech_encoder import SpeechEncoder, check_encoder, encoder_facts, load_encoder
from stages.speech_facts import HUGGINGFACE

SLOT = "hubert"
PRECISIONS = ("float32", "bfloat16", "float16")

DOUBTFUL = 2e-5
"""A clip that shared a matrix with others, and has a frame whose margin is smaller, is computed again by itself.
Margins are shares of a feature vector's length; other sizes of a float32 matrix change it by up to 2e-6 of that."""

Features = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubertUnitsConfig:
    """What decides the units.

    Attributes:
        checkpoint: a Hugging Face folder, or the weight file of a torchaudio bundle.
        model: `huggingface`, or the name of the bundle.
        layer: hidden state after this many transformer layers; 0 is the first one's input.
        quantiser: from features to ids.
        window_seconds: longer clips pass in windows of this length.
        context_seconds: what a window sees of its neighbours on each side.
        precision: of the encoder; with float32, ids are those that each clip gives alone, on any batch.
    """

    name: ClassVar[str] = "units"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    model: str = HUGGINGFACE
    layer: int
    quantiser: QuantiserConfig
    window_seconds: float = 100.0
    context_seconds: float = 5.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(self.layer, self.window_seconds, self.context_seconds, self.precision)

    def setup(self) -> "HubertUnits":
        """Load encoder and quantiser (about 1 s per GB, and as much memory).

        Raises:
            BadCheckpoint: if either is not what it should be.
        """
        encoder = load_encoder(self.checkpoint, model=self.model, layer=self.layer, precision=self.precision)
        self.quantiser.check(encoder.width)
        return HubertUnits(self.name, ClipFeatures.of(self, encoder), self.quantiser.load())

    def check(self) -> None:
        """Raise BadCheckpoint for whatever is wrong with the files; reads all of them, builds nothing."""
        self.quantiser.check(check_encoder(self.checkpoint, model=self.model, layer=self.layer).width)

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads the checkpoint's configuration."""
        facts = encoder_facts(self.checkpoint, self.model)
        rate = facts.grid.rate
        return UnitContract(
            stream=SLOT,
            extractor=facts.family,
            version=self.version,
            model_sha256=self.checkpoint.sha256,
            layer=self.layer,
            codebook_sha256=self.quantiser.codebook.sha256,
            codebook_size=self.quantiser.size,
            frame_rate=f"{rate.numerator}/{rate.denominator}",
            hop=facts.grid.hop,
            offset=facts.grid.offset,
            chunking=f"windows of {self.window_seconds:g} s, {self.context_seconds:g} s of context",
            precision=self.precision,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HubertFeatures:
    """The features that a k-means codebook is trained on: those of `HubertUnitsConfig`, one row per frame."""

    checkpoint: Artifact
    model: str = HUGGINGFACE
    layer: int
    window_seconds: float = 100.0
    context_seconds: float = 5.0
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(self.layer, self.window_seconds, self.context_seconds, self.precision)

    def setup(self) -> "ClipFeatures":
        encoder = load_encoder(self.checkpoint, model=self.model, layer=self.layer, precision=self.precision)
        return ClipFeatures.of(self, encoder)

    def check(self) -> None:
        """Raise BadCheckpoint for whatever is wrong with the checkpoint."""
        check_encoder(self.checkpoint, model=self.model, layer=self.layer)


class ClipFeatures:
    """Features of clips, long ones in windows."""

    def __init__(self, encoder: SpeechEncoder, window: Samples, context: Samples) -> None:
        self.encoder = encoder
        self._window, self._context = window, context

    @classmethod
    def of(cls, config: HubertUnitsConfig | HubertFeatures, encoder: SpeechEncoder) -> "ClipFeatures":
        return cls(encoder, samples_from_seconds(config.window_seconds), samples_from_seconds(config.context_seconds))

    def features(self, clip: Clip, track: F0Track | None = None) -> Features:
        """Return one clip's features: float32, shape (num_frames, width); no rows where it is too short."""
        if clip.num_samples < self.encoder.receptive:
            return np.empty((0, self.encoder.width), np.float32)
        return self.alone(clip)

    def alone(self, clip: Clip) -> Features:
        """Return the features that a long enough clip gives by itself."""
        return np.concatenate(list(self.parts(clip)))

    def parts(self, clip: Clip) -> Iterator[Features]:
        """Yield the features of `alone`, those of a long clip window by window."""
        wave = _wave(clip)
        if self.is_long(clip):
            yield from (_numpy(part) for part in self.encoder.windows(wave, self._window, self._context))
        else:
            yield _numpy(self.encoder.encode([wave])[0])

    def together(self, clips: Sequence[Clip]) -> list[Features]:
        """Return the features of clips that fit in a window and may share matrices; the last bits may not be those
        that each gives alone.
        """
        return [_numpy(features) for features in self.encoder.encode([_wave(clip) for clip in clips])]

    def is_long(self, clip: Clip) -> bool:
        return clip.num_samples > self._window


class HubertUnits:
    """Adds the stream `hubert`, one id per frame of the model. Shorter clips than one frame are rejected."""

    def __init__(self, name: str, clips: ClipFeatures, quantiser: Quantiser) -> None:
        self._name, self._clips, self._quantiser = name, clips, quantiser

    def process(self, batch: Sequence[Checked]) -> list[Encoded | Reject]:
        least = self._clips.encoder.receptive
        short = [r.clip for r in batch if r.clip.num_samples >= least and not self._clips.is_long(r.clip)]
        features = iter(self._clips.together(short))
        return [self._outcome(record, features) for record in batch]

    def _outcome(self, record: Checked, shared: Iterator[Features]) -> Encoded | Reject:
        if record.clip.num_samples < self._clips.encoder.receptive:
            return self._too_short(record)
        if self._clips.is_long(record.clip):
            return _encoded(record, self._alone(record.clip))
        ids, margin = self._quantiser.assign(next(shared))
        if self._clips.encoder.pack and margin.min() < DOUBTFUL:
            ids = self._alone(record.clip)
        return _encoded(record, ids)

    def _alone(self, clip: Clip) -> npt.NDArray[np.uint16]:
        parts = [self._quantiser.classes(part).ids for part in self._clips.parts(clip)]
        return self._quantiser.joined(np.concatenate(parts))

    def _too_short(self, record: Checked) -> Reject:
        least = self._clips.encoder.receptive
        detail = (
            f"{record.clip.num_samples} samples; the unit extractor needs at least {least} "
            f"({1000 * seconds_from_samples(least):g} ms)"
        )
        return Reject.of(record.clip.utterance, self._name, Reason.TOO_SHORT, detail)


def _encoded(record: Checked, ids: npt.NDArray[np.uint16]) -> Encoded:
    return Encoded(checked=record, streams=(UnitStream(SLOT, ids),))


def _require(layer: int, window: float, context: float, precision: str) -> None:
    if layer < 0:
        raise ValueError(f"layer must not be negative, got {layer}")
    if not 0 < window < float("inf") or not 0 <= 4 * context <= window:
        raise ValueError(f"context must be at most a quarter of the window, got {context} s of {window} s")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def _wave(clip: Clip) -> Features:
    return clip.pcm.astype(np.float32) / np.float32(32768)


def _numpy(features: Any) -> Features:
    return np.asarray(features.numpy(), dtype=np.float32)
