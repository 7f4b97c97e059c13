"""Decode: any rate, any channel count, any fault."""

import errno
import io
import os
import struct
import tracemalloc
import warnings
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.clock import Samples
from schemas.records import Clip, Utterance
from schemas.rejects import Reason, Reject
from stages import audio_sources
from stages.audio_files import header_seconds
from stages.decode import DecodeConfig, to_pcm

DECODE = DecodeConfig().setup()


def utterance(path: Path | str, **fields: object) -> Utterance:
    plain = {"key": "k", "id": "k", "audio": Path(path).name, "text": "x", "recording": "r", "index": 0}
    return Utterance(**{**plain, "location": str(path), **fields})  # type: ignore[arg-type]


def decode(path: Path | str, **fields: object) -> Clip | Reject:
    return DECODE.process([utterance(path, **fields)])[0]


def tone(seconds: float, rate: int, hz: float = 440.0, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def clip(path: Path | str, **fields: object) -> Clip:
    found = decode(path, **fields)
    assert isinstance(found, Clip), found
    return found


def reason(path: Path | str, **fields: object) -> Reason:
    found = decode(path, **fields)
    assert isinstance(found, Reject), found
    assert found.detail.startswith(Path(path).name)
    return found.reason


def test_int16_at_16_khz_comes_back_unchanged(tmp_path: Path) -> None:
    pcm = np.random.default_rng(0).integers(-20_000, 20_000, 16_000).astype(np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, pcm, 16_000, subtype="PCM_16")
        assert np.array_equal(clip(tmp_path / name).pcm, pcm)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_other_rates_keep_length_pitch_and_level(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, rate), rate)
    found = clip(tmp_path / "a.wav")
    assert abs(found.num_samples - 16_000) <= 1
    assert found.source_rate == rate
    middle = found.pcm[4_000:12_000] / 32768
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * 2 == 440
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.5, rel=0.01)


def test_aliases_are_filtered_out() -> None:
    high = tone(1.0, 48_000, hz=11_000.0).astype(np.float32)
    assert np.abs(to_pcm(high, 48_000)[2_000:-2_000]).max() < 32768 * 0.001


def test_channels_are_mixed_or_chosen(tmp_path: Path) -> None:
    left, right = tone(0.5, 16_000, 300), tone(0.5, 16_000, 700, level=0.1)
    soundfile.write(tmp_path / "s.wav", np.stack([left, right], 1), 16_000, subtype="PCM_16")
    both, first, second = (clip(tmp_path / "s.wav", channel=c).pcm / 32768 for c in (None, 0, 1))
    assert np.allclose(first, left, atol=1e-4)
    assert np.allclose(second, right, atol=1e-4)
    assert np.allclose(both, (left + right) / 2, atol=1e-4)
    assert reason(tmp_path / "s.wav", channel=2) is Reason.BAD_ROW


@given(start=st.integers(0, 30_000), length=st.integers(2_000, 9_000))
@settings(max_examples=20)
def test_a_window_is_a_slice_of_the_whole(start: int, length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("w") / "a.flac"
    pcm = np.random.default_rng(1).integers(-9_000, 9_000, 40_000).astype(np.int16)
    soundfile.write(path, pcm, 16_000)
    found = clip(path, offset=Samples(start), length=Samples(length))
    assert np.array_equal(found.pcm, pcm[start : start + length])


def test_a_window_of_an_mp3_is_a_slice_of_the_whole(tmp_path: Path) -> None:
    noise = np.random.default_rng(2).normal(0, 0.1, 16_000 * 4)
    soundfile.write(tmp_path / "a.mp3", noise, 16_000, format="MP3")
    whole = clip(tmp_path / "a.mp3").pcm
    part = clip(tmp_path / "a.mp3", offset=Samples(20_011), length=Samples(8_000)).pcm
    assert np.array_equal(part, whole[20_011:28_011])


def encode_with_av(path: Path, container: str, codec: str) -> None:
    """Write a second of a stereo tone at 44.1 kHz."""
    with av.open(str(path), "w", format=container) as out:
        stream = out.add_stream(codec, rate=44_100, layout="stereo")
        samples = np.repeat(tone(1.0, 44_100)[None].astype(np.float32), 2, axis=0)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = 44_100, 0, Fraction(1, 44_100)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "aac")])
def test_pyav_reads_what_soundfile_cannot(tmp_path: Path, container: str, codec: str) -> None:
    path = tmp_path / "a.bin"
    encode_with_av(path, container, codec)
    found = clip(path)
    assert (found.source_rate, found.source_channels) == (44_100, 2)
    assert abs(found.num_samples - 16_000) < 1_600
    part = clip(path, offset=Samples(4_000), length=Samples(8_000))
    assert np.abs(part.pcm[200:-200].astype(int) - found.pcm[4_200:11_800]).max() < 500


def streamed_flac(path: Path, seconds: float) -> np.ndarray:
    """A FLAC whose header does not state its length, as encoders write into a pipe."""
    pcm = np.random.default_rng(3).integers(-9_000, 9_000, int(seconds * 16_000)).astype(np.int16)
    soundfile.write(path, pcm, 16_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = b"\0\0\0\0"
    path.write_bytes(bytes(data))
    return pcm


def test_a_flac_of_unstated_length_is_read_and_bounded(tmp_path: Path) -> None:
    pcm = streamed_flac(tmp_path / "s.flac", 3.0)
    assert header_seconds(str(tmp_path / "s.flac")) < 100
    assert np.array_equal(clip(tmp_path / "s.flac").pcm, pcm)
    part = clip(tmp_path / "s.flac", offset=Samples(16_000), length=Samples(8_000))
    assert np.array_equal(part.pcm, pcm[16_000:24_000])
    streamed_flac(tmp_path / "l.flac", 130.0)
    assert reason(tmp_path / "l.flac") is Reason.TOO_LONG


def test_headers_state_lengths_that_pyav_must_read(tmp_path: Path) -> None:
    encode_with_av(tmp_path / "a.m4a", "mp4", "aac")
    assert header_seconds(str(tmp_path / "a.m4a")) == pytest.approx(1.0, abs=0.1)
    for name in ("x.raw", "x.txt"):
        (tmp_path / name).write_bytes(b"no audio at all")
        assert header_seconds(str(tmp_path / name)) == 0.0
    assert reason(tmp_path / "x.raw") is Reason.UNREADABLE_AUDIO


def test_a_playlist_cannot_read_another_file(tmp_path: Path) -> None:
    encode_with_av(tmp_path / "secret.m4a", "mp4", "aac")
    (tmp_path / "list.wav").write_text("ffconcat version 1.0\nfile secret.m4a\n")
    assert reason(tmp_path / "list.wav") is Reason.UNREADABLE_AUDIO


def test_faults_of_a_file_are_told_apart(tmp_path: Path) -> None:
    assert reason(tmp_path) is Reason.UNREADABLE_AUDIO
    os.mkfifo(tmp_path / "fifo.wav")
    assert reason(tmp_path / "no.wav") is Reason.MISSING_AUDIO
    assert reason(tmp_path / "fifo.wav") is Reason.UNREADABLE_AUDIO
    (tmp_path / "empty.wav").write_bytes(b"")
    assert reason(tmp_path / "empty.wav") is Reason.UNREADABLE_AUDIO
    (tmp_path / "text.wav").write_text("this is no audio\n" * 40)
    assert reason(tmp_path / "text.wav") is Reason.UNREADABLE_AUDIO
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    assert reason(tmp_path / "none.wav") is Reason.EMPTY_AUDIO
    soundfile.write(tmp_path / "short.wav", tone(0.01, 16_000), 16_000)
    assert reason(tmp_path / "short.wav") is Reason.TOO_SHORT
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000), 16_000)
    assert reason(tmp_path / "silent.wav") is Reason.SILENT
    soundfile.write(tmp_path / "clipped.wav", np.sign(tone(1.0, 16_000)), 16_000)
    assert reason(tmp_path / "clipped.wav") is Reason.CLIPPED
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan] * 8_000), 16_000, subtype="FLOAT")
    assert reason(tmp_path / "nan.wav") is Reason.NOT_FINITE
    soundfile.write(tmp_path / "long.wav", tone(121.0, 8_000), 8_000)
    assert reason(tmp_path / "long.wav") is Reason.TOO_LONG


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_is_away_costs_the_split_and_no_record(tmp_path: Path, there: bool) -> None:
    """An unmounted share shows an empty folder, or none."""
    base = tmp_path / "mount"
    if there:
        base.mkdir()
    with pytest.raises(OSError, match="is it mounted here") as caught:
        reason(base / "a.wav")
    assert caught.value.errno == errno.EIO
    base.mkdir(exist_ok=True)
    (base / "b.wav").write_bytes(b"")
    assert reason(base / "a.wav") is Reason.MISSING_AUDIO


@pytest.mark.parametrize("keep", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_flac_is_no_record(tmp_path: Path, keep: float) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(3.0, 16_000), 16_000, format="FLAC")
    data = buffer.getvalue()
    (tmp_path / "t.flac").write_bytes(data[: int(len(data) * keep)])
    assert reason(tmp_path / "t.flac") is Reason.UNREADABLE_AUDIO


def test_offsets_outside_the_file_are_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16_000), 16_000)
    assert reason(tmp_path / "a.wav", offset=Samples(16_000)) is Reason.EMPTY_AUDIO
    assert reason(tmp_path / "a.wav", offset=Samples(8_000), length=Samples(16_000)) is Reason.UNREADABLE_AUDIO
    rounded = clip(tmp_path / "a.wav", offset=Samples(8_000), length=Samples(8_400))
    assert rounded.num_samples == 8_000


@given(data=st.binary(max_size=400))
@settings(max_examples=60, deadline=None)
def test_no_bytes_raise(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("f") / "x.wav"
    for head in (b"", b"RIFF\x24\x00\x00\x00WAVEfmt ", b"fLaC", b"OggS", b"ID3"):
        path.write_bytes(head + data)
        assert isinstance(decode(path), Clip | Reject)


def wav(samples: np.ndarray, rate: int = 16_000, channels: int = 1) -> bytearray:
    """The plainest WAV: rate at byte 24, channels at 22, size of the samples at 40."""
    data = np.rint(samples * 32767).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    head = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE")
    return bytearray(head + form + struct.pack("<4sI", b"data", len(data)) + data)


def aiff(samples: np.ndarray) -> bytearray:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format="AIFF", subtype="PCM_16")
    return bytearray(buffer.getvalue())


@pytest.mark.parametrize("whole", [wav(tone(2.0, 16_000)), aiff(tone(2.0, 16_000))], ids=["wav", "aiff"])
def test_a_cut_file_is_no_shorter_recording(whole: bytearray, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(whole[: len(whole) * 6 // 10])
    assert reason(path) is Reason.UNREADABLE_AUDIO
    assert clip(path, offset=Samples(1_600), length=Samples(8_000)).num_samples == 8_000  # what is there is there
    path.write_bytes(whole[:-1_000])  # 31 ms, within the tolerance
    assert abs(clip(path).num_samples - 31_500) <= 1


@pytest.mark.parametrize("size", [2**32 - 1, 2**32 - 25, 2**31 - 1, 0x7FFFF024])
def test_a_wav_that_was_written_into_a_pipe_is_whole(size: int, tmp_path: Path) -> None:
    data = wav(tone(1.0, 16_000))
    data[40:44] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    assert clip(tmp_path / "a.wav").num_samples == 16_000


def test_a_cut_mp4_and_mkv_are_no_shorter_recordings(tmp_path: Path) -> None:
    for container in ("mov", "matroska"):
        with av.open(str(tmp_path / "a"), "w", format=container, options={"movflags": "faststart"}) as out:
            stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
            for start in range(0, 64_000, 1_600):
                part = np.rint(tone(0.1, 16_000) * 32767).astype(np.int16)[None]
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
        data = (tmp_path / "a").read_bytes()
        assert abs(clip(tmp_path / "a").num_samples - 64_000) < 10
        (tmp_path / "a").write_bytes(data[: len(data) // 2])
        assert reason(tmp_path / "a") is Reason.UNREADABLE_AUDIO
        assert clip(tmp_path / "a", length=Samples(16_000)).num_samples == 16_000


def test_a_stream_beside_a_longer_one_is_whole(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w", format="matroska") as out:
        streams = [out.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for stream, seconds in zip(streams, (1, 4), strict=True):
            part = np.ascontiguousarray(np.rint(tone(seconds, 16_000) * 32767).astype(np.int16)[None])
            frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    assert clip(tmp_path / "a.mkv").num_samples == 16_000


@pytest.mark.parametrize("rate", [0, 1, 1_999, 768_001, 2**31 - 1, 2**32 - 1])
def test_a_rate_that_no_recorder_has_is_a_damaged_header(rate: int, tmp_path: Path) -> None:
    data = wav(tone(1.0, 16_000))
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(data)
    assert reason(tmp_path / "a.wav") is Reason.UNREADABLE_AUDIO
    assert header_seconds(str(tmp_path / "a.wav")) < 100


def test_channels_cost_no_memory(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", np.zeros((3_000_000, 8), np.int16), 96_000)
    tracemalloc.start()
    assert reason(tmp_path / "a.flac") is Reason.SILENT
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60_000_000  # all channels at once are 96 MB


def test_many_channels_are_mixed_as_all_at_once(tmp_path: Path) -> None:
    samples = np.random.default_rng(5).normal(0, 0.1, (60_000, 24)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert np.array_equal(clip(tmp_path / "a.wav").pcm, to_pcm(samples.mean(axis=1, dtype=np.float32), 16_000))
    assert clip(tmp_path / "a.wav").source_channels == 24


def test_a_bad_sample_of_another_channel_is_told(tmp_path: Path) -> None:
    samples = np.stack([tone(0.5, 16_000)] * 2, 1)
    samples[5_000, 1] = np.inf
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    assert reason(tmp_path / "a.wav", channel=0) is Reason.NOT_FINITE


def test_a_sample_beyond_all_measure_becomes_no_nan(tmp_path: Path) -> None:
    samples = tone(1.0, 44_100)
    samples[20_000] = 3e38
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype="FLOAT")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clip(tmp_path / "a.wav")
    assert found.pcm.max() == 32767


def test_more_channels_than_ffmpeg_holds_in_a_frame_are_read(tmp_path: Path) -> None:
    pcm = np.random.default_rng(6).integers(-9_000, 9_000, (32_000, 24)).astype(np.int16)
    with av.open(str(tmp_path / "a.mkv"), "w", format="matroska") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="22.2")
        for start in range(0, len(pcm), 1_000):
            frame = av.AudioFrame.from_ndarray(pcm[start : start + 1_000].reshape(1, -1), format="s16", layout="22.2")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, start, Fraction(1, 16_000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    assert np.array_equal(clip(tmp_path / "a.mkv", channel=17).pcm, pcm[:, 17])
    assert clip(tmp_path / "a.mkv").source_channels == 24


def test_a_stream_without_decoder_is_unreadable(tmp_path: Path) -> None:
    encode_with_av(tmp_path / "a.mkv", "matroska", "aac")
    data = (tmp_path / "a.mkv").read_bytes()
    assert data.count(b"A_AAC") == 1
    (tmp_path / "a.mkv").write_bytes(data.replace(b"A_AAC", b"A_ZZZ"))
    assert reason(tmp_path / "a.mkv") is Reason.UNREADABLE_AUDIO


def test_a_header_cannot_claim_a_plan_for_itself(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", tone(1.0, 8_000), 8_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21:26] = bytes([data[21] | 15]) + b"\xff" * 4  # 2 ** 36 samples: 100 days
    (tmp_path / "a.flac").write_bytes(data)
    assert header_seconds(str(tmp_path / "a.flac")) < 60 + len(data) / 32 + 1


@pytest.mark.parametrize("place", ["/dev/zero", "/dev/urandom", "/proc/self/mem", "/proc/kmsg", "/"])
def test_devices_and_the_like_are_never_opened(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((soundfile, "SoundFile"), (soundfile, "info"), (av, "open")):
        monkeypatch.setattr(module, name, None)
    assert header_seconds(place) == 0.0
    assert decode(place).reason in (Reason.UNREADABLE_AUDIO, Reason.MISSING_AUDIO)  # type: ignore[union-attr]


def test_links_are_followed_to_files_only(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16_000), 16_000)
    for name, target in (("good", "a.wav"), ("zero", "/dev/zero"), ("loop", "loop"), ("gone", "b.wav"), ("up", ".")):
        (tmp_path / name).symlink_to(target)
    assert clip(tmp_path / "good").num_samples == 16_000
    assert reason(tmp_path / "zero") is reason(tmp_path / "up") is Reason.UNREADABLE_AUDIO
    assert all(decode(tmp_path / name).detail.endswith(": not a regular file") for name in ("zero", "up"))  # type: ignore[union-attr]
    assert reason(tmp_path / "loop") is reason(tmp_path / "gone") is Reason.MISSING_AUDIO
    assert decode(tmp_path / ("x" * 300)).reason is Reason.MISSING_AUDIO  # type: ignore[union-attr]


def test_objects_are_read_as_files_are(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16_000), 16_000)
    encode_with_av(tmp_path / "a.m4a", "mp4", "aac")
    for name in ("a.wav", "a.m4a"):
        store.pipe_file(f"/zoo/{name}", (tmp_path / name).read_bytes())
        assert np.array_equal(clip(f"memory://zoo/{name}").pcm, clip(tmp_path / name).pcm)
    store.pipe_file("/zoo/empty.wav", b"")
    store.pipe_file("/zoo/cut.wav", (tmp_path / "a.wav").read_bytes()[:20_000])
    assert reason("memory://zoo/empty.wav") is reason("memory://zoo/cut.wav") is Reason.UNREADABLE_AUDIO
    assert reason("memory://zoo/none.wav") is Reason.MISSING_AUDIO


def test_an_object_too_large_is_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe_file("/zoo/large.wav", bytes(wav(tone(1.0, 16_000))))
    monkeypatch.setattr(audio_sources, "MAX_OBJECT", 1000)
    monkeypatch.setattr(soundfile, "SoundFile", None)
    found = decode("memory://zoo/large.wav")
    assert isinstance(found, Reject)
    assert "larger than" in found.detail


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects of a store in memory, as they are fetched."""
    names, opened = list[str](), MemoryFileSystem._open

    def counted(self: MemoryFileSystem, path: str, *arguments: object, **named: object) -> object:
        names.append(path.rsplit("/", 1)[-1])
        return opened(self, path, *arguments, **named)

    store = fsspec.filesystem("memory")
    for name in ("hour-1.wav", "hour-2.wav"):
        store.pipe_file(f"/hours/{name}", bytes(wav(tone(3.0, 16_000))))
    monkeypatch.setattr(MemoryFileSystem, "_open", counted)
    return names


def cuts(name: str, count: int = 20) -> list[Utterance]:
    part = {"offset": Samples(1600), "length": Samples(3200)}
    return [utterance(f"memory://hours/{name}", **part, key=f"k{i}") for i in range(count)]


def test_an_object_is_fetched_once_for_all_rows_that_follow_each_other(fetched: list[str], tmp_path: Path) -> None:
    decoder = DecodeConfig().setup()
    found = [decoder.process([row])[0] for row in cuts("hour-1.wav") + cuts("hour-2.wav") + cuts("hour-1.wav", 2)]
    assert all(isinstance(one, Clip) for one in found)
    assert fetched == ["hour-1.wav", "hour-2.wav", "hour-1.wav"]
    soundfile.write(tmp_path / "a.wav", tone(1.0, 16_000), 16_000)
    assert isinstance(decoder.process([utterance(tmp_path / "a.wav")])[0], Clip)
    decoder.process(cuts("hour-1.wav", 1))
    assert fetched[3:] == ["hour-1.wav"]  # a local file lets go of the object


def test_an_object_too_large_is_fetched_once(fetched: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sources, "MAX_OBJECT", 1000)
    found = DecodeConfig().setup().process(cuts("hour-1.wav"))
    assert {(one.reason, one.detail) for one in found if isinstance(one, Reject)} == {
        (Reason.UNREADABLE_AUDIO, "hour-1.wav: larger than 0 GiB, which are held in memory")
    }
    assert fetched == ["hour-1.wav"]


def test_threads_that_share_a_decoder_have_streams_of_their_own(fetched: list[str]) -> None:
    decoder, rows = DecodeConfig().setup(), cuts("hour-1.wav", 30) + cuts("hour-2.wav", 30)
    alone = [one.pcm.tobytes() for one in decoder.process(rows) if isinstance(one, Clip)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: decoder.process(rows), range(4)))
    assert [[one.pcm.tobytes() for one in found if isinstance(one, Clip)] for found in together] == [alone] * 4


def test_two_objects_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = []

    class Object(bytes):
        def __del__(self) -> None:
            alive.remove(self[:1])

    def fetch(location: str, scheme: str) -> bytes:
        assert alive == []
        alive.append(location[-1:].encode())
        return Object(location[-1:].encode() * 9)

    monkeypatch.setattr(audio_sources, "_object", fetch)
    sources = audio_sources.Sources()
    for name in "aabba":
        opened = sources.open(f"memory://hours/{name}")
        assert isinstance(opened, io.BytesIO)
        assert opened.read() == name.encode() * 9
        del opened
    assert alive == [b"a"]


def test_a_store_that_is_away_stops_the_split_and_a_server_costs_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise ConnectionError("connection refused")

    monkeypatch.setattr(fsspec, "open", away)
    with pytest.raises(OSError, match="cannot be reached") as caught:
        decode("s3://key:secret@bucket/a.wav")
    assert caught.value.errno == errno.EIO
    assert caught.value.filename == "s3://bucket/a.wav"
    assert reason("https://example.org/a.wav") is Reason.MISSING_AUDIO


@pytest.mark.parametrize("place", ["ftp://x/a.wav", "s3://x::file:///etc/passwd", "local:///dev/zero", "x y://z"])
def test_odd_urls_are_never_opened(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fsspec, "open", None)
    found = DECODE.process([utterance(place, audio="a.wav")])[0]
    assert isinstance(found, Reject)
    assert found.reason is Reason.MISSING_AUDIO


def test_the_name_of_a_file_keeps_to_its_line() -> None:
    found = DECODE.process([utterance("nowhere", audio="a\nb\x1b\u202e" + "c" * 500)])[0]
    assert isinstance(found, Reject)
    assert found.detail.isprintable()
    assert len(found.detail) < 250
