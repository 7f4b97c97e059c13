"""What a zoo is made of: rows of one manifest with what must become of each, and things that are tried one by one."""

import json
import wave
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[2]
GOOD = ROOT / "examples" / "broken" / "good.flac"
RATE = 16_000
OFFSET, DURATION = 0.3, 3.79
TEXT = "The ferry leaves the harbour at seven and returns before dark."
RECORD = "record"
UNREADABLE = "decode/unreadable_audio"
MISSING = "decode/missing_audio"
BAD_ROW = "plan/bad_row"
NOT_SPOKEN = ("align/no_alignment", "qc/wrong_transcript", "qc/doubtful_words", "align/too_many_words")
"""What may come of audio that is not what the text says; which of them is for the aligner to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case of the zoo.

    Attributes:
        name: unique; the id of its row where it is one.
        group: what is wrong with it, for the table.
        expect: outcomes that are right: `record`, `STAGE/REASON`, `error` (one line, exit code 2), `refused`, or for a
            manifest `N + M` (utterances and rejects of the plan).
        line: the row, for cases that are rows.
        path: what is tried, for the others.
    """

    name: str
    group: str
    expect: tuple[str, ...]
    line: bytes = b""
    path: str = ""


@dataclass(slots=True, kw_only=True)
class Zoo:
    """Collects cases and writes their files below a folder."""

    out: Path
    rows: list[Case] = field(default_factory=list)
    manifests: list[Case] = field(default_factory=list)
    recipes: list[Case] = field(default_factory=list)
    shards: list[Case] = field(default_factory=list)

    def row(self, group: str, name: str, *expect: str, **fields: Any) -> None:
        """Add a row; without other fields it is the first sentence of the good file."""
        value: dict[str, Any] = {"id": name, "audio_filepath": "good.flac", "text": TEXT}
        if "audio_filepath" not in fields:
            value |= {"offset": OFFSET, "duration": DURATION}
        value |= fields
        line = json.dumps({key: item for key, item in value.items() if item is not ...}).encode()
        self.rows.append(Case(name=name, group=group, expect=expect, line=line))

    def raw(self, group: str, name: str, line: bytes, *expect: str) -> None:
        self.rows.append(Case(name=name, group=group, expect=expect, line=line))

    def audio(self, group: str, name: str, data: bytes, *expect: str, **fields: Any) -> None:
        """Add a row about a file of its own, whose name is the case's."""
        self.row(group, name, *expect, audio_filepath=self.file(f"audio/{name}", data), **fields)

    def manifest(self, group: str, name: str, data: bytes | None, *expect: str) -> Path:
        """Add a manifest that is tried alone; without data its caller makes it."""
        path = self.out / "manifests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
        self.manifests.append(Case(name=name, group=group, expect=expect, path=str(path)))
        return path

    def file(self, name: str, data: bytes) -> str:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return name


def speech(rate: int = RATE) -> np.ndarray:
    """Return the good sentence as float64 at a rate."""
    samples, own = soundfile.read(GOOD)
    part = samples[int(OFFSET * own) : int((OFFSET + DURATION) * own)]
    if rate == own:
        return part
    import soxr

    return soxr.resample(part, own, rate, quality="HQ")


def pcm_wav(samples: np.ndarray, rate: int = RATE) -> bytearray:
    """Return a WAV with the plainest header: `fmt ` at byte 12, `data` at byte 36."""
    buffer = BytesIO()
    with wave.open(buffer, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(samples * 32767).astype("<i2").tobytes())
    return bytearray(buffer.getvalue())


def with_bytes(data: bytes | bytearray, *changes: tuple[int, bytes]) -> bytes:
    """Return a file with bytes replaced at places."""
    found = bytearray(data)
    for at, new in changes:
        found[at : at + len(new)] = new
    return bytes(found)
