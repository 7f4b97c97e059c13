"""Decode: any audio file to int16 mono at 16 kHz, or a reject that says what is wrong with it.

soundfile reads first and PyAV what it cannot open; the resampler is soxr in its high-quality setting. Only the samples
of the utterance are decoded where the format can seek. Cost: about 0.003 CPU seconds per second of audio.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from schemas.clock import SAMPLE_RATE
from schemas.records import Clip, Utterance
from schemas.rejects import Reason, Reject
from stages.audio_files import Window, read_window
from stages.audio_sources import AudioProblem, Sources

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FULL_SCALE = 0.9995
"""Samples at or above this magnitude count as clipped: one step below full scale in 12 bits."""
LOUDEST = 1e6
"""Float files may hold any finite number: a larger magnitude is taken for this one before resampling."""
SILENCE_WINDOW = 320
BLOCK = SILENCE_WINDOW * 10_000
"""Samples that are worked on at once (200 s), so that an hour needs little more memory than its samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeConfig:
    """Limits on what is taken for usable audio.

    Attributes:
        min_seconds: shorter clips are rejected.
        max_seconds: longer clips are rejected before they are decoded.
        max_clipped: largest share of samples at full scale.
        silence_dbfs: a clip whose loudest 20 ms has an RMS below this level is rejected.
    """

    name: ClassVar[str] = "decode"
    version: ClassVar[int] = 1

    min_seconds: float = 0.1
    max_seconds: float = 120.0
    max_clipped: float = 0.02
    silence_dbfs: float = -60.0

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds < self.max_seconds:
            raise ValueError(f"need 0 < min_seconds < max_seconds, got {self.min_seconds} and {self.max_seconds}")

    def setup(self) -> "Decoder":
        import av
        import numpy
        import soundfile
        import soxr

        av.logging.set_level(None)
        del numpy, soundfile, soxr  # loaded here so that the first record does not pay for it
        return Decoder(self, partial(read_window, open_source=Sources().open))


class Decoder:
    """Live stage: Utterance to Clip."""

    def __init__(self, config: DecodeConfig, read: Callable[[Utterance, float], Window]) -> None:
        self._config = config
        self._read = read

    def process(self, batch: Sequence[Utterance]) -> list[Clip | Reject]:
        return [self._outcome(utterance) for utterance in batch]

    def _outcome(self, utterance: Utterance) -> Clip | Reject:
        try:
            window = self._read(utterance, self._config.max_seconds)
            return self._clip(utterance, window)
        except AudioProblem as problem:
            return Reject.of(utterance, self._config.name, problem.reason, problem.detail)

    def _clip(self, utterance: Utterance, window: Window) -> Clip:
        import numpy as np

        config, mono = self._config, window.samples
        if not window.finite:
            raise AudioProblem(Reason.NOT_FINITE, "samples are NaN or infinite")
        seconds = len(mono) / window.rate
        if seconds < config.min_seconds:
            raise AudioProblem(Reason.TOO_SHORT, f"{seconds:.3f} s, the recipe asks for {config.min_seconds} s")
        clipped = sum(int((np.abs(mono[i : i + BLOCK]) >= FULL_SCALE).sum()) for i in range(0, len(mono), BLOCK))
        clipped_share = clipped / len(mono)
        if clipped_share > config.max_clipped:
            raise AudioProblem(Reason.CLIPPED, f"{clipped_share:.1%} of the samples are at full scale")
        if clipped:  # a resampler makes NaN of what is larger still
            mono = np.clip(mono, -LOUDEST, LOUDEST)
        pcm = to_pcm(mono, window.rate)
        level = loudest_dbfs(pcm)
        if level < config.silence_dbfs:
            raise AudioProblem(
                Reason.SILENT, f"loudest 20 ms at {level:.0f} dBFS, silence is {config.silence_dbfs:.0f}"
            )
        return Clip(utterance=utterance, pcm=pcm, source_rate=window.rate, source_channels=window.channels)


def to_pcm(mono: "npt.NDArray[np.float32]", rate: int) -> "npt.NDArray[np.int16]":
    """Resample float32 in [-1, 1] to 16 kHz and round to int16, saturating; 16 kHz int16 input comes back unchanged."""
    import numpy as np
    import soxr

    resampled = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    pcm = np.empty(len(resampled), np.int16)
    for start in range(0, len(pcm), BLOCK):
        part = np.rint(resampled[start : start + BLOCK] * 32768.0)
        pcm[start : start + BLOCK] = np.clip(part, -32768, 32767)
    return pcm


def loudest_dbfs(pcm: "npt.NDArray[np.int16]") -> float:
    """Return the RMS level of the loudest 20 ms in dB below full scale, -120 for digital silence."""
    import numpy as np

    power = 0.0
    for start in range(0, len(pcm), BLOCK):
        part = pcm[start : start + BLOCK]
        padded = np.zeros(-(-len(part) // SILENCE_WINDOW) * SILENCE_WINDOW)
        padded[: len(part)] = part / 32768.0
        power = max(power, float(np.square(padded).reshape(-1, SILENCE_WINDOW).mean(axis=1).max(initial=0.0)))
    return float(10 * np.log10(max(power, 1e-12)))
