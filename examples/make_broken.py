"""Make the damaged inputs: `python examples/make_broken.py`, after `apt install libespeak-ng1`.

Writes broken/manifest.jsonl, whose rows are each wrong in one way with good rows between them, broken/expected.jsonl,
which says for each line what must become of it, and the audio of both. expected.jsonl holds {line, id, expect}: `line`
counts from 1, `id` is null where the line has none, `expect` lists the outcomes that are right, each a reason of
schemas/rejects.py or "record".
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from espeak_events import Speaker, written
from make_corpus import GRID, RATE, Line, Spoken, Wave, lay_out, speak_all, store
from scipy.io import wavfile

HERE = Path(__file__).parent
SPEAKER = Speaker(voice="en-us", rate=165, pitch=50, range=50)
SENTENCES = (
    "The ferry leaves the harbour at seven and returns before dark.",
    "My neighbour has painted his fence in eleven shades of yellow.",
    "A good rope is worth more than a cheap ladder.",
    "Nobody noticed that the clock in the hall was running backwards.",
    "Send the blue folder to the office upstairs, please.",
    "Three goats were seen on the roof of the town hall.",
    "She closed the book and listened to the rain for a while.",
    "The baker gave us two warm rolls for the journey.",
    "Under the bridge the water was quiet and very cold.",
)
FORTY_WORDS = " ".join(["row", "walk", "swim", "jump", "sing", "read", "cook", "sew", "draw", "dig"] * 4)
NOISE_TEXT = "This sentence was never spoken by anybody in this file."
WRONG_TEXT = "Perhaps those purple mushrooms should be moved from the garden shed."

Row = dict[str, Any]


class Manifest:
    """Collects lines and what must become of them."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.expected: list[Row] = []

    def add(self, row: Row, *expect: str) -> None:
        row |= {"license": "CC0-1.0", "source": "interloom-examples"}
        self.raw(json.dumps(row, ensure_ascii=False).encode(), row.get("id"), *expect)

    def raw(self, line: bytes, row_id: str | None, *expect: str) -> None:
        self.lines.append(line)
        self.expected.append({"line": len(self.lines), "id": row_id, "expect": list(expect)})

    def write(self, out: Path) -> None:
        (out / "manifest.jsonl").write_bytes(b"".join(line + b"\n" for line in self.lines))
        (out / "expected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in self.expected), encoding="utf-8")


class GoodAudio:
    """Hands out the sentences of good.flac one after the other, as the fields of a manifest row."""

    def __init__(self, spoken: Sequence[Spoken], starts: Sequence[int]) -> None:
        self._items = list(zip(spoken, starts, strict=True))
        self._next = 0

    def take(self) -> Row:
        item, start = self._items[self._next % len(self._items)]
        self._next += 1
        place = {"offset": start / RATE, "duration": len(item.wave) / RATE}
        return {"audio_filepath": "good.flac", "text": written(item.line.text), **place}


def damaged_audio(out: Path, speech: Wave) -> None:
    """Files that no record may come from."""
    store(out / "truncated.flac", speech[:, None], RATE)
    whole = (out / "truncated.flac").read_bytes()
    (out / "truncated.flac").write_bytes(whole[: len(whole) * 6 // 10])
    (out / "empty.flac").write_bytes(b"")
    (out / "text.wav").write_text("This is a text file with the name of a sound.\n", encoding="utf-8")
    soundfile.write(out / "no_samples.wav", np.zeros(0), RATE, subtype="PCM_16")
    with_nan = speech[:RATE].astype(np.float32)
    with_nan[RATE // 2 : RATE // 2 + 50] = np.nan
    wavfile.write(out / "nan.wav", RATE, with_nan)  # libsndfile would put the time into a float file
    soundfile.write(out / "clipped.flac", np.clip(speech[: 2 * RATE] * 60, -1, 32767 / 32768), RATE)
    soundfile.write(out / "silence.flac", np.zeros(3 * RATE), RATE)
    noise = 0.05 * np.random.default_rng(0).standard_normal(5 * RATE // 2)
    soundfile.write(out / "noise.flac", noise, RATE)
    soundfile.write(out / "short.wav", speech[RATE : RATE + GRID], RATE, subtype="PCM_16")


def five_minutes(out: Path, spoken: Sequence[Spoken]) -> str:
    """Write one utterance of five minutes as an 8 kHz MP3 of the lowest rate and return its transcript."""
    rounds: list[Spoken] = []
    while sum(len(item.wave) for item in rounds) < 300 * RATE:
        rounds.append(spoken[len(rounds) % len(spoken)])
    wave = soxr.resample(np.concatenate([item.wave for item in rounds]), RATE, 8000)
    path = out / "five_minutes.mp3"
    soundfile.write(
        path, wave, 8000, format="MP3", subtype="MPEG_LAYER_III", compression_level=0.999, bitrate_mode="CONSTANT"
    )
    return " ".join(written(item.line.text) for item in rounds)


def unreadable_rows(manifest: Manifest, text: str) -> None:
    for name, file, *reasons in (
        ("truncated", "truncated.flac", "unreadable_audio"),
        ("empty-file", "empty.flac", "unreadable_audio"),
        ("text-named-wav", "text.wav", "unreadable_audio"),
        ("no-samples", "no_samples.wav", "empty_audio"),
        ("nan", "nan.wav", "not_finite"),
        ("clipped", "clipped.flac", "clipped"),
        ("silence", "silence.flac", "silent"),
        ("short", "short.wav", "too_short"),
        ("missing-file", "nowhere.flac", "missing_audio"),
    ):
        manifest.add({"id": name, "audio_filepath": file, "text": text}, *reasons)
    noise = {"id": "noise", "audio_filepath": "noise.flac", "text": NOISE_TEXT}
    manifest.add(noise, "no_alignment", "wrong_transcript", "doubtful_words")


def transcript_rows(manifest: Manifest, good: GoodAudio) -> None:
    manifest.add({"id": "empty-text", **good.take(), "text": ""}, "empty_text")
    manifest.add({"id": "blank-text", **good.take(), "text": " \t "}, "empty_text", "no_words")
    manifest.add({"id": "punctuation-only", **good.take(), "text": "... — ?!"}, "no_words")
    no_text = good.take()
    del no_text["text"]
    manifest.add({"id": "no-text", **no_text}, "empty_text")
    manifest.add({"id": "good-02", **good.take()}, "record")
    manifest.add({"id": "wrong-text", **good.take(), "text": WRONG_TEXT}, "wrong_transcript", "no_alignment")
    cyrillic = "Паром отходит от пристани в семь часов утра."
    manifest.add({"id": "cyrillic", **good.take(), "text": cyrillic}, "unsupported_script")
    manifest.add({"id": "chinese", **good.take(), "text": "渡轮早上七点离开港口。"}, "unsupported_script")
    too_many = {**good.take(), "duration": 1.0, "text": FORTY_WORDS}
    manifest.add({"id": "forty-words-in-a-second", **too_many}, "too_many_words")


def field_rows(manifest: Manifest, good: GoodAudio) -> None:
    manifest.raw(b'{"id": "bad-json", "audio_filepath": "good.flac", "text": "It breaks', None, "bad_row")
    manifest.raw(b'["good.flac", "This line is a list."]', None, "bad_row")
    manifest.raw(b'{"audio_filepath": "good.flac", "text": "Latin-1 bytes: \xe9\xe8"}', None, "bad_row")
    manifest.add({"id": "number-as-path", **good.take(), "audio_filepath": 7}, "bad_row")
    manifest.add({"id": "number-as-text", **good.take(), "text": 42}, "bad_row")
    manifest.add({"id": "negative-offset", **good.take(), "offset": -1.5}, "bad_row")
    manifest.add({"id": "nan-duration", **good.take(), "duration": float("nan")}, "bad_row")
    manifest.add({"id": "offset-as-text", **good.take(), "offset": "two seconds"}, "bad_row")
    manifest.add({"id": "no-such-channel", **good.take(), "channel": 3}, "bad_row")
    manifest.add({"id": "good-03", **good.take()}, "record")
    beyond = {**good.take(), "offset": 3600.0}
    manifest.add({"id": "offset-beyond-the-end", **beyond}, "empty_audio")


def id_rows(manifest: Manifest, good: GoodAudio) -> None:
    """Ids may be anything; only the second use of one is wrong."""
    manifest.add({"id": "twice", **good.take()}, "record")
    manifest.add({"id": "twice", **good.take()}, "duplicate_id")
    for row_id in ("dots.in.the.id", "day 1/tape 2/cut-3", "../../etc/passwd", "long-" + "x" * 295, "naïve-ид-编号"):
        manifest.add({"id": row_id, **good.take()}, "record")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "broken", help="folder to write to")
    out = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    lines = [Line(id=str(n), text=text, label="", speaker=SPEAKER) for n, text in enumerate(SENTENCES)]
    spoken = list(speak_all(lines).values())
    wave, starts = lay_out(spoken, 0.3)
    store(out / "good.flac", wave[:, None], RATE)
    damaged_audio(out, spoken[0].wave)

    manifest, good = Manifest(), GoodAudio(spoken, starts)
    manifest.add({"id": "good-01", **good.take()}, "record")
    unreadable_rows(manifest, SENTENCES[0])
    transcript_rows(manifest, good)
    field_rows(manifest, good)
    five = {"id": "five-minutes", "audio_filepath": "five_minutes.mp3", "text": five_minutes(out, spoken)}
    manifest.add(five, "too_long")
    id_rows(manifest, good)
    manifest.add({"id": "good-04", **good.take()}, "record")
    manifest.write(out)
    recipe = "# A misspelt key: the error names the nearest valid one.\nname: misspelt\nunits:\n  clsters: 50\n"
    (out / "unknown_key.yaml").write_text(recipe, encoding="utf-8")
    records = sum(row["expect"] == ["record"] for row in manifest.expected)
    print(f"{out}: {len(manifest.lines)} lines, {records} of them good")


if __name__ == "__main__":
    main()
