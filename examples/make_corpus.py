"""Make the bundled corpus: `python examples/make_corpus.py`, after `apt install libespeak-ng1`.

Reads corpus/texts.yaml; writes corpus/audio/, corpus/manifest.jsonl and corpus/gold.jsonl. The result is a function of
the texts and of espeak-ng's version: manifest and gold come out the same again, and with another version of espeak-ng
times and samples may move.
"""

import argparse
import json
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import yaml
from espeak_events import Speaker, Speech, Synthesiser, Timed, parse, silences, written

HERE = Path(__file__).parent
RATE = 16_000
GRID = 160  # utterances start and end on 10 ms, so that their offsets are exact at every sample rate used
MARGIN_S = 0.15
LEVEL = 0.05  # RMS of the speech; low enough that peaks never clip and FLAC stays small
NOISE = 2.0 / 32768  # RMS of the room: no recording is digitally silent

Wave = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One utterance to be spoken."""

    id: str
    text: str
    label: str
    speaker: Speaker


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spoken:
    """One utterance as a wave at 16 kHz, shape (num_samples,), a multiple of 10 ms long, and its words."""

    line: Line
    wave: Wave
    words: tuple[Timed, ...]


def lines_of(recording: dict[str, Any], speakers: dict[str, Speaker]) -> list[Line]:
    pattern = recording.get("ids", recording["name"] + "-{:03d}")
    lines = []
    for number, entry in enumerate(recording["texts"], start=1):
        label, text = entry if isinstance(entry, list) else (recording["speaker"], entry)
        lines.append(Line(id=pattern.format(number), text=text, label=label, speaker=speakers[label]))
    return lines


def pronounce(line: Line) -> list[Speech]:
    """Runs in a process of its own: see Synthesiser."""
    synthesiser = Synthesiser()
    return [synthesiser.speak(tokens, line.speaker) for tokens in parse(line.text)]


def assemble(line: Line, speeches: Sequence[Speech]) -> Spoken:
    """Join the parts of an utterance with their silences, at 16 kHz and at the corpus's level."""
    pieces: list[Wave] = [np.zeros(round(MARGIN_S * RATE))]
    words: list[Timed] = []
    for speech, silence in zip(speeches, [*silences(line.text), MARGIN_S], strict=True):
        shift = sum(map(len, pieces)) / RATE
        wave = soxr.resample(speech.pcm / 32768, speech.rate, RATE)
        last = int(np.flatnonzero(np.abs(wave) > 1e-3)[-1]) + 1
        words += [Timed(w.written, moved(w.start, shift), moved(w.end, shift, last / RATE)) for w in speech.words]
        pieces += [wave[:last], np.zeros(round(silence * RATE))]
    joined = np.concatenate(pieces)
    joined = np.pad(joined, (0, -len(joined) % GRID))
    voiced = joined[np.abs(joined) > 1e-3]
    return Spoken(line=line, wave=joined * LEVEL / np.sqrt(np.mean(voiced**2)), words=tuple(words))


def moved(seconds: float | None, shift: float, limit: float = np.inf) -> float | None:
    return None if seconds is None else round(min(seconds, limit) + shift, 3)


def speak_all(lines: Sequence[Line]) -> dict[str, Spoken]:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return {line.id: assemble(line, parts) for line, parts in zip(lines, pool.map(pronounce, lines), strict=True)}


def lay_out(spoken: Sequence[Spoken], gap_s: float) -> tuple[Wave, list[int]]:
    """One utterance after the other: the wave and the first sample of each."""
    gap = np.zeros(round(gap_s * 100) * GRID)
    pieces: list[Wave] = [gap]
    starts: list[int] = []
    for item in spoken:
        starts.append(sum(map(len, pieces)))
        pieces += [item.wave, gap]
    return np.concatenate(pieces), starts


def channels_of(recording: dict[str, Any], spoken: Sequence[Spoken], wave: Wave, starts: Sequence[int]) -> Wave:
    """Shape (num_samples, num_channels)."""
    if "stereo" in recording:
        gains: Wave = np.array(recording["stereo"], dtype=np.float64)
        return wave[:, None] * gains
    if not recording.get("two_channels"):
        return wave[:, None]
    labels = sorted({item.line.label for item in spoken})
    out = np.zeros((len(wave), len(labels)))
    for item, start in zip(spoken, starts, strict=True):
        part = slice(start, start + len(item.wave))
        out[part, labels.index(item.line.label)] = wave[part]
    return out + 0.03 * out[:, ::-1]  # each speaker is heard faintly in the other's channel


def store(path: Path, wave: Wave, rate: int) -> None:
    """Write shape (num_samples, num_channels) as FLAC or MP3 by the file's suffix, over the noise of a quiet room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    noisy = soxr.resample(wave, RATE, rate) if rate != RATE else wave
    noisy = noisy + NOISE * rng.standard_normal(noisy.shape)
    if path.suffix == ".mp3":
        soundfile.write(path, noisy, rate, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.6)
    else:
        soundfile.write(path, noisy, rate, format="FLAC", subtype="PCM_16", compression_level=1.0)


def rows_of(recording: dict[str, Any], spoken: Sequence[Spoken], out: Path) -> Iterator[dict[str, Any]]:
    """Write the recording's audio and yield its manifest rows."""
    name, files = recording["name"], recording.get("files")
    rate = recording.get("rate_hz", RATE)
    if files is None:
        file = f"audio/{name}.{recording.get('format', 'flac')}"
        wave, starts = lay_out(spoken, recording["gap"])
        store(out / file, channels_of(recording, spoken, wave, starts), rate)
    labels = sorted({item.line.label for item in spoken})
    for index, item in enumerate(spoken):
        row: dict[str, Any] = {"id": item.line.id, "text": written(item.line.text)}
        if files is None:
            row |= {"audio_filepath": file, "offset": starts[index] / RATE, "duration": len(item.wave) / RATE}
        else:
            row["audio_filepath"] = f"audio/{name}/{index + 1:02d}.flac"
            store(out / row["audio_filepath"], item.wave[:, None], rate)
            row |= {"duration": len(item.wave) / RATE} if files == "measured" else {}
        if recording.get("two_channels"):
            row["channel"] = labels.index(item.line.label)
        row |= {"speaker": item.line.label, "language": "en", "recording": name}
        yield row | {"license": "CC0-1.0", "source": "interloom-examples"}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "corpus", help="folder to write to")
    out = parser.parse_args(argv).out
    texts = yaml.safe_load((HERE / "corpus" / "texts.yaml").read_text(encoding="utf-8"))
    speakers = {label: Speaker(**settings) for label, settings in texts["speakers"].items()}
    lines = {recording["name"]: lines_of(recording, speakers) for recording in texts["recordings"]}
    spoken = speak_all([line for group in lines.values() for line in group])
    manifest: list[dict[str, Any]] = []
    gold: list[dict[str, Any]] = []
    for recording in texts["recordings"]:
        group = [spoken[line.id] for line in lines[recording["name"]]]
        manifest += rows_of(recording, group, out)
        gold += [{"id": item.line.id, "clean": recording["clean"], "words": item.words} for item in group]
    write_jsonl(out / "manifest.jsonl", manifest)
    write_jsonl(out / "gold.jsonl", gold)
    seconds = sum(len(item.wave) for item in spoken.values()) / RATE
    print(f"{out}: {len(manifest)} utterances, {seconds:.0f} s of speech")


if __name__ == "__main__":
    main()
