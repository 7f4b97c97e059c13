"""Read a window of an audio file: soundfile first, PyAV for what it cannot open. Nothing in a file is trusted.

Memory is bounded by the window of one channel, not by the file and not by its channels: blocks are mixed as they come,
and what lies before the window is skipped or decoded and dropped.
"""

import errno
import io
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.clock import samples_at_rate
from schemas.records import Utterance
from schemas.rejects import Reason
from stages.audio_headers import missing_share
from stages.audio_sources import AudioProblem, open_source, require_given

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["AudioProblem", "Window", "header_seconds", "open_source", "read_window"]

LENGTH_TOLERANCE_SECONDS = 0.1
"""How far a manifest's duration may reach past the end of the file; durations are often rounded."""
STATED_TOLERANCE_SECONDS = 0.5
"""How far a whole file may fall short of the length that its container states, encoder delay included."""
EXACT_SEEK = frozenset({"AIFF", "AU", "CAF", "FLAC", "NIST", "RF64", "W64", "WAV", "WAVEX"})
"""Containers whose seek gives the very samples of a pass from the start. In others (an MP3 frame leans on the frames
before it) we decode from the start and drop, which costs a pass over the file for each of its utterances."""
UNKNOWN_FRAMES = 2**48
"""A stream that was written without its length claims more frames than this."""
RATES = range(2_000, 768_001)
"""Sample rates in Hz; another comes from a damaged header."""
BLOCK = 2**18
"""Samples, of all channels together, that are decoded at once."""
LEAST_BYTES_PER_SECOND = 32
"""Silence as FLAC takes 47 bytes a second; a header that states more audio than this allows is not believed."""
DEMUXERS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,dsf,eac3,flac,flv,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,"
    "mpegts,ogg,rm,tta,w64,wav,wv"
)
"""What FFmpeg may take a file for: plain media. Left out are scripts and playlists, which name other files."""
EXACT_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""FFmpeg's names of containers that state the length of a stream, where others have it estimated."""
SYSTEM_CODES = frozenset({2, 17})
"""libsndfile's codes for a call that the system refused, and for memory."""
SYSTEM_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT})
"""Of the system where FFmpeg tells them. EIO and ENOMEM it tells of damaged files as well."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Window:
    """Decoded samples of one channel, or of all mixed: float32, shape (num_frames,), at the file's own rate in Hz.

    Attributes:
        channels: that the file has.
        finite: whether all samples of all channels are.
    """

    samples: "npt.NDArray[np.float32]"
    rate: int
    channels: int
    finite: bool


def header_seconds(location: str) -> float:
    """Return the length that a local file's header states, in seconds; 0 where it states none that is plausible."""
    import av
    import soundfile

    if "://" in location:
        return 0.0
    try:
        open_source(location)  # refuses what would block the planner for ever
        most = 60.0 + os.path.getsize(location) / LEAST_BYTES_PER_SECOND
        info = soundfile.info(location)
        plausible = info.samplerate in RATES and 0 <= info.frames < UNKNOWN_FRAMES
        return min(most, info.frames / info.samplerate) if plausible else 0.0
    except (soundfile.SoundFileError, TypeError):  # a .raw file has no header to read: TypeError
        pass
    except (AudioProblem, OSError):
        return 0.0
    try:
        with av.open(location, options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container:
            stated = (container.duration or 0) / 1_000_000 if container.streams.audio else 0.0
            return min(most, max(0.0, stated))
    except (av.error.FFmpegError, ValueError):
        return 0.0


def read_window(
    utterance: Utterance, max_seconds: float, open_source: Callable[[str], str | io.BytesIO] = open_source
) -> Window:
    """Decode the utterance's part of its file.

    Args:
        utterance: says which file, and which part of it.
        max_seconds: a longer part is refused.
        open_source: gives a local path or a stream; see `stages.audio_sources.Sources`.

    Raises:
        AudioProblem: for anything wrong with the file.
        OSError: if the system does not give it.
        MemoryError: if there is none.
    """
    try:
        source = open_source(utterance.location)
    except AudioProblem as problem:
        if problem.reason is Reason.MISSING_AUDIO:
            _require_base(utterance)
        raise
    try:
        return _decoded(source, utterance, max_seconds, doubting=True)
    except AudioProblem as problem:
        if problem.reason is not Reason.UNREADABLE_AUDIO:
            raise
    require_given(source)
    return _decoded(source, utterance, max_seconds, doubting=False)  # what was wrong with the system may have passed


def _require_base(utterance: Utterance) -> None:
    """Check that the folder that relative paths of the manifest start from is there.

    Raises:
        OSError: EIO, if it is missing or empty, as a mount is that is away on this machine.
    """
    base = utterance.location.removesuffix(utterance.audio)
    if base in ("", utterance.location) or "://" in base or os.path.isabs(utterance.audio):
        return
    try:
        with os.scandir(base) as entries:
            there = next(entries, None) is not None
    except FileNotFoundError:
        there = False
    if not there:
        raise OSError(errno.EIO, "the folder of the audio is missing or empty: is it mounted here?", base)


def _decoded(source: str | io.BytesIO, utterance: Utterance, max_seconds: float, *, doubting: bool) -> Window:
    """Decode by soundfile, else by PyAV; while doubting not by the other where the system failed the one."""
    import soundfile

    if isinstance(source, io.BytesIO):
        source.seek(0)
    try:
        with soundfile.SoundFile(source) as file:
            window = _read_soundfile(file, utterance, max_seconds)
            _require_whole(source, file, utterance)
            return window
    except (soundfile.SoundFileError, TypeError) as error:  # a .raw file has no header to read: TypeError
        if doubting and getattr(error, "code", 0) in SYSTEM_CODES:
            raise AudioProblem(Reason.UNREADABLE_AUDIO, "the system does not give it") from None
        if isinstance(source, io.BytesIO):
            source.seek(0)
        return _read_av(source, utterance, max_seconds)


def _require_whole(source: str | io.BytesIO, file: Any, utterance: Utterance) -> None:
    """Raise AudioProblem if the whole of a file is asked for and its header says that there was more."""
    if utterance.length is None and file.format in ("WAV", "WAVEX", "AIFF"):
        missing = file.frames / file.samplerate * missing_share(source)
        if missing > LENGTH_TOLERANCE_SECONDS:
            raise AudioProblem(Reason.UNREADABLE_AUDIO, f"it ends {missing:.2f} s before its header says")


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
    rate = _checked_rate(file.samplerate)
    if file.frames >= UNKNOWN_FRAMES or file.format not in EXACT_SEEK:
        return _window_of(_blocks(file, file.frames), rate, utterance, max_seconds)
    start, count = _bounds(utterance, rate, file.frames, max_seconds)
    file.seek(start)
    window = _joined(_blocks(file, count), rate, utterance.channel)
    if len(window.samples) < count:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"breaks off after {(start + len(window.samples)) / rate:.2f} s")
    return window


def _checked_rate(rate: int) -> int:
    if rate not in RATES:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"its header states a sample rate of {rate} Hz")
    return rate


def _blocks(file: Any, count: int) -> "Iterator[npt.NDArray[np.float32]]":
    """Yield up to `count` frames from where a file stands, as float32 of shape (frames, channels)."""
    size = max(1, BLOCK // file.channels)
    while count > 0:
        block = file.read(min(size, count), dtype="float32", always_2d=True)
        if not len(block):
            return
        count -= len(block)
        yield block


def _joined(blocks: "Iterable[npt.NDArray[np.float32]]", rate: int, channel: int | None) -> Window:
    """Mix blocks, or take one channel of them, and put them together."""
    import numpy as np

    parts: list[npt.NDArray[np.float32]] = []
    channels, finite = 1, True
    for block in blocks:
        channels, finite = block.shape[1], finite and bool(np.isfinite(block).all())
        if channel is not None and channel >= channels:
            raise AudioProblem(Reason.BAD_ROW, f"channel {channel} asked for, the file has {channels}")
        with np.errstate(invalid="ignore", over="ignore"):  # infinities of opposite sign; the clip is refused later
            parts.append(block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel].copy())
    samples = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return Window(samples=samples, rate=rate, channels=channels, finite=finite)


def _window_of(
    blocks: "Iterator[npt.NDArray[np.float32]]", rate: int, utterance: Utterance, max_seconds: float
) -> Window:
    """Take the utterance's window out of a stream of blocks, keeping no more than the window."""
    first = samples_at_rate(utterance.offset, rate)
    last = first + int((max_seconds + 1.0) * rate)
    at = 0

    def inside() -> "Iterator[npt.NDArray[np.float32]]":
        nonlocal at
        for block in blocks:
            part = block[max(0, first - at) : max(0, last - at)]
            at += len(block)
            if len(part):
                yield part
            if at >= last:
                return

    window = _joined(inside(), rate, utterance.channel)
    _, count = _bounds(utterance, rate, at, max_seconds)
    return Window(samples=window.samples[:count], rate=rate, channels=window.channels, finite=window.finite)


def _read_av(source: str | io.BytesIO, utterance: Utterance, max_seconds: float) -> Window:
    import av

    unreadable = AudioProblem(Reason.UNREADABLE_AUDIO, "no decoder can read it")
    try:
        with av.open(source, options={"format_whitelist": DEMUXERS}, metadata_errors="ignore") as container:
            if not container.streams.audio or container.streams.audio[0].codec_context is None:
                raise unreadable
            stream = container.streams.audio[0]
            rate = _checked_rate(int(stream.rate or 0))
            with closing(_av_blocks(container, stream)) as blocks:  # a decoder must not outlive its container
                window = _window_of(blocks, rate, utterance, max_seconds)
            missing = _stated_seconds(container, stream) - len(window.samples) / rate
    except (av.error.FFmpegError, ValueError) as error:
        if getattr(error, "errno", None) in SYSTEM_ERRNOS:
            raise
        raise unreadable from None
    if utterance.length is None and utterance.offset == 0 and missing > STATED_TOLERANCE_SECONDS:
        raise AudioProblem(Reason.UNREADABLE_AUDIO, f"it ends {missing:.2f} s before its header says")
    return window


def _stated_seconds(container: Any, stream: Any) -> float:
    """Return the length that the container states, 0 where it is of a kind that states none."""
    if container.format.name not in EXACT_LENGTH:
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1_000_000 if len(container.streams) == 1 else 0.0  # of the longest stream


def _av_blocks(container: Any, stream: Any) -> "Generator[npt.NDArray[np.float32]]":
    import av

    # Packed, since PyAV 18 looks for the planes of a frame beyond the end of their list: with more than 8 channels that
    # is other memory.
    resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=stream.rate)
    for frame in _frames(container, stream):
        for part in resampler.resample(frame):
            yield _packed(part)
    for part in resampler.resample(None):
        yield _packed(part)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the frames of a stream. Packets of streams that the file opens on the way are passed over.

    PyAV looks for their stream in the list that it made at the beginning, and fails; after that it reads on. FFmpeg may
    or may not see such a stream in damaged bytes, so a clip must not depend on it.
    """
    import av

    again = False
    while True:
        try:
            yield from container.decode(stream)
        except IndexError:
            again = True
            continue
        except av.error.EOFError:  # the failure came after the decoder was emptied
            if not again:
                raise
        return


def _packed(part: Any) -> "npt.NDArray[np.float32]":
    """Return a packed frame as float32 of shape (frames, channels)."""
    samples: npt.NDArray[np.float32] = part.to_ndarray().reshape(part.samples, part.layout.nb_channels)
    return samples
