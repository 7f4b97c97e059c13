"""Log-likelihoods of given sequences under a checkpoint, and the accuracy on pairs."""

import json
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import click

from jobs.score_rows import PAIR, Row, rows_of_dataset, rows_of_json, rows_of_text
from jobs.train_model import load_llama
from jobs.train_vocabulary import Carried, require_carried

WINDOW = 64
"""Batches whose rows are sorted by length together, so that little is padding."""


class Scorer:
    """A checkpoint that scores token ids. Products are float32 on any device."""

    def __init__(self, checkpoint: Path, device: str) -> None:
        """Load it.

        Raises:
            ValueError: if the folder is no checkpoint of ours.
        """
        import torch

        self.carried: Carried = require_carried(checkpoint)
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._model = load_llama(checkpoint).to(self._device).eval()
        self.context = int(self._model.config.max_position_embeddings)

    def log_likelihoods(self, sequences: Sequence[Sequence[int]], batch_size: int) -> list[float]:
        """Return, by sequence, the summed log-probability in nats of each token but the first, given those before it.

        Sequences share batches by length, padded on the right; causal attention keeps padding out of what is before it,
        so a batch-mate changes a score by rounding alone.
        """
        found = [math.nan] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            for i, value in zip(chosen, self._batch([sequences[i] for i in chosen]), strict=True):
                found[i] = value
        return found

    def _batch(self, sequences: Sequence[Sequence[int]]) -> list[float]:
        import torch

        longest = max(map(len, sequences))
        ids = torch.tensor([[*sequence, *[0] * (longest - len(sequence))] for sequence in sequences])
        lengths = torch.tensor([len(sequence) for sequence in sequences])
        ids, lengths = ids.to(self._device), lengths.to(self._device)
        with torch.no_grad():
            logits = self._model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            nats = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none").double()
        is_scored = torch.arange(1, longest, device=self._device)[None] < lengths[:, None]
        return [float(value) for value in (nats * is_scored).sum(1)]


@dataclass(slots=True)
class Tally:
    """Counts and sums over the rows; inputs = scores + rejects."""

    inputs: int = 0
    scores: int = 0
    tokens: int = 0
    log_likelihood: float = 0.0
    pairs: int = 0
    correct: int = 0
    ties: int = 0
    rejects: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        parts = [f"{self.inputs:,} inputs, {self.scores:,} scores, {self.rejects.total():,} rejects"]
        if self.rejects:
            parts[0] += f" ({', '.join(f'{reason} {count}' for reason, count in sorted(self.rejects.items()))})"
        if self.tokens:
            mean = self.log_likelihood / self.tokens
            parts.append(f"{self.tokens:,} tokens, mean log-likelihood {mean:.4f} per token")
        if self.pairs:
            ties = f", {self.ties:,} ties" if self.ties else ""
            parts.append(f"accuracy {self.correct / self.pairs:.4f} on {self.pairs:,} pairs{ties}")
        return "; ".join(parts)


def score(rows: Iterator[Row], scorer: Scorer, out: TextIO, *, batch_size: int, per_token: bool) -> Tally:
    """Write a JSON line for each row, in order: its score, or why it has none.

    Args:
        rows: what is scored.
        scorer: the checkpoint.
        out: where the lines go.
        batch_size: sequences at once; it changes scores by rounding alone.
        per_token: compare the members of a pair by the mean per token instead of the sum. A tie is not correct.
    """
    tally = Tally()
    while window := list(islice(rows, WINDOW * batch_size)):
        values = iter(scorer.log_likelihoods([ids for row in window for ids in row.sequences.values()], batch_size))
        for row in window:
            entry = _entry(row, values, tally, per_token)
            out.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return tally


def _entry(row: Row, values: Iterator[float], tally: Tally, per_token: bool) -> dict[str, Any]:
    tally.inputs += 1
    if row.refused is not None:
        tally.rejects[row.refused.reason] += 1
        return {"id": row.id, "line": row.line, "reject": str(row.refused.reason), "detail": row.refused.detail}
    tally.scores += 1
    found = {name: _score(next(values), len(ids) - 1, tally) for name, ids in row.sequences.items()}
    if "" in found:
        return {"id": row.id, **found[""]}
    good, bad = (found[name]["mean" if per_token else "log_likelihood"] for name in PAIR)
    tally.pairs += 1
    tally.correct += good > bad
    tally.ties += good == bad
    return {"id": row.id, **found, "correct": good > bad}


def _score(log_likelihood: float, tokens: int, tally: Tally) -> dict[str, Any]:
    tally.tokens += tokens
    tally.log_likelihood += log_likelihood
    return {"log_likelihood": log_likelihood, "mean": log_likelihood / tokens, "tokens": tokens}


def score_step(
    checkpoint: str,
    kind: str,
    source: str,
    out: str | None,
    per_token: bool,
    batch_size: int,
    device: str,
    seed: int,
    overrides: Sequence[str],
) -> int:
    """Score what the command was given; return the exit code: 1 where nothing could be scored.

    Args:
        checkpoint: folder that `train` wrote.
        kind: `sequences`, `text` or `dataset`.
        source: the file or the dataset.
        out: a file, or None for the terminal.
        per_token: see `score`.
        batch_size: see `score`.
        device: `cpu`, `cuda` or `auto`.
        seed: of the draws of a dataset.
        overrides: of the dataset's sequence section.

    Raises:
        ValueError: if the checkpoint, the file or the dataset cannot be used.
    """
    if overrides and kind != "dataset":
        raise ValueError("--set changes how a --dataset is drawn; the sequences of a file are taken as they are")
    scorer = Scorer(Path(checkpoint), device)
    with _writing(out) as file:
        rows = _rows(kind, source, scorer, checkpoint, seed, overrides)
        tally = score(rows, scorer, file, batch_size=batch_size, per_token=per_token)
    click.echo(f"score: {tally}", err=out is None)
    return 0 if tally.scores or not tally.inputs else 1


def _rows(
    kind: str, source: str, scorer: Scorer, checkpoint: str, seed: int, overrides: Sequence[str]
) -> Iterator[Row]:
    vocabulary = scorer.carried.vocabulary
    if kind == "sequences":
        return rows_of_json(Path(source), vocabulary, scorer.context)
    if kind == "text":
        return rows_of_text(Path(source), vocabulary, scorer.context)
    from jobs.options import reading_recipe_of, rooted
    from pipeline.dataset import Dataset

    sequence = reading_recipe_of(source, overrides).sequence
    dataset = Dataset.open(rooted(source))
    return rows_of_dataset(dataset, sequence, scorer.carried, scorer.context, seed=seed, checkpoint=checkpoint)


@contextmanager
def _writing(out: str | None) -> Iterator[TextIO]:
    """Give the terminal, or a file that gets its name when it is whole."""
    if out is None:
        yield sys.stdout
        return
    partial = Path(f"{out}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        yield file
    os.replace(partial, out)
