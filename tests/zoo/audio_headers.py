"""Headers that lie, samples that are none, bombs, and files that are no audio."""

import gzip
import io
import struct
import zipfile
from io import BytesIO

import numpy as np
import soundfile

from tests.zoo.book import NOT_SPOKEN, RATE, RECORD, UNREADABLE, Zoo, pcm_wav, speech, with_bytes

EMPTY = "decode/empty_audio"


def add_lies(zoo: Zoo) -> None:
    good = pcm_wav(speech())
    size = len(good) - 44

    def wav(name: str, expect: tuple[str, ...], *changes: tuple[int, bytes]) -> None:
        zoo.audio("header that lies", f"lie-{name}.wav", with_bytes(good, *changes), *expect)

    def int32(value: int) -> bytes:
        return struct.pack("<I", value)

    for rate in (0, 1, 2**31 - 1, 2**31, 2**32 - 1):
        wav(f"rate-{rate}", (UNREADABLE,), (24, int32(rate)))
    for channels in (0, 255, 1025, 65535):
        wav(
            f"channels-{channels}",
            (UNREADABLE, EMPTY, "decode/too_short", *NOT_SPOKEN),
            (22, struct.pack("<H", channels)),
        )
    for bits in (0, 1, 7, 255, 65535):
        wav(
            f"bits-{bits}",
            (UNREADABLE, EMPTY, *NOT_SPOKEN, "decode/clipped", "decode/too_long"),
            (34, struct.pack("<H", bits)),
        )
    wav("blockalign-0", (RECORD, UNREADABLE), (32, b"\0\0"))
    wav("format-65535", (UNREADABLE,), (20, b"\xff\xff"))
    wav("fmt-size", (UNREADABLE,), (16, int32(2**31)))
    wav("riff-size-0", (RECORD,), (4, int32(0)))
    wav("riff-size-max", (RECORD,), (4, int32(2**32 - 1)))
    wav("data-size-piped", (RECORD,), (40, int32(2**32 - 1)))
    wav("data-size-4gb", (RECORD, UNREADABLE), (40, int32(2**31 + 5)))
    wav("data-size-double", (UNREADABLE,), (40, int32(2 * size)))
    wav("data-size-half", (*NOT_SPOKEN, UNREADABLE), (40, int32(size // 2 & ~1)))
    wav("data-size-0", (EMPTY, UNREADABLE, RECORD), (40, int32(0)))
    wav("no-data", (UNREADABLE, EMPTY), (36, b"junk"))
    wav("no-fmt", (UNREADABLE,), (12, b"junk"))
    flac = bytearray(_flac(speech()))
    zoo.audio(
        "header that lies",
        "lie-total-2-36.flac",
        with_bytes(flac, (21, bytes([flac[21] | 15]) + b"\xff" * 4)),
        "decode/too_long",
        UNREADABLE,
    )
    zoo.audio(
        "header that lies",
        "lie-rate-0.flac",
        with_bytes(flac, (18, b"\0\0" + bytes([flac[20] & 15]))),
        RECORD,
        UNREADABLE,
    )
    zoo.audio("header that lies", "lie-blocksize-0.flac", with_bytes(flac, (8, b"\0\0\0\0")), UNREADABLE, RECORD)
    aiff = _written(speech(), "AIFF", "PCM_16")
    rate_at = aiff.find(b"COMM") + 16
    for name, value in (("nan", b"\x7f\xff\xc0" + bytes(7)), ("inf", b"\x7f\xff\x80" + bytes(7)), ("zero", bytes(10))):
        zoo.audio("header that lies", f"lie-rate-{name}.aiff", with_bytes(aiff, (rate_at, value)), UNREADABLE)
    zoo.audio("header that lies", "lie-two-headers.wav", bytes(good[:44]) + bytes(good), RECORD, *NOT_SPOKEN)
    zoo.audio("header that lies", "lie-name.mp3", bytes(good), RECORD)
    zoo.audio("header that lies", "lie-name.flac", _written(speech(), "OGG", "VORBIS"), RECORD)
    zoo.audio("header that lies", "trailing-garbage.wav", bytes(good) + b"\xde\xad" * 4000, RECORD)


def add_samples(zoo: Zoo) -> None:
    def floats(name: str, samples: np.ndarray, *expect: str) -> None:
        zoo.audio("samples that are none", f"{name}.wav", float_wav(samples), *expect)

    wave = speech()
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        floats(name, np.where(np.arange(len(wave)) == 30_000, value, wave), "decode/not_finite")
    floats("denormal", np.full(RATE, 1e-40), "decode/silent")
    floats("huge", np.where(np.arange(len(wave)) % 7 == 0, 3e38, wave), "decode/clipped")
    floats("one-huge", np.where(np.arange(len(wave)) == 20_000, 3e38, wave), RECORD, *NOT_SPOKEN)
    floats("pcm-in-float", wave * 32768, "decode/clipped")
    floats("dc-half", np.full(2 * RATE, 0.5), *NOT_SPOKEN)
    floats("dc-full", np.full(2 * RATE, 1.0), "decode/clipped")
    floats("zero", np.zeros(2 * RATE), "decode/silent")
    floats("minus-zero", np.full(2 * RATE, -0.0), "decode/silent")
    floats("one-sample", np.full(1, 0.5), "decode/too_short")
    floats("no-sample", np.zeros(0), EMPTY)
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE)
    floats("noise", noise, *NOT_SPOKEN)
    floats("square", np.sign(np.sin(np.arange(2 * RATE) / 20)), "decode/clipped")
    floats("click", np.where(np.arange(2 * RATE) == RATE, 0.9, 0.0), *NOT_SPOKEN)


def add_bombs(zoo: Zoo) -> None:
    """Small files that claim, or unfold to, hours."""
    hours = _flac(np.zeros(2 * 3600 * 8000, np.int16), 8000)
    zoo.audio("bomb", "two-hours.flac", hours, "decode/too_long")
    zoo.audio(
        "bomb", "two-hours-piped.flac", with_bytes(hours, (21, bytes([hours[21] & 0xF0]) + bytes(4))), "decode/too_long"
    )
    zoo.audio("bomb", "two-hours-end.flac", hours, "decode/silent", offset=7100.0, duration=50.0)
    zoo.audio("bomb", "eight-channels.flac", _flac(np.zeros((20 * 192_000, 8), np.int16), 192_000), "decode/silent")
    zoo.audio("bomb", "hour.mp3", _written(np.zeros(1800 * 8000), "MP3", "MPEG_LAYER_III", 8000), "decode/too_long")
    zoo.audio("bomb", "hour.opus", _written(np.zeros(1800 * 8000), "OGG", "OPUS", 8000), "decode/too_long")
    head = bytes(pcm_wav(np.zeros(0)))
    sparse = zoo.out / zoo.file(
        "audio/sparse.wav", with_bytes(head, (4, struct.pack("<I", 2**31)), (40, struct.pack("<I", 2**31 - 2)))
    )
    with open(sparse, "r+b") as file:
        file.truncate(2**31)
    zoo.row("bomb", "sparse.wav", "decode/too_long", audio_filepath="audio/sparse.wav")
    zoo.row(
        "bomb", "sparse-window.wav", "decode/silent", audio_filepath="audio/sparse.wav", offset=60_000.0, duration=5.0
    )
    zoo.row("bomb", "sparse-beyond.wav", EMPTY, audio_filepath="audio/sparse.wav", offset=9_000_000.0, duration=5.0)


def add_no_audio(zoo: Zoo) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.wav"), bytes(pcm_wav(speech())[:2000]))
    for name, data in (
        ("empty.wav", b""),
        ("empty.flac", b""),
        ("empty.mp3", b""),
        ("empty.ogg", b""),
        ("text.wav", b"this is no audio\n" * 40),
        ("page.mp3", b"<html><script>alert(1)</script></html>"),
        ("image.wav", b"\x89PNG\r\n\x1a\n" + bytes(200)),
        ("archive.wav", packed.getvalue()),
        ("packed.wav", gzip.compress(bytes(pcm_wav(speech())), mtime=0)),
        ("program.wav", b"\x7fELF" + bytes(300)),
        ("script.wav", b"#!/bin/sh\nrm -rf /\n"),
        ("nul.wav", bytes(4096)),
        ("ones.wav", b"\xff" * 4096),
        ("list.wav", b"ffconcat version 1.0\nfile ../good.flac\n"),
        ("list.m3u8", b"#EXTM3U\n#EXTINF:9,\n../good.flac\n"),
        ("list.pls", b"[playlist]\nFile1=../good.flac\n"),
        ("session.sdp", b"v=0\nm=audio 5004 RTP/AVP 0\n"),
        ("samples.raw", b"\1\2" * 4000),
        ("movie.mp4", b"\0\0\0\x18ftypmp42" + bytes(40)),
        ("random.wav", np.random.default_rng(1).bytes(5000)),
        ("random.mp3", np.random.default_rng(2).bytes(5000)),
        ("id3.mp3", b"ID3\4\0\0\x7f\x7f\x7f\x7f" + bytes(100)),
        ("json.wav", b'{"audio": true}'),
    ):
        zoo.audio("no audio", f"none-{name}", data, UNREADABLE)


def float_wav(samples: np.ndarray) -> bytes:
    """Return a float32 WAV; libsndfile would add a chunk that holds the time."""
    data = samples.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    return (
        struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + form + struct.pack("<4sI", b"data", len(data)) + data
    )


def _flac(samples: np.ndarray, rate: int = RATE) -> bytes:
    return _written(samples, "FLAC", "PCM_16", rate)


def _written(samples: np.ndarray, container: str, subtype: str, rate: int = RATE) -> bytes:
    buffer = BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=subtype)
    return buffer.getvalue()
