"""Read a window of an audio file: soundfile first, PyAV for what it cannot open. Nothing in a file is trusted.

Memory is bounded by the window, not by the file: what lies before it is skipped or decoded and dropped.
"""

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.clock import samples_at_rate
from schemas.records import Utterance
from schemas.rejects import Reason

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

LENGTH_TOLERANCE_SECONDS = 0.1
"""How far a manifest's duration may reach past the end of the file; durations are often rounded."""
EXACT_SEEK = frozenset({"AIFF", "AU", "CAF", "FLAC", "NIST", "RF64", "W64", "WAV", "WAVEX"})
"""Containers whose seek gives the very samples of a pass from the start. In others (an MP3 frame leans on the frames
before it) we decode from the start and drop, which costs a pass over the file for each of its utterances."""
UNKNOWN_FRAMES = 2**48
"""A stream that was written without its length claims more frames than this."""
BLOCK = 2**18
DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,rm,tta,w64,wav,wv"
)
"""What FFmpeg may take a file for: plain media. Left out are scripts and playlists, which name other files."""


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


def header_seconds(location: str) -> float:
    """Return the length that a local file's header states, in seconds; 0 where it states none that is plausible."""
    import av
    import soundfile

    try:
        info = soundfile.info(location)
        plausible = info.samplerate > 0 and 0 <= info.frames < UNKNOWN_FRAMES
        return float(info.frames / info.samplerate) if plausible else 0.0
    except (soundfile.SoundFileError, TypeError):  # a .raw file has no header to read: TypeError
        pass
    try:
        with av.open(location, options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container:
            return max(0.0, (container.duration or 0) / 1_000_000) if container.streams.audio else 0.0
    except (av.error.FFmpegError, ValueError):
        return 0.0


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
    except (soundfile.SoundFileError, TypeError):  # a .raw file has no header to read: TypeError
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
        raise AudioProblem(Reason.TOO_LONG, f"longer than the {max_seconds:g} s that the recipe allows")
    if start + count > frames + LENGTH_TOLERANCE_SECONDS * rate:
        missing = (start + count - frames) / rate
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"the file ends {missing:.2f} s before the utterance does")
    return start, min(count, frames - start)


def _read_soundfile(file: Any, utterance: Utterance, max_seconds: float) -> Window:
    if file.frames < 0 or not file.seekable():
        raise AudioProblem(Reason.UNREADABLE_AUDIO, "its length cannot be determined")
    rate = file.samplerate
    if file.frames >= UNKNOWN_FRAMES or file.format not in EXACT_SEEK:
        blocks = (block.copy() for block in file.blocks(BLOCK, dtype="float32", always_2d=True))
        return _window_of(blocks, rate, utterance, max_seconds)
    start, count = _bounds(utterance, rate, file.frames, max_seconds)
    file.seek(start)
    samples = file.read(count, dtype="float32", always_2d=True)
    if len(samples) < count:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"breaks off after {(start + len(samples)) / rate:.2f} s")
    return Window(samples=samples, rate=rate)


def _window_of(
    blocks: "Iterator[npt.NDArray[np.float32]]", rate: int, utterance: Utterance, max_seconds: float
) -> Window:
    """Take the utterance's window out of a stream of blocks, keeping no more than the window."""
    import numpy as np

    first = samples_at_rate(utterance.offset, rate)
    last = first + int((max_seconds + 1.0) * rate)
    kept: list[npt.NDArray[np.float32]] = []
    at = 0
    for block in blocks:
        part = block[max(0, first - at) : max(0, last - at)]
        if len(part):
            kept.append(part)
        at += len(block)
        if at >= last:
            break
    _, count = _bounds(utterance, rate, at, max_seconds)
    return Window(samples=np.concatenate(kept)[:count], rate=rate)


def _read_av(source: str | io.BytesIO, utterance: Utterance, max_seconds: float) -> Window:
    import av

    unreadable = AudioProblem(Reason.UNREADABLE_AUDIO, "no decoder can read it")
    try:
        with av.open(source, options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise unreadable
            stream = container.streams.audio[0]
            return _window_of(_av_blocks(container, stream), int(stream.rate or 0), utterance, max_seconds)
    except (av.error.FFmpegError, ValueError):
        raise unreadable from None


def _av_blocks(container: Any, stream: Any) -> "Iterator[npt.NDArray[np.float32]]":
    import av
    import numpy as np

    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=stream.rate)
    for frame in container.decode(stream):
        for part in resampler.resample(frame):
            yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
    for part in resampler.resample(None):
        yield np.ascontiguousarray(part.to_ndarray().T, dtype=np.float32)
