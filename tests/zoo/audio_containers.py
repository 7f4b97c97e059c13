"""Audio containers: whole ones, and each cut in its header, after it and in its samples."""

from io import BytesIO

import soundfile

from tests.fuzz.seeds_audio import AV, by_av, by_soundfile
from tests.zoo.book import NOT_SPOKEN, RATE, RECORD, UNREADABLE, Zoo, speech

WHOLE = (
    ("wav", "WAV", "PCM_U8"),
    ("wav", "WAV", "PCM_16"),
    ("wav", "WAV", "PCM_24"),
    ("wav", "WAV", "PCM_32"),
    ("wav", "WAV", "FLOAT"),
    ("wav", "WAV", "DOUBLE"),
    ("wav", "WAV", "ALAW"),
    ("wav", "WAV", "ULAW"),
    ("wav", "WAV", "IMA_ADPCM"),
    ("wav", "WAVEX", "PCM_16"),
    ("wav", "RF64", "PCM_16"),
    ("w64", "W64", "PCM_16"),
    ("aiff", "AIFF", "PCM_16"),
    ("aiff", "AIFF", "FLOAT"),
    ("au", "AU", "PCM_16"),
    ("caf", "CAF", "PCM_16"),
    ("caf", "CAF", "ALAC_16"),
    ("flac", "FLAC", "PCM_16"),
    ("flac", "FLAC", "PCM_24"),
    ("ogg", "OGG", "VORBIS"),
    ("ogg", "OGG", "OPUS"),
    ("mp3", "MP3", "MPEG_LAYER_III"),
    ("nist", "NIST", "PCM_16"),
    ("voc", "VOC", "PCM_16"),
)
BY_AV = ("m4a", "aac", "mkv", "webm", "mov", "wv", "tta", "64.wav", "ac3", "wma", "flv", "ts")
CUT_SHORT = (UNREADABLE, *NOT_SPOKEN)
"""Of a container that does not state its length, a cut one is a shorter one: the text tells."""


def add_containers(zoo: Zoo) -> None:
    whole: dict[str, tuple[str, bytes]] = {}
    for suffix, container, subtype in WHOLE:
        name = f"{container}-{subtype}".lower()
        whole[name] = (suffix, by_soundfile(container, subtype, speech()[:, None]))
    for suffix, container, codec in AV:
        if suffix in BY_AV:
            whole[f"{suffix}-{codec}"] = (suffix, by_av(container, codec, wave=speech(48_000)))
    for name, (suffix, data) in whole.items():
        zoo.audio("container", f"whole-{name}.{suffix}", data, RECORD)
        zoo.audio("cut in the header", f"cut16-{name}.{suffix}", data[:16], UNREADABLE)
    for name in (
        "wav-pcm_16",
        "rf64-pcm_16",
        "w64-pcm_16",
        "aiff-pcm_16",
        "au-pcm_16",
        "caf-pcm_16",
        "flac-pcm_16",
        "ogg-vorbis",
        "ogg-opus",
        "mp3-mpeg_layer_iii",
        "m4a-aac",
        "aac-aac",
        "mkv-aac",
        "webm-libopus",
    ):
        suffix, data = whole[name]
        head = _header_bytes(name, data)
        zoo.audio(
            "cut after the header",
            f"cuthead-{name}.{suffix}",
            data[:head],
            UNREADABLE,
            "decode/empty_audio",
            "decode/too_short",
        )
        zoo.audio("cut in the samples", f"cut60-{name}.{suffix}", data[: len(data) * 6 // 10], *CUT_SHORT)
    add_odd_shapes(zoo)


def _header_bytes(name: str, data: bytes) -> int:
    """Return where the samples begin, roughly: what a format's first sample block is named, or a safe guess."""
    marks = {"wav": b"data", "rf64": b"data", "caf": b"data", "aiff": b"SSND", "m4a": b"mdat", "flac": b"\xff\xf8"}
    mark = marks.get(name.split("-")[0])
    at = data.find(mark) if mark else -1
    return at + 8 if at > 0 and name.split("-")[0] != "flac" else at if at > 0 else 40


def add_odd_shapes(zoo: Zoo) -> None:
    """Rates and channels that are rare and right."""
    for rate in (8_000, 11_025, 96_000, 384_000):
        zoo.audio("rare rate", f"rate-{rate}.wav", by_soundfile("WAV", "PCM_16", speech(rate)[:, None], rate), RECORD)
    for channels in (2, 8, 64):
        samples = speech()[:, None].repeat(channels, axis=1)
        zoo.audio("many channels", f"channels-{channels}.wav", by_soundfile("WAV", "PCM_16", samples), RECORD)
    zoo.audio("rare rate", "rate-1.wav", by_soundfile("WAV", "PCM_16", speech()[:100, None], 1), UNREADABLE)
    zoo.audio("rare rate", "rate-1999.wav", by_soundfile("WAV", "PCM_16", speech()[:8000, None], 1999), UNREADABLE)
    for subtype in ("PCM_16", "PCM_24"):
        buffer = BytesIO()
        soundfile.write(buffer, speech(), RATE, format="FLAC", subtype=subtype)
        unknown = bytearray(buffer.getvalue())
        unknown[21] &= 0xF0
        unknown[22:26] = bytes(4)
        zoo.audio("length not stated", f"piped-{subtype.lower()}.flac", bytes(unknown), RECORD)
