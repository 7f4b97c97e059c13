"""Train the tiny CTC model that tests align speech with.

    python -m scripts.make_ctc_tiny --out tests/checkpoints/ctc_tiny

The folder gets a `Wav2Vec2ForCTC` in Hugging Face's layout, with the labels of facebook/wav2vec2-base-960h, a held-out
set with word times and a README with the figures. All speech comes from espeak-ng (`apt install libespeak-ng1`).

torch is imported late: every process that speaks starts by importing this file.
"""

import argparse
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scripts.ctc_tiny_data import (
    HELD_OUT_TEXTS,
    HELD_OUT_VOICES,
    RATE,
    TRAINING_VOICES,
    Said,
    held_out_lines,
    say_all,
    training_lines,
)

if TYPE_CHECKING:
    from scripts.ctc_tiny_judge import Figures

SEED = 1
KEPT_PLAIN, KEPT_STAR = 9, 6

README = """# ctc_tiny

A `Wav2Vec2ForCTC` of {parameters} float32 weights with the labels of facebook/wav2vec2-base-960h, for tests of forced
alignment only: it has heard nothing but espeak-ng and is no recogniser of people's speech. Made by

    python -m scripts.make_ctc_tiny --out tests/checkpoints/ctc_tiny --steps {steps} --per-voice {per_voice}

from {minutes:.0f} minutes of word sequences that {voices} voices of {espeak} say, with its own word times: CTC whose
paths may read a word only where it is said (`scripts/ctc_tiny_lattice.py`). One thread, fixed seeds. The same espeak-ng
gives the same speech again; the same PyTorch on the same kind of processor the same weights.

`heldout/` holds {kept} utterances by voices that it was not trained on, of sentences that it was not trained on. Each
has a row in `heldout/heldout.jsonl`: `audio`, `text`, `voice`, and `words`, a list of token, start and end in seconds
(null where espeak-ng gives no time for the token alone). In the last {stars} the text has a token that the labels
cannot spell.

Figures on all {heldout_voices} held-out voices times the {sentences} plain held-out sentences:

{figures}
"""


def store_model(model: Any, out: Path) -> None:
    """Write config, weights, vocabulary and the settings of tokenizer and feature extractor."""
    from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    from scripts.ctc_tiny_training import VOCAB

    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    (out / "vocab.json").write_text(json.dumps(VOCAB) + "\n", encoding="utf-8")
    Wav2Vec2CTCTokenizer(str(out / "vocab.json")).save_pretrained(out)
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True, return_attention_mask=True)
    extractor.save_pretrained(out)


def kept(held_out: Sequence[Said]) -> list[Said]:
    """Some plain sentences and all with a token that cannot be spelled, the voices taking turns."""
    texts = len(HELD_OUT_TEXTS)
    chosen = [*range(0, 2 * KEPT_PLAIN, 2), *range(texts - KEPT_STAR, texts)]
    return [held_out[turn % len(HELD_OUT_VOICES) * texts + text] for turn, text in enumerate(chosen)]


def store_held_out(held_out: Sequence[Said], out: Path) -> None:
    """Write some utterances as FLAC, and a row for each with its words' times."""
    import soundfile

    from scripts.ctc_tiny_judge import recorded

    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, said in enumerate(held_out, start=1):
        wave, words = recorded(said, index)
        soundfile.write(out / f"{index:02d}.flac", wave, RATE, format="FLAC", subtype="PCM_16")
        text = " ".join(token.written for token in said.tokens)
        rows.append({"audio": f"{index:02d}.flac", "text": text, "words": words, "voice": said.voice})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (out / "heldout.jsonl").write_text("".join(lines), encoding="utf-8")


def readme(model: Any, figures: "Figures", asked: argparse.Namespace, speech: Sequence[Said]) -> str:
    version = subprocess.run(["espeak-ng", "--version"], capture_output=True, text=True, check=True).stdout
    return README.format(
        parameters=sum(p.numel() for p in model.parameters()),
        steps=asked.steps,
        per_voice=asked.per_voice,
        minutes=sum(len(said.wave) for said in speech) / RATE / 60,
        voices=len(TRAINING_VOICES),
        espeak=" ".join(version.split("Data")[0].replace("text-to-speech:", "").split()),
        kept=KEPT_PLAIN + KEPT_STAR,
        stars=KEPT_STAR,
        heldout_voices=len(HELD_OUT_VOICES),
        sentences=figures.utterances // len(HELD_OUT_VOICES),
        figures="\n".join(f"- {line}" for line in figures.lines()),
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--steps", type=int, default=1400, help="of training, about 0.4 s each on one core")
    parser.add_argument("--per-voice", type=int, default=40, help="utterances of each training voice")
    asked = parser.parse_args(argv)
    speech = say_all(training_lines(asked.per_voice, SEED))
    held_out = say_all(held_out_lines(SEED + 1))

    import torch

    from scripts.ctc_tiny_judge import judge
    from scripts.ctc_tiny_training import VOCAB, build, train

    torch.set_num_threads(1)
    plain = [said for said in held_out if all(token.written == token.spoken for token in said.tokens)]
    model = build(SEED + 2)
    train(model, speech, asked.steps, SEED + 3)
    figures = judge(model, plain, VOCAB)
    print("\n".join(figures.lines()))
    asked.out.mkdir(parents=True, exist_ok=True)
    store_model(model, asked.out)
    store_held_out(kept(held_out), asked.out / "heldout")
    (asked.out / "README.md").write_text(readme(model, figures, asked, speech), encoding="utf-8")


if __name__ == "__main__":
    main()
