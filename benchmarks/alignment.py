"""Accuracy and cost of the embedded aligner, and what QC does with wrong transcripts.

    python -m benchmarks.alignment [--speech FOLDER] [--seed 1]

Word starts are compared with the times of the synthesiser itself (examples/corpus) and, where a folder is given, with
hand-corrected times of real speech (docs/architecture.md says what it holds). Wrong transcripts are made from right
ones: the text of another utterance of like length ("other"), the first half only ("half"), another text appended
("append"), one word replaced ("replace").
"""

import argparse
import csv
import json
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from schemas.clock import samples_from_seconds, seconds_from_samples
from schemas.records import Aligned, Clip, Utterance
from schemas.rejects import Reject
from stages.align_pocketsphinx import PocketsphinxAligner, PocketsphinxConfig
from stages.decode import DecodeConfig
from stages.g2p import known_words
from stages.normalise import NormaliseConfig, Normaliser
from stages.qc import QcConfig

CORPUS = Path("examples/corpus")
HAND_CORRECTED = ("praatio_bobby", "praatio_mary", "mfa_acoustic_corpus")
WRONG_IN_PLACE = frozenset({"sb_spk2_snt5.wav"})
"""Clips of the speech folder whose own transcript is wrong."""
WRONG_KINDS = ("other", "half", "append", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A clip and, per token, the true start in seconds, or None where it is not known."""

    clip: Clip
    starts: tuple[float | None, ...] = ()


def corpus_items(root: Path = CORPUS) -> list[Item]:
    gold = {row["id"]: row for row in _json_lines(root / "gold.jsonl")}
    utterances = []
    for i, row in enumerate(_json_lines(root / "manifest.jsonl")):
        audio = root / row["audio_filepath"]
        utterance = _utterance(row["id"], audio, row["text"], i)
        offset, length = samples_from_seconds(row.get("offset", 0.0)), row.get("duration")
        channel = row.get("channel")
        utterances.append(
            replace(
                utterance,
                offset=offset,
                length=None if length is None else samples_from_seconds(length),
                channel=channel,
            )
        )
    starts = {key: tuple(word[1] for word in row["words"]) for key, row in gold.items()}
    return [Item(clip=clip, starts=starts[clip.utterance.id]) for clip in _decode(utterances)]


def speech_items(folder: Path) -> list[Item]:
    """Return the clips of a folder that have a transcript; those with hand-corrected times carry them."""
    with (folder / "MANIFEST.tsv").open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines, delimiter="\t") if row["transcript"] != "-"]
    utterances, starts = [], {}
    for i, row in enumerate(rows):
        name = row["path"]
        if name.removesuffix(".wav") in HAND_CORRECTED:
            words = json.loads((folder / row["alignment"]).read_text())["words"]
            starts[name] = tuple(start for _, start, _ in words)
            row = {**row, "transcript": " ".join(word for word, _, _ in words)}
        utterances.append(_utterance(name, folder / name, row["transcript"], i))
    return [Item(clip=clip, starts=starts.get(clip.utterance.id, ())) for clip in _decode(utterances)]


def _json_lines(path: Path) -> list[dict]:  # type: ignore[type-arg]
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _utterance(name: str, audio: Path, text: str, index: int) -> Utterance:
    return Utterance(
        key=f"u{index}",
        id=name,
        audio=audio.name,
        location=str(audio.resolve()),
        text=text,
        recording=name,
        index=index,
    )


def _decode(utterances: Sequence[Utterance]) -> list[Clip]:
    outcomes = DecodeConfig().setup().process(utterances)
    return [outcome for outcome in outcomes if not isinstance(outcome, Reject)]


def start_errors(items: Iterable[Item], outcomes: Iterable[Aligned | Reject]) -> list[float]:
    """Return |start - true start| in milliseconds for every word that has both."""
    errors = []
    for item, outcome in zip(items, outcomes, strict=True):
        if isinstance(outcome, Reject) or not item.starts:
            continue
        for word, true in zip(outcome.words, item.starts, strict=True):
            if word.start is not None and true is not None:
                errors.append(1000 * abs(seconds_from_samples(word.start) - true))
    return errors


def align(items: Sequence[Item], normaliser: Normaliser, aligner: PocketsphinxAligner) -> list[Aligned | Reject]:
    return [outcome for item in items for outcome in _align_one(item.clip, normaliser, aligner)]


def _align_one(clip: Clip, normaliser: Normaliser, aligner: PocketsphinxAligner) -> list[Aligned | Reject]:
    return [
        spoken if isinstance(spoken, Reject) else aligner.process([spoken])[0] for spoken in normaliser.process([clip])
    ]


def with_text(clip: Clip, text: str) -> Clip:
    return replace(clip, utterance=replace(clip.utterance, text=text))


def spoil(texts: Sequence[str], index: int, kind: str, rng: random.Random, vocabulary: Sequence[str]) -> str:
    """Return a wrong transcript for utterance `index`."""
    text = texts[index]
    others = [other for other in texts if other != text]
    words = text.split()
    if kind == "other":
        return rng.choice(sorted(others, key=lambda other: abs(len(other) - len(text)))[:5])
    if kind == "half":
        return " ".join(words[: max(1, len(words) // 2)])
    if kind == "append":
        return f"{text} {rng.choice(others)}"
    long = [i for i, word in enumerate(words) if len(word.strip(".,;!?")) >= 4] or [0]
    words[rng.choice(long)] = rng.choice(vocabulary)
    return " ".join(words)


def rejection_rates(
    items: Sequence[Item], normaliser: Normaliser, aligner: PocketsphinxAligner, seed: int
) -> dict[str, str]:
    """Return, for right transcripts and each kind of wrong one, how many of the clips end as rejects."""
    rng, qc = random.Random(seed), QcConfig().setup()
    vocabulary = sorted(word for word in known_words() if word.isalpha() and 4 <= len(word) <= 9)
    texts = [item.clip.utterance.text for item in items]
    rates = {}
    for kind in ("right", *WRONG_KINDS):
        rejected = 0
        for i, item in enumerate(items):
            text = texts[i] if kind == "right" else spoil(texts, i, kind, rng, vocabulary)
            (outcome,) = _align_one(with_text(item.clip, text), normaliser, aligner)
            rejected += isinstance(outcome, Reject) or isinstance(qc.process([outcome])[0], Reject)
        rates[kind] = f"{rejected}/{len(items)}"
    return rates


def describe(errors: Sequence[float]) -> str:
    e = np.asarray(errors)
    within = "  ".join(f"<= {ms} ms {np.mean(e <= ms):.1%}" for ms in (20, 50, 100))
    return f"{len(e)} words: median {np.median(e):.1f} ms  p90 {np.percentile(e, 90):.1f} ms  {within}"


def report(name: str, items: Sequence[Item], seed: int) -> None:
    normaliser, aligner = NormaliseConfig().setup(), PocketsphinxConfig().setup()
    seconds = sum(seconds_from_samples(item.clip.num_samples) for item in items)
    began = time.process_time()
    outcomes = align(items, normaliser, aligner)
    cost = (time.process_time() - began) / seconds
    aligned = sum(not isinstance(outcome, Reject) for outcome in outcomes)
    print(f"{name}: {aligned} of {len(items)} clips aligned, {seconds:.0f} s of audio, {cost:.3f} CPU s per audio s")
    print(f"  word starts, {describe(start_errors(items, outcomes))}")
    right = [item for item in items if item.clip.utterance.id not in WRONG_IN_PLACE]
    print(f"  rejected: {rejection_rates(right, normaliser, aligner, seed)}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, help="folder of real speech with a MANIFEST.tsv")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args(argv)
    report("examples/corpus (synthetic)", corpus_items(), args.seed)
    if args.speech:
        report("real speech", speech_items(args.speech), args.seed)
    else:
        print("real speech: no --speech")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
