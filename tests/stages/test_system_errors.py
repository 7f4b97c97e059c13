"""A system that fails blames no record: what decoders take for damage is read once more before it is a reject."""

import errno
import io
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from pipeline.guard import run_stage
from pipeline.manifest_files import raw_rows
from schemas.records import Clip, Utterance
from schemas.rejects import Reason, Reject
from stages import audio_sources
from stages.alignment_files.folder import alignment_files
from stages.audio_files import header_seconds
from stages.audio_sources import AudioProblem, open_source
from stages.decode import DecodeConfig

RATE = 16_000
AWAY = [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE, errno.EHOSTDOWN, 4095]
ON_THE_PATH = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "no such file",
    errno.EPERM: "no such file",
    errno.EINVAL: "no such file",
    errno.EILSEQ: "no such file",
    errno.ELOOP: "a loop of links",
    errno.ENAMETOOLONG: "a name longer than the file system takes",
}


def outcome(path: Path) -> Clip | Reject:
    """Decode as the executor does; an error of the system is raised."""
    row = Utterance(key="k", id="k", audio=path.name, location=str(path), text="", recording="r", index=0)
    (found,) = run_stage(DecodeConfig().setup(), "decode", [row], lambda _: None)
    assert isinstance(found, Clip | Reject)
    return found


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.wav"
    soundfile.write(path, 0.5 * np.sin(np.arange(RATE) / 5.0), RATE)
    return path


@pytest.fixture
def damaged(good: Path) -> Path:
    """Stands for a file that the decoders were not given: they fail alike."""
    good.write_bytes(b"\0" * 1000)
    return good


def failing(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", AWAY)
def test_a_path_that_the_system_does_not_tell_of_is_not_missing(
    number: int, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", failing(number))
        with pytest.raises(OSError, match="the system does not give the file") as caught:
            outcome(good)
        assert caught.value.errno == errno.EIO
        assert header_seconds(str(good)) == 0.0
    assert isinstance(outcome(good), Clip)


@pytest.mark.parametrize(("number", "detail"), ON_THE_PATH.items())
def test_a_path_that_is_wrong_costs_the_record(
    number: int, detail: str, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "stat", failing(number))
    with pytest.raises(AudioProblem) as caught:
        open_source(str(good))
    assert (caught.value.reason, caught.value.detail) == (Reason.MISSING_AUDIO, detail)


@contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a"])
def test_without_descriptors_no_file_is_unreadable(suffix: str, good: Path) -> None:
    path = good.with_suffix(f".{suffix}")
    if suffix == "m4a":
        encode(good, path)
    else:
        soundfile.write(path, *soundfile.read(good))
    assert isinstance(outcome(path), Clip)
    with no_descriptors(), pytest.raises(OSError, match="Too many open files") as caught:
        outcome(path)
    assert caught.value.errno in (errno.EIO, errno.EMFILE)


def encode(source: Path, path: Path) -> None:
    with av.open(str(source)) as wav, av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=RATE)
        for frame in wav.decode(audio=0):
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


class Pieces(io.BytesIO):
    """A file on a disk that fails after two pieces."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() >= 200:
            raise OSError(errno.ESTALE, "Stale file handle")
        return super().read(size)


def test_a_disk_that_fails_midway_is_no_damaged_file(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sources, "PIECE", 100)
    monkeypatch.setattr(audio_sources, "open", lambda *_, **__: Pieces(damaged.read_bytes()), raising=False)
    with pytest.raises(OSError, match="Stale") as caught:
        outcome(damaged)
    assert caught.value.errno == errno.EIO


def test_no_more_than_an_object_is_read_again(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sources, "PIECE", 100)
    monkeypatch.setattr(audio_sources, "MAX_OBJECT", 200)
    monkeypatch.setattr(audio_sources, "open", lambda *_, **__: Pieces(damaged.read_bytes()), raising=False)
    assert reason(damaged) is Reason.UNREADABLE_AUDIO


def test_files_of_the_kernel_are_not_read_again(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sources, "KERNEL_FILES", (f"{damaged.parent}/",))
    monkeypatch.setattr(audio_sources, "open", failing(errno.EIO), raising=False)
    assert reason(damaged) is Reason.UNREADABLE_AUDIO


def reason(path: Path) -> Reason:
    found = outcome(path)
    assert isinstance(found, Reject)
    return found.reason


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM])
def test_a_file_that_may_not_be_read_costs_the_record(number: int, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(audio_sources, "open", failing(number), raising=False)
    with pytest.raises(AudioProblem, match="no permission") as caught:
        open_source(str(good))
    assert caught.value.reason is Reason.UNREADABLE_AUDIO


@pytest.mark.parametrize("number", AWAY)
def test_a_permission_that_the_system_does_not_tell_of_is_not_denied(
    number: int, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(audio_sources, "open", failing(number), raising=False)
    with pytest.raises(OSError, match="the system does not give the file"):
        outcome(good)


def test_a_failure_that_passes_changes_no_bytes(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = outcome(good)
    opened, left = soundfile.SoundFile, [2]

    def once(*args: Any) -> Any:
        if left:
            raise soundfile.LibsndfileError(left.pop())
        return opened(*args)

    monkeypatch.setattr(soundfile, "SoundFile", once)
    monkeypatch.setattr(av, "open", failing(errno.EIO))  # the other decoder gives other samples
    found = outcome(good)
    assert isinstance(quiet, Clip)
    assert isinstance(found, Clip)
    assert np.array_equal(quiet.pcm, found.pcm)


def test_a_file_whose_damage_looks_like_the_system_costs_the_record(
    good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> Any:
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile, "SoundFile", fail)
    assert isinstance(outcome(good), Clip)  # by the other decoder
    good.write_bytes(b"\0" * 1000)
    monkeypatch.setattr(av, "open", lambda *_, **__: av.error.err_check(-errno.EIO))
    assert reason(good) is Reason.UNREADABLE_AUDIO


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT])
def test_what_ffmpeg_tells_of_the_system_is_passed_on(
    number: int, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(av, "open", lambda *_, **__: av.error.err_check(-number))
    with pytest.raises(OSError, match="Errno") as caught:
        outcome(damaged)
    assert caught.value.errno == number


def test_memory_that_a_decoder_lacks_is_a_memory_error(damaged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "open", lambda *_, **__: av.error.err_check(-errno.ENOMEM))
    assert reason(damaged) is Reason.UNREADABLE_AUDIO  # there is memory: the file asked for too much
    monkeypatch.setattr(audio_sources, "PIECE", 1 << 60)
    with pytest.raises(MemoryError):
        outcome(damaged)
    with pytest.raises(MemoryError):
        audio_sources.require_given(io.BytesIO())


def test_alignments_that_the_system_hides_are_not_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.ctm").write_text("a 1 0.0 1.0 word\n")
    (tmp_path / "gone.ctm").symlink_to(tmp_path / "nowhere")
    assert alignment_files(tmp_path) == ["inner/a.ctm"]
    for name in ("stat", "scandir"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing(errno.ENOTCONN))
            with pytest.raises(OSError, match="not connected"):
                alignment_files(tmp_path)


def test_a_name_that_the_system_does_not_tell_is_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1-2.trans.txt").write_text("1-2-0000 A WORD\n1-2-0001 A WORD\n")
    (tmp_path / "1-2-0000.wav").write_bytes(b"")
    names = [row.fields and row.fields["audio_filepath"] for row in raw_rows(str(tmp_path))]
    assert names == ["1-2-0000.wav", "1-2-0001.flac"]
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if str(path).endswith((".flac", ".wav")):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(OSError, match="Stale"):
        list(raw_rows(str(tmp_path)))
