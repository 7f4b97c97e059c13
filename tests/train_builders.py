"""Builders for the tests of training and scoring: tiny models, checkpoints and runs."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.dataset import Dataset
from pipeline.reader.vocabularies import open_vocabulary
from schemas.sequence import SequenceSection, SpiritLmPolicy
from schemas.training import TrainSection
from tests.sequence_builders import corpus, write_dataset

SEQUENCE = SequenceSection(context=96, policy=SpiritLmPolicy(text_words=(3, 6), speech_words=(3, 6)))
TINY = TrainSection(hidden_size=16, layers=1, heads=2, batch_size=2, steps=6, warmup=2)
CORPUS = Path(__file__).resolve().parents[1] / "examples" / "corpus"
PACE = ("tokens_per_second",)
"""What differs between two runs that are the same."""


def tiny_dataset(root: Path) -> Path:
    records = corpus(12, utterances=2)
    return write_dataset(root, [records[:12], records[12:]])


def bundled_dataset(root: Path, recordings: int = 6) -> Path:
    """The first two utterances of some recordings of examples/corpus, built as `interloom demo` builds them."""
    by_recording: dict[str, list[dict[str, Any]]] = {}
    for line in (CORPUS / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        by_recording.setdefault(row["recording"], []).append(row)
    rows = [row for own in list(by_recording.values())[:recordings] for row in own[:2]]
    manifest = root.with_suffix(".jsonl")
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    invoked("plan", "demo", "--manifest", str(manifest), "--audio-root", str(CORPUS), "--out", str(root))
    run([sys.executable, "-m", "jobs.cli", "build", "--out", str(root), "--workers", "2"])
    assert Dataset.open(str(root)).info["records"] == len(rows)
    return root


def tiny_llama(vocabulary_size: int, *, tie: bool = False, context: int = 96, seed: int = 0, **more: Any) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        tie_word_embeddings=tie,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )
    return LlamaForCausalLM(config)


def tiny_checkpoint(dataset: Path, out: Path, *, seed: int = 0) -> Path:
    """A checkpoint as `train` writes it, of a model that has learnt nothing, save that its scores are far apart."""
    import torch

    from jobs.train_vocabulary import CarriedVocabulary

    opened = Dataset.open(str(dataset))
    vocabulary = open_vocabulary(opened, SEQUENCE.vocabulary)
    model = tiny_llama(vocabulary.size, seed=seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(20)
    model.save_pretrained(out)
    CarriedVocabulary(vocabulary, opened, SEQUENCE.vocabulary).write(out)
    return out


def entries(run: Path) -> list[dict[str, Any]]:
    """The log of a run, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in PACE} for line in lines]


def command(dataset: Path, out: Path, *settings: str, processes: int = 1, more: Sequence[str] = ()) -> list[str]:
    """The command line of a training run, under torchrun where there are several processes."""
    launcher = ["-m", "jobs.cli"]
    if processes > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *launcher]
    return [sys.executable, *launcher, *arguments(dataset, out, *settings), *more]


def alone(dataset: Path, out: Path, *settings: str, steps: int) -> None:
    """Train in this process, which has torch loaded already; resume where there is a run."""
    more = ["--steps", str(steps), *(["--resume"] if out.exists() else [])]
    invoked(*arguments(dataset, out, *settings), *more)


def invoked(*arguments: str) -> None:
    from click.testing import CliRunner

    from jobs.cli import main

    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output


def arguments(dataset: Path, out: Path, *settings: str) -> list[str]:
    base = ["sequence.context=96", "sequence.policy.text_words=[3, 6]", "sequence.policy.speech_words=[3, 6]"]
    base += ["train.hidden_size=32", "train.layers=2", "train.heads=2", "train.warmup=2", *settings]
    overrides = [part for setting in base for part in ("--set", setting)]
    return ["train", str(dataset), "--out", str(out), "--device", "cpu", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(arguments: list[str], *, code: int = 0, seconds: float = 200) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=seconds)
    assert done.returncode == code, done.stdout + done.stderr
    return done
