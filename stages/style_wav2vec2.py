"""Style units by wav2vec 2.0: one id per second, from a classifier or from k-means.

Spirit LM's release has a classifier of 100 styles: `Wav2Vec2ForSequenceClassification`, whose mean over time is taken
over 50 frames at a time instead of the clip (arXiv 2402.05755, 3.2; the facts are those of facebookresearch/spiritlm,
w2v2_encoder.py). The paper's encoder is a speech model and k-means: so is the other kind here.

Window i holds frames [i * 50, (i + 1) * 50), which start in samples [i * 16000, (i + 1) * 16000); the last window may
be partial. A clip of n frames has ceil(n / 50) ids, so a last rest of a second that has no frame of its own, up to
399 samples, has none. Clips longer than WINDOW pass the model in windows; cost and memory are the encoder's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from schemas.clock import SAMPLE_RATE, Samples, centred_grid
from schemas.contract import UnitContract
from schemas.records import Artifact, Clip, Encoded, F0Track, UnitStream
from schemas.rejects import Reason, Reject
from stages.checkpoints import BadCheckpoint, verified_path
from stages.classifier_head import Head, head_of, num_labels
from stages.quantisers import Quantiser, QuantiserConfig
from stages.speech_encoder import SpeechEncoder, check_encoder, load_encoder
from stages.speech_facts import HUGGINGFACE, HUGGINGFACE_EPSILON, EncoderFacts, encoder_facts
from stages.speech_models import encoder_tensors

SLOT = "style"
GRID = centred_grid(Samples(SAMPLE_RATE))
WINDOW = Samples(100 * SAMPLE_RATE)
"""Longest piece that passes the model at once; Spirit LM's release cuts there."""
CONTEXT = Samples(5 * SAMPLE_RATE)
PRECISIONS = ("float32", "bfloat16", "float16")
CHUNKING = "windows of 100 s, 5 s of context"

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2StyleConfig:
    """Styles of a classifier.

    Attributes:
        checkpoint: folder in the layout of `Wav2Vec2ForSequenceClassification`. Without `preprocessor_config.json`
            clips are normalised, as in the release. `use_weighted_layer_sum` is honoured, and multiplies the cost by
            half the number of layers.
        precision: of the encoder; the head is always float64.
    """

    name: ClassVar[str] = "style"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(0, self.precision)

    def check(self) -> None:
        """Read the checkpoint.

        Raises:
            BadCheckpoint: if it is missing, changed, damaged, or no such classifier.
        """
        facts = check_encoder(self.checkpoint, layer=None)
        _frames_per_window(facts, self.checkpoint)
        head_of(self.checkpoint, facts)

    def setup(self) -> "Wav2Vec2Style":
        path = verified_path(self.checkpoint)
        facts = encoder_facts(self.checkpoint)
        if not (path / "preprocessor_config.json").is_file():
            facts = replace(facts, wave_epsilon=HUGGINGFACE_EPSILON)
        head = head_of(self.checkpoint, facts)
        tensors = encoder_tensors(self.checkpoint, HUGGINGFACE, facts)
        weights = {None: 1.0} if head.layers is None else dict(enumerate(head.layers.tolist()))
        parts = [(weight, SpeechEncoder(facts, tensors, layer, self.precision)) for layer, weight in weights.items()]
        return Wav2Vec2Style(Windows(parts, _frames_per_window(facts, self.checkpoint)), head)

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads `config.json`."""
        facts, labels = encoder_facts(self.checkpoint), num_labels(Path(self.checkpoint.path) / "config.json")
        made = _contract(f"{facts.family}-style", self.version, self.checkpoint, size=labels)
        return replace(made, precision=self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2KmeansStyleConfig:
    """Styles by k-means over the mean of a layer's features.

    Attributes:
        checkpoint: folder of a speech encoder in Hugging Face's layout.
        layer: hidden state after this many transformer layers.
        quantiser: centroids in the layer's features.
        precision: of the encoder.
    """

    name: ClassVar[str] = "style"
    version: ClassVar[int] = 1

    checkpoint: Artifact
    layer: int
    quantiser: QuantiserConfig
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(self.layer, self.precision)

    def check(self) -> None:
        """Read the checkpoint and the codebook.

        Raises:
            BadCheckpoint: if either is missing, changed or damaged, has no such layer, or they do not fit each other.
        """
        facts = check_encoder(self.checkpoint, layer=self.layer)
        _frames_per_window(facts, self.checkpoint)
        self.quantiser.check(facts.width)

    def setup(self) -> "Wav2Vec2KmeansStyle":
        windows = _windows(self.checkpoint, self.layer, self.precision)
        self.quantiser.check(windows.width)
        return Wav2Vec2KmeansStyle(windows, self.quantiser.load())

    def contract(self) -> UnitContract:
        """Return the contract of the stream; reads `config.json`."""
        family, codebook = encoder_facts(self.checkpoint).family, self.quantiser.codebook.sha256
        made = _contract(
            f"{family}-kmeans", self.version, self.checkpoint, self.layer, codebook=codebook, size=self.quantiser.size
        )
        return replace(made, precision=self.precision)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wav2Vec2StyleFeatures:
    """What a style codebook learns from: the features that `Wav2Vec2KmeansStyleConfig` quantises, a row per window."""

    checkpoint: Artifact
    layer: int
    precision: str = "float32"

    def __post_init__(self) -> None:
        _require(self.layer, self.precision)

    def check(self) -> None:
        """Raise BadCheckpoint for whatever is wrong with the checkpoint."""
        _frames_per_window(check_encoder(self.checkpoint, layer=self.layer), self.checkpoint)

    def setup(self) -> "StyleFeatures":
        return StyleFeatures(_windows(self.checkpoint, self.layer, self.precision))


class Windows:
    """Means over seconds of a weighted sum of hidden states.

    Args:
        parts: weights, and encoders of one model that each give one hidden state.
        frames: in a window.
    """

    def __init__(self, parts: Sequence[tuple[float, SpeechEncoder]], frames: int) -> None:
        self._parts = list(parts)
        self._frames = frames

    @property
    def receptive(self) -> int:
        """Samples of the shortest clip that has a window."""
        return self._parts[0][1].receptive

    @property
    def width(self) -> int:
        return self._parts[0][1].width

    def means(self, pcm: npt.NDArray[np.int16]) -> Float64:
        """Return float64, shape (num_windows, width); no rows for a clip shorter than `receptive`."""
        count = self._parts[0][1].num_frames(len(pcm))
        starts = np.arange(0, count, self._frames)
        total: Float64 = np.zeros((len(starts), self.width))
        if count == 0:
            return total
        wave = pcm.astype(np.float32) / np.float32(32768)
        for weight, encoder in self._parts:
            features = encoder.encode_long(wave, WINDOW, CONTEXT).numpy()
            total += weight * np.add.reduceat(features, starts, axis=0, dtype=np.float64)
        return total / np.diff(starts, append=count)[:, None]


class Wav2Vec2Style:
    """Adds the stream `style`: the most likely class of each window, ties to the lowest."""

    def __init__(self, windows: Windows, head: Head) -> None:
        self._windows = windows
        self._head = head

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def logits(self, pcm: npt.NDArray[np.int16]) -> Float64:
        """Return the scores of a clip's windows: float64, shape (num_windows, num_labels)."""
        return self._head.logits(self._windows.means(pcm))

    def _encode(self, record: Encoded) -> Encoded | Reject:
        if record.clip.num_samples < self._windows.receptive:
            return _too_short(record, self._windows)
        return _with_style(record, self.logits(record.clip.pcm).argmax(axis=1).astype(np.uint16))


class Wav2Vec2KmeansStyle:
    """Adds the stream `style`: the centroid nearest to each window's mean."""

    def __init__(self, windows: Windows, quantiser: Quantiser) -> None:
        self._windows = windows
        self._quantiser = quantiser

    def process(self, batch: Sequence[Encoded]) -> list[Encoded | Reject]:
        return [self._encode(record) for record in batch]

    def _encode(self, record: Encoded) -> Encoded | Reject:
        if record.clip.num_samples < self._windows.receptive:
            return _too_short(record, self._windows)
        means = self._windows.means(record.clip.pcm).astype(np.float32)
        return _with_style(record, self._quantiser.assign(means).ids)


class StyleFeatures:
    """Gives the means of a clip's windows; needs no F0."""

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def features(self, clip: Clip, track: F0Track | None) -> npt.NDArray[np.float32]:
        """Return float32, shape (num_windows, width); no rows for a clip too short for a frame."""
        return self._windows.means(clip.pcm).astype(np.float32)


def _require(layer: int, precision: str) -> None:
    if layer < 0:
        raise ValueError(f"layer must not be negative, got {layer}")
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def _with_style(record: Encoded, ids: npt.NDArray[np.uint16]) -> Encoded:
    return replace(record, streams=(*record.streams, UnitStream(SLOT, ids)))


def _too_short(record: Encoded, windows: Windows) -> Reject:
    detail = f"{record.clip.num_samples} samples, the style encoder needs {windows.receptive}"
    return Reject.of(record.clip.utterance, Wav2Vec2StyleConfig.name, Reason.TOO_SHORT, detail)


def _windows(checkpoint: Artifact, layer: int, precision: str) -> Windows:
    encoder = load_encoder(checkpoint, layer=layer, precision=precision)
    return Windows([(1.0, encoder)], _frames_per_window(encoder.facts, checkpoint))


def _frames_per_window(facts: EncoderFacts, checkpoint: Artifact) -> int:
    if GRID.hop % facts.hop:
        raise BadCheckpoint(f"{checkpoint.path}: a second is no whole number of frames of {facts.hop} samples")
    return GRID.hop // facts.hop


def _contract(
    extractor: str, version: int, checkpoint: Artifact, layer: int | None = None, *, codebook: str = "", size: int
) -> UnitContract:
    return UnitContract(
        stream=SLOT,
        extractor=extractor,
        version=version,
        model_sha256=checkpoint.sha256,
        layer=layer,
        codebook_sha256=codebook,
        codebook_size=size,
        frame_rate=f"{GRID.rate.numerator}/{GRID.rate.denominator}",
        hop=GRID.hop,
        offset=GRID.offset,
        chunking=CHUNKING,
    )
