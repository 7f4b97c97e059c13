"""Decode: any audio file to int16 mono at 16 kHz, or a reject that says what is wrong with it.

soundfile reads first and PyAV what it cannot open; the resampler is soxr in its high-quality setting. Only the samples
of the utterance are decoded where the format can seek. Cost: about 0.003 CPU seconds per second of audio.
"""

import io
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from schemas.clock import SAMPLE_RATE, samples_at_rate
from schemas.records import Clip, Utterance
from schemas.rejects import Reason, Reject

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FULL_SCALE = 0.9995
"""Samples at or above this magnitude count as clipped: one step below full scale in 12 bits."""
LENGTH_TOLERANCE_SECONDS = 0.1
"""How far a manifest's duration may reach past the end of the file; durations are often rounded."""
SILENCE_WINDOW = 320
EXACT_SEEK = frozenset({"AIFF", "AU", "CAF", "FLAC", "NIST", "RF64", "W64", "WAV", "WAVEX"})
"""Containers whose seek gives the very samples of a pass from the start. In others (an MP3 frame leans on the frames
before it) we decode from the start and drop, which costs a pass over the file for each of its utterances."""


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
        return Decoder(self, read_window)


class AudioProblem(Exception):
    """What is wrong with one utterance's audio; becomes a reject."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Decoded samples: float32, shape (num_frames, num_channels), at the file's own rate in Hz."""

    samples: "npt.NDArray[np.float32]"
    rate: int


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
            return Reject(
                key=utterance.key,
                id=utterance.id,
                stage=self._config.name,
                reason=problem.reason,
                detail=f"{utterance.audio}: {problem.detail}",
            )

    def _clip(self, utterance: Utterance, window: Window) -> Clip:
        import numpy as np

        config, channels = self._config, window.samples.shape[1]
        if not np.isfinite(window.samples).all():
            raise AudioProblem(Reason.NOT_FINITE, "samples are NaN or infinite")
        mono = _mix(window.samples, utterance.channel)
        seconds = len(mono) / window.rate
        if seconds < config.min_seconds:
            raise AudioProblem(Reason.TOO_SHORT, f"{seconds:.3f} s, the recipe asks for {config.min_seconds} s")
        clipped = float(np.mean(np.abs(mono) >= FULL_SCALE))
        if clipped > config.max_clipped:
            raise AudioProblem(Reason.CLIPPED, f"{clipped:.1%} of the samples are at full scale")
        pcm = to_pcm(mono, window.rate)
        level = loudest_dbfs(pcm)
        if level < config.silence_dbfs:
            raise AudioProblem(
                Reason.SILENT, f"loudest 20 ms at {level:.0f} dBFS, silence is {config.silence_dbfs:.0f}"
            )
        return Clip(utterance=utterance, pcm=pcm, source_rate=window.rate, source_channels=channels)


def _mix(samples: "npt.NDArray[np.float32]", channel: int | None) -> "npt.NDArray[np.float32]":
    if channel is None:
        mixed: npt.NDArray[np.float32] = samples.mean(axis=1, dtype="float32")
        return mixed
    if not 0 <= channel < samples.shape[1]:
        raise AudioProblem(Reason.BAD_ROW, f"channel {channel} asked for, the file has {samples.shape[1]}")
    return samples[:, channel]


def to_pcm(mono: "npt.NDArray[np.float32]", rate: int) -> "npt.NDArray[np.int16]":
    """Resample float32 in [-1, 1] to 16 kHz and round to int16, saturating; 16 kHz int16 input comes back unchanged."""
    import numpy as np
    import soxr

    resampled = mono if rate == SAMPLE_RATE else soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    pcm: npt.NDArray[np.int16] = np.clip(np.rint(resampled * 32768.0), -32768, 32767).astype(np.int16)
    return pcm


def loudest_dbfs(pcm: "npt.NDArray[np.int16]") -> float:
    """Return the RMS level of the loudest 20 ms in dB below full scale, -120 for digital silence."""
    import numpy as np

    padded = np.zeros(-(-len(pcm) // SILENCE_WINDOW) * SILENCE_WINDOW)
    padded[: len(pcm)] = pcm / 32768.0
    power = float(np.square(padded).reshape(-1, SILENCE_WINDOW).mean(axis=1).max(initial=0.0))
    return float(10 * np.log10(max(power, 1e-12)))


def read_window(utterance: Utterance, max_seconds: float) -> Window:
    """Decode the utterance's part of its file.

    Raises:
        AudioProblem: for anything wrong with the file.
    """
    import soundfile

    source = open_source(utterance.location)
    try:
        with soundfile.SoundFile(source) as file:
            return _read_soundfile(file, utterance, max_seconds)
    except soundfile.SoundFileError:
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return _read_av(source, utterance, max_seconds)


def open_source(location: str) -> str | io.BytesIO:
    """Return a local path that is a regular file, or the bytes behind a URL."""
    if "://" in location:
        import fsspec

        try:
            with fsspec.open(location, "rb") as remote:
                return io.BytesIO(remote.read())
        except FileNotFoundError:
            raise AudioProblem(Reason.MISSING_AUDIO, "no such object") from None
    try:
        found = os.stat(location)
    except (OSError, ValueError):
        raise AudioProblem(Reason.MISSING_AUDIO, "no such file") from None
    if not stat.S_ISREG(found.st_mode):
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "not a regular file")
    if found.st_size == 0:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "the file is empty")
    if not os.access(location, os.R_OK):
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "no permission to read it")
    return location


def _bounds(utterance: Utterance, rate: int, frames: int, max_seconds: float) -> tuple[int, int]:
    """Return first frame and number of frames of the utterance at the file's rate, checked against its length."""
    start = samples_at_rate(utterance.offset, rate)
    if frames == 0:
        raise AudioProblem(Reason.EMPTY_AUDIO, "the file holds no samples")
    if start >= frames:
        raise AudioProblem(Reason.EMPTY_AUDIO, f"offset {start / rate:.2f} s, the file ends at {frames / rate:.2f} s")
    count = frames - start if utterance.length is None else samples_at_rate(utterance.length, rate)
    if count > max_seconds * rate:
        raise AudioProblem(Reason.TOO_LONG, f"{count / rate:.1f} s, the recipe allows {max_seconds:g} s")
    if start + count > frames + LENGTH_TOLERANCE_SECONDS * rate:
        missing = (start + count - frames) / rate
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"the file ends {missing:.2f} s before the utterance does")
    return start, min(count, frames - start)


def _read_soundfile(file: Any, utterance: Utterance, max_seconds: float) -> Window:
    if file.frames < 0 or not file.seekable():
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "its length cannot be determined")
    start, count = _bounds(utterance, file.samplerate, file.frames, max_seconds)
    skip = 0 if file.format in EXACT_SEEK else start
    file.seek(start - skip)
    samples = file.read(skip + count, dtype="float32", always_2d=True)[skip:]
    if len(samples) < count:
        raise AudioProblem(
            Reason.UNREADABLE_AUDIO, f"breaks off after {(start + len(samples)) / file.samplerate:.2f} s"
        )
    return Window(samples=samples, rate=file.samplerate)


def _read_av(source: str | io.BytesIO, utterance: Utterance, max_seconds: float) -> Window:
    import av
    import numpy as np

    unreadable = AudioProblem(Reason.UNREADABLE_AUDIO, "no decoder can read it")
    blocks: list[npt.NDArray[np.float32]] = []
    rate = 0
    try:
        with av.open(source, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise unreadable
            resampler = av.AudioResampler(format="fltp")
            limit = utterance.offset / SAMPLE_RATE + max_seconds + 1.0
            length = 0
            for frame in container.decode(container.streams.audio[0]):
                rate = frame.sample_rate
                blocks += [part.to_ndarray().T for part in resampler.resample(frame)]
                length += frame.samples
                if length > limit * rate:
                    break
    except (av.error.FFmpegError, ValueError):
        raise unreadable from None
    if not blocks:
        raise AudioProblem(Reason.EMPTY_AUDIO, "the file holds no samples")
    samples = np.concatenate(blocks).astype(np.float32)
    start, count = _bounds(utterance, rate, len(samples), max_seconds)
    return Window(samples=samples[start : start + count], rate=rate)
