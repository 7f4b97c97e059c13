"""Small valid audio files of every container that can be written here: a tenth of a second of a tone."""

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import cache

import numpy as np
import soundfile

RATE = 16_000
SOUNDFILE = (
    ("wav", "WAV", ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "IMA_ADPCM", "GSM610")),
    ("wavex.wav", "WAVEX", ("PCM_16",)),
    ("rf64.wav", "RF64", ("PCM_16",)),
    ("w64", "W64", ("PCM_16",)),
    ("aiff", "AIFF", ("PCM_16", "PCM_S8", "FLOAT", "ULAW")),
    ("au", "AU", ("PCM_16",)),
    ("caf", "CAF", ("PCM_16", "ALAC_16")),
    ("flac", "FLAC", ("PCM_16", "PCM_24")),
    ("ogg", "OGG", ("VORBIS", "OPUS")),
    ("mp3", "MP3", ("MPEG_LAYER_III",)),
    ("nist", "NIST", ("PCM_16",)),
    ("voc", "VOC", ("PCM_16",)),
    ("ircam", "IRCAM", ("PCM_16",)),
    ("mat", "MAT5", ("PCM_16",)),
    ("paf", "PAF", ("PCM_16",)),
    ("svx", "SVX", ("PCM_16",)),
    ("htk", "HTK", ("PCM_16",)),
    ("sds", "SDS", ("PCM_16",)),
    ("xi", "XI", ("DPCM_16",)),
    ("avr", "AVR", ("PCM_16",)),
)
AV = (
    ("m4a", "mp4", "aac"),
    ("mp4", "mp4", "alac"),
    ("aac", "adts", "aac"),
    ("mkv", "matroska", "aac"),
    ("webm", "webm", "libopus"),
    ("mov", "mov", "pcm_s16le"),
    ("flv", "flv", "aac"),
    ("ts", "mpegts", "aac"),
    ("avi", "avi", "pcm_s16le"),
    ("ac3", "ac3", "ac3"),
    ("wv", "wv", "wavpack"),
    ("tta", "tta", "tta"),
    ("wma", "asf", "wmav2"),
    ("mp2", "mpegts", "mp2"),
    ("64.wav", "wav", "pcm_s64le"),
)


def tone(seconds: float = 0.15, rate: int = RATE, channels: int = 1) -> np.ndarray:
    wave = 0.4 * np.sin(2 * np.pi * 440.0 * np.arange(int(seconds * rate)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def by_soundfile(container: str, subtype: str, samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()


def by_av(container: str, codec: str, wave: np.ndarray | None = None, rate: int = 48_000) -> bytes:
    """Encode samples of one channel, by default a tone, with FFmpeg.

    Raises:
        ValueError, av.error.FFmpegError: if this build of FFmpeg has no such encoder or container.
    """
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 48_000
        wanted = stream.codec_context.format.name
        samples = tone(0.3, rate)[:, 0] if wave is None else wave
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(
            format=wanted, layout="mono", rate=rate, frame_size=stream.codec_context.frame_size
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def many_channels() -> bytes:
    """Return a Matroska file of 24 channels, more than FFmpeg holds in a frame itself."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=RATE, layout="22.2")
        pcm = np.rint(tone(0.1, channels=24) * 32767).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(pcm.reshape(1, -1), format="s16", layout="22.2")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def _written() -> Iterator[tuple[str, bytes]]:
    import av

    for suffix, container, subtypes in SOUNDFILE:
        for subtype in subtypes:
            try:
                yield suffix, by_soundfile(container, subtype, tone())
            except (soundfile.SoundFileError, ValueError):
                continue  # this build of libsndfile does not write it
    yield "mkv", many_channels()
    for suffix, container, codec in AV:
        try:
            yield suffix, by_av(container, codec)
        except (av.error.FFmpegError, ValueError):
            continue  # nor this build of FFmpeg


@cache
def audio_seeds() -> dict[str, tuple[bytes, ...]]:
    """Suffix to files; the set depends on what the installed libraries can write."""
    found: dict[str, tuple[bytes, ...]] = {}
    for suffix, data in _written():
        found[suffix] = (*found.get(suffix, ()), data)
    return found
