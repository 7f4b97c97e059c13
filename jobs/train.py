"""A small Llama-shaped model trained on a units dataset: proof that the data can be learnt from, not a trainer."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

import numpy as np

from jobs.train_data import evaluation_blocks, hold_out, prepare
from jobs.train_run import RunFolder, claim, save_checkpoint, settings_of, shown
from pipeline.dataset import Dataset
from pipeline.reader import IGNORED, Block, SequenceReader, vocabulary_of
from schemas.recipe import TrainSection
from schemas.sequence import SequenceSection

CHECKPOINT_EVERY = 100
EVALUATE_EVERY = 20
CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary:
    """What a run came to; losses are in nats per token.

    Attributes:
        first_loss: mean training loss of the first tenth of all steps, those before a resume included.
        last_loss: the same of the last tenth.
        eval_text_loss: on text tokens of held-out documents, at the end; None where none could be held out.
        eval_speech_loss: on their speech tokens, always in the true order of units.
        best_eval_speech_loss: the lowest along the run. By this number a run with shuffled units is compared with one
            without: both are asked the same question. The last one will not do, because a small corpus is known by
            heart long before the end, and only the run with the true order can learn it by heart.
        tokens: trained on in this call, padding excluded.
    """

    steps: int
    first_loss: float
    last_loss: float
    eval_text_loss: float | None
    eval_speech_loss: float | None
    best_eval_speech_loss: float | None
    parameters: int
    tokens: int
    tokens_per_second: float
    device: str
    checkpoint: str

    def __str__(self) -> str:
        held_out = ""
        if self.eval_speech_loss is not None:
            held_out = f"; held-out speech {self.eval_speech_loss:.3f}, at best {self.best_eval_speech_loss:.3f}"
        return (
            f"{self.steps} steps on {self.device}, loss {self.first_loss:.3f} -> {self.last_loss:.3f}{held_out}; "
            f"{self.parameters:,} parameters, {self.tokens_per_second:,.0f} tokens/s; {self.checkpoint}"
        )


def train(
    dataset: str | Path,
    out: Path,
    section: TrainSection,
    sequence: SequenceSection,
    seed: int,
    *,
    device: str = "auto",
    resume: bool = False,
    shuffle_units: bool = False,
    steps: int | None = None,
) -> TrainSummary:
    """Train up to `steps` (default: the section's) and return what came of it.

    Args:
        dataset: folder or URL of a finished dataset.
        out: folder of the run; `jobs.train_run` says what lies in it.
        section: model and optimiser.
        sequence: how records become sequences.
        seed: of the weights, the order, the draws and the held-out documents.
        device: `cpu`, `cuda` or `auto`.
        resume: go on from the newest checkpoint, exactly; where there is none, start.
        shuffle_units: a control experiment, see `jobs.train_data.shuffled`. The evaluation keeps the true order.
        steps: replaces `section.steps`.

    Raises:
        ValueError: if `out` holds a run and `resume` is off, or that run had other settings.
    """
    import torch

    total = steps or section.steps
    opened = Dataset.open(str(dataset))
    vocabulary = vocabulary_of(opened)
    settings = settings_of(opened, section, sequence, vocabulary, seed=seed, shuffle_units=shuffle_units)
    folder = claim(out, settings, resume=resume)
    held_out = hold_out(opened, sequence, seed)
    kept = partial(prepare, held_out=frozenset(d.key for d in held_out), seed=seed, shuffle=shuffle_units)
    reader = SequenceReader(opened, sequence, seed=seed, vocabulary=vocabulary, prepare=kept)

    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    torch.manual_seed(seed)
    model = _model(section, sequence, vocabulary.size, folder.checkpoint).to(where)
    optimiser = torch.optim.AdamW(model.parameters(), lr=section.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    if folder.checkpoint is not None and folder.reader is not None:
        optimiser.load_state_dict(torch.load(folder.checkpoint / "optimizer.pt", map_location=where, weights_only=True))
        reader.load_state_dict(folder.reader)
    evaluation = evaluation_blocks(held_out, sequence, vocabulary, seed)
    tokens, seconds = _loop(folder, model, optimiser, reader, evaluation, section, total)
    return _summary(folder, model, where, tokens, seconds)


def _loop(
    folder: RunFolder,
    model: Any,
    optimiser: Any,
    reader: SequenceReader,
    evaluation: Sequence[Block],
    section: TrainSection,
    total: int,
) -> tuple[int, float]:
    """Train from the folder's step up to `total`; return the tokens seen and the seconds spent on steps."""
    blocks: Iterator[Block] = iter(reader)
    tokens, seconds = 0, 0.0
    with folder.log.open("a", encoding="utf-8") as log, shown(total) as show:
        for step in range(folder.step + 1, total + 1):
            began = time.perf_counter()
            batch = list(islice(blocks, section.batch_size))
            rate = section.learning_rate * min(1.0, step / max(1, section.warmup))
            losses = _step(model, optimiser, batch, rate)
            seen, elapsed = sum(int((b["document_ids"] >= 0).sum()) for b in batch), time.perf_counter() - began
            tokens, seconds = tokens + seen, seconds + elapsed
            pace = {"learning_rate": rate, "tokens": seen, "tokens_per_second": round(seen / elapsed, 1)}
            _write(log, {"step": step, "epoch": reader.epoch, **losses, **pace})
            show(step, losses["loss"], tokens / seconds)
            if evaluation and (step % EVALUATE_EVERY == 0 or step == total):
                _write(log, {"step": step, **_evaluate(model, evaluation, section.batch_size)})
            if step % CHECKPOINT_EVERY == 0 or step == total:
                save_checkpoint(folder.path, step, model, optimiser, reader)
    return tokens, seconds


def _model(section: TrainSection, sequence: SequenceSection, vocabulary_size: int, checkpoint: Path | None) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    if checkpoint is not None:
        return LlamaForCausalLM.from_pretrained(checkpoint, local_files_only=True)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=section.hidden_size,
        # Llama's 8/3 of the hidden size, rounded up to a multiple of 16.
        intermediate_size=-(-section.hidden_size * 8 // 48) * 16,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        max_position_embeddings=sequence.context,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


def token_losses(model: Any, batch: Sequence[Block]) -> tuple[Any, Any, Any]:
    """Return (loss, is target, modality) of each predicted position, tensors of shape (batch, context - 1).

    Attention is causal and block-diagonal: no document sees another one of its block.
    """
    import torch

    device = model.device
    block = {name: torch.from_numpy(np.stack([b[name] for b in batch])).to(device) for name in batch[0]}
    same_document = block["document_ids"][:, None, :, None] == block["document_ids"][:, None, None, :]
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        logits = model(
            input_ids=block["input_ids"],
            position_ids=block["position_ids"],
            attention_mask=same_document.tril(),
            use_cache=False,
        ).logits
    labels = block["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
    )
    return losses, labels != IGNORED, block["modality"][:, 1:]


def _sums(losses: Any, target: Any, modality: Any) -> dict[str, tuple[float, int]]:
    masks = {"loss": target, "text_loss": target & (modality == 0), "speech_loss": target & (modality == 1)}
    return {name: (float(losses[mask].sum()), int(mask.sum())) for name, mask in masks.items()}


def _means(sums: Sequence[dict[str, tuple[float, int]]], prefix: str = "") -> dict[str, float]:
    """Return the mean loss per token of each kind that occurs."""
    totals = {name: [sum(column) for column in zip(*(s[name] for s in sums), strict=True)] for name in sums[0]}
    return {prefix + name: total / count for name, (total, count) in totals.items() if count}


def _step(model: Any, optimiser: Any, batch: Sequence[Block], rate: float) -> dict[str, float]:
    import torch

    model.train()
    for group in optimiser.param_groups:
        group["lr"] = rate
    losses, target, modality = token_losses(model, batch)
    optimiser.zero_grad(set_to_none=True)
    losses[target].mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    optimiser.step()
    return _means([_sums(losses.detach(), target, modality)])


def _evaluate(model: Any, blocks: Sequence[Block], batch_size: int) -> dict[str, float]:
    import torch

    model.eval()
    batches = [blocks[start : start + batch_size] for start in range(0, len(blocks), batch_size)]
    with torch.no_grad():
        return _means([_sums(*token_losses(model, batch)) for batch in batches], "eval_")


def _write(log: TextIO, entry: dict[str, Any]) -> None:
    log.write(json.dumps(entry) + "\n")
    log.flush()


def _summary(folder: RunFolder, model: Any, device: Any, tokens: int, seconds: float) -> TrainSummary:
    entries = folder.entries()
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    speech = [entry["eval_speech_loss"] for entry in entries if "eval_speech_loss" in entry]
    text = [entry["eval_text_loss"] for entry in entries if "eval_text_loss" in entry]
    tenth = max(1, len(losses) // 10)
    return TrainSummary(
        steps=len(losses),
        first_loss=fmean(losses[:tenth]),
        last_loss=fmean(losses[-tenth:]),
        eval_text_loss=text[-1] if text else None,
        eval_speech_loss=speech[-1] if speech else None,
        best_eval_speech_loss=min(speech, default=None),
        parameters=sum(p.numel() for p in model.parameters()),
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        device=str(device),
        checkpoint=str(max(folder.path.glob("checkpoint-*"))),
    )
