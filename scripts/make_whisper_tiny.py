"""Make a Whisper of 0.1 M parameters, in CTranslate2's layout, that has learnt a few sentences by heart.

For tests only: on any other speech it writes nonsense, and on noise it says that there is no speech.

    python -m scripts.make_whisper_tiny --out tests/checkpoints/whisper_tiny

The tokenizer is our own: bytes, the empty token by which CTranslate2 knows a multilingual model, and Whisper's special
tokens in their order. One thread and fixed seeds: the same machine gives the same bytes.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = 4
"""Taken from the corpus, the shortest of each of so many recordings."""
WIDTH, HEADS, LAYERS = 24, 2, 1
POSITIONS = 448
NUM_TEXT = 257
"""Bytes and the empty token; special tokens and timestamps follow."""
NUM_TIMESTAMPS = 1501
STEPS, BATCH, LEARNING_RATE, VARIANTS = 500, 8, 4e-3, 8
FIRST_WEIGHT = 10.0
"""Of the loss of the first answer, the language or that there is no speech: one token among sixty."""
LANGUAGES = ("en", "de")
"""Every second sentence is taken for German, so that there is a language to detect."""
README = """# A tiny Whisper for tests

Made by `python -m scripts.make_whisper_tiny`. It knows {count} sentences of `examples/corpus` by heart (CC0, made with
eSpeak NG) and takes noise for no speech; it is of no other use.
"""


PRINTABLE = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTES = (*PRINTABLE, *(b for b in range(256) if b not in PRINTABLE))
"""In byte-level BPE's order: printable ones first, as themselves; the symbols of the others start at U+0100."""


def byte_symbols() -> list[str]:
    return [chr(b if i < len(PRINTABLE) else 256 + i - len(PRINTABLE)) for i, b in enumerate(BYTES)]


def special_tokens(languages: Sequence[str]) -> list[str]:
    """Return what follows the text tokens, in Whisper's order, without the timestamps."""
    first = ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in languages)]
    return [
        *first,
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
    ]


def text_tokens() -> list[str]:
    return [*byte_symbols(), ""]


def write_tokenizer(folder: Path, tokens: Sequence[str], special: Sequence[str]) -> None:
    added = [
        {
            "id": len(tokens) + i,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, content in enumerate(special)
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [],
        },
    }
    compact(folder / "tokenizer.json", tokenizer)


def compact(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


def sentences() -> list[tuple[npt.NDArray[np.int16], str]]:
    """Return clips of the corpus and their texts: the shortest utterance of each of the first recordings."""
    from pipeline.manifest import read_manifest
    from schemas.records import Clip, Utterance
    from stages.decode import DecodeConfig

    rows = [row for row in read_manifest(str(ROOT / "examples" / "corpus" / "manifest.jsonl"))]
    shortest: dict[str, Utterance] = {}
    for row in rows:
        if isinstance(row, Utterance) and row.length is not None:
            best = shortest.get(row.recording)
            if best is None or row.length < (best.length or 0):
                shortest[row.recording] = row
    decoder = DecodeConfig().setup()
    clips = decoder.process(list(shortest.values())[:SENTENCES])
    return [(clip.pcm, clip.utterance.text) for clip in clips if isinstance(clip, Clip)]


class Example(NamedTuple):
    """A spectrogram, float32 of shape (80, 3000), with what is said in it; no text is no speech."""

    mel: Any
    text: str
    language: str


def examples() -> list[Example]:
    """Return the sentences, each a little shorter, louder and noisier in several ways, and some clips of noise."""
    from schemas.canonical import rng_for

    rng = rng_for(0, "whisper_tiny")
    found: list[Example] = []
    for number, (pcm, text) in enumerate(sentences()):
        wave = pcm.astype(np.float32) / 32768
        for variant in range(VARIANTS):
            start, end = rng.integers(0, 2400, 2) if variant % 4 else (0, 0)
            cut = wave[start : len(wave) - end]
            cut = cut * np.float32(rng.uniform(0.5, 1.2)) + rng.normal(0, 10 ** rng.uniform(-5, -3), len(cut))
            found.append(Example(mel_of(cut), text, LANGUAGES[number % len(LANGUAGES)]))
        for _ in range(VARIANTS // 4):
            noise = rng.normal(0, 10 ** rng.uniform(-4, -1), int(rng.integers(16_000, 96_000)))
            found.append(Example(mel_of(noise), "", "en"))
    return found


def mel_of(wave: npt.NDArray[Any]) -> Any:
    from whisperx.audio import N_SAMPLES, log_mel_spectrogram

    return log_mel_spectrogram(wave.astype(np.float32), n_mels=80, padding=N_SAMPLES - len(wave))


def config_of(num_tokens: int) -> Any:
    from transformers import WhisperConfig

    return WhisperConfig(
        vocab_size=num_tokens,
        d_model=WIDTH,
        encoder_layers=LAYERS,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_target_positions=POSITIONS,
        dropout=0.0,
        attn_implementation="sdpa",
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )


def train(steps: int, special: Sequence[str]) -> Any:
    """Train on a vocabulary of bytes, special tokens and one filler that stands for all others."""
    import torch
    from transformers import WhisperForConditionalGeneration

    torch.manual_seed(0)
    torch.set_num_threads(1)
    ids = {token: 256 + i for i, token in enumerate(special)}
    filler = 256 + len(special)
    model = WhisperForConditionalGeneration(config_of(filler + 1))
    data = examples()
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.1)
    crowd = torch.zeros(filler + 1)
    crowd[filler] = float(np.log(NUM_TIMESTAMPS + 1))
    picks = np.random.default_rng(0)
    for step in range(steps):
        batch = [data[i] for i in picks.choice(len(data), BATCH, replace=False)]
        inputs, labels = zip(*(_tokens_of(item, ids, str(picks.choice(LANGUAGES))) for item in batch), strict=True)
        longest = max(len(item) for item in inputs)
        fed = torch.tensor([[*item, *[0] * (longest - len(item))] for item in inputs])
        wanted = torch.tensor([[*item, *[-100] * (longest - len(item))] for item in labels])
        logits = model(input_features=torch.stack([item.mel for item in batch]), decoder_input_ids=fed).logits + crowd
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none")
        losses[:, 0] *= FIRST_WEIGHT
        loss = losses.sum() / (wanted >= 0).sum()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    return model.eval()


def _tokens_of(item: Example, ids: dict[str, int], told: str) -> tuple[list[int], list[int]]:
    """Return what the decoder is fed and what it is to answer; any language may be told, the right one is answered."""
    letters = {b: i for i, b in enumerate(BYTES)}
    text = [letters[b] for b in (" " + item.text).encode()] if item.text else []
    prompt = [ids["<|startoftranscript|>"], ids[f"<|{told}|>"], ids["<|transcribe|>"], ids["<|notimestamps|>"]]
    first = ids[f"<|{item.language}|>"] if item.text else ids["<|nospeech|>"]
    return [*prompt, *text], [first, *prompt[2:], *text, ids["<|endoftext|>"]]


def widen(model: Any, special: Sequence[str]) -> Any:
    """Return the model with Whisper's vocabulary: every token that it was not taught has the filler's embedding."""
    from transformers import WhisperForConditionalGeneration

    size = NUM_TEXT + len(special) + NUM_TIMESTAMPS
    wide = WhisperForConditionalGeneration(config_of(size))
    state = model.state_dict()
    small = state["model.decoder.embed_tokens.weight"]
    rows = small[-1].repeat(size, 1)
    rows[:256] = small[:256]
    rows[NUM_TEXT : NUM_TEXT + len(special)] = small[256 : 256 + len(special)]
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = rows
    wide.load_state_dict(state)
    return wide.eval()


def convert(model: Any, special: Sequence[str], out: Path) -> None:
    """Write the folder: weights through CTranslate2's own specification, then the tokenizer."""
    from ctranslate2.converters.transformers import WhisperLoader

    loader = WhisperLoader()
    spec = loader.get_model_spec(model)
    tokens = [*text_tokens(), *special]
    tokens += [f"<|{0.02 * i:.2f}|>" for i in range(NUM_TIMESTAMPS)]
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    first = NUM_TEXT + special.index("<|en|>")
    spec.config.lang_ids = list(range(first, NUM_TEXT + special.index("<|translate|>")))
    spec.config.alignment_heads = [[0, 0]]
    spec.validate()
    spec.optimize()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec.save(str(out))
    compact(out / "vocabulary.json", tokens)
    write_tokenizer(out, text_tokens(), special)
    compact(out / "preprocessor_config.json", {"feature_size": 80, "sampling_rate": 16_000})
    (out / "README.md").write_text(README.format(count=SENTENCES), encoding="utf-8")


def main() -> None:
    from whisperx.utils import LANGUAGES as CODES

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    special = special_tokens(list(CODES)[:99])
    convert(widen(train(arguments.steps, special), special), special, arguments.out)


if __name__ == "__main__":
    main()
