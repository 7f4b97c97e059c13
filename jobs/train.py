"""Training: a Llama-shaped model on token blocks drawn as they are read, by one process or many.

`torchrun` starts several processes; each reads its share of the blocks. A step's loss is the mean over the target
tokens of its global batch, so it does not depend on how the batch is divided among processes and passes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from jobs.train_data import blank, evaluation_blocks, hold_out, prepare
from jobs.train_dist import World, joined
from jobs.train_model import Learner, make_learner, token_losses
from jobs.train_numbers import SUMS, loss_means, loss_sums, read_so_far
from jobs.train_run import Log, RunFolder, claim, opened, settings_of, shown
from jobs.train_state import restore, save
from jobs.train_summary import TrainSummary, summary_of
from jobs.train_vocabulary import CarriedVocabulary
from pipeline.dataset import Dataset
from pipeline.reader import IGNORED, Block, SequenceReader, open_reader
from pipeline.reader.shard_cache import ShardCache
from pipeline.reader.vocabularies import open_vocabulary
from schemas.sequence import Mixture, SequenceSection
from schemas.training import TrainSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All that the loop works with.

    Attributes:
        save: writes a checkpoint of a step.
        evaluation: this process' share of the held-out blocks, as many in each process.
        total: steps of the whole run.
    """

    world: World
    section: TrainSection
    folder: RunFolder
    learner: Learner
    optimiser: Any
    reader: SequenceReader
    evaluation: Sequence[Block]
    save: Callable[[int], Path]
    total: int


def train(
    dataset: str | Path,
    out: Path,
    section: TrainSection,
    sequence: SequenceSection,
    seed: int,
    *,
    mixture: Mixture | None = None,
    device: str = "auto",
    resume: bool = False,
    shuffle_units: bool = False,
    steps: int | None = None,
) -> TrainSummary | None:
    """Train up to `steps` (default: the section's); return what came of it, in the first process.

    Args:
        dataset: folder or URL of a finished dataset: what is read, save where a mixture is given; the vocabulary and
            the held-out documents are this one's.
        out: folder of the run; `jobs.train_run` says what lies in it. All processes must see it.
        section: model, optimiser, and how shards are read.
        sequence: how records become sequences.
        seed: of the weights, the order, the draws and the held-out documents.
        mixture: sources to read together instead of the dataset alone.
        device: `cpu`, `cuda` or `auto`.
        resume: go on from the newest checkpoint; exactly, if there are as many processes as before. Where there is
            none, start.
        shuffle_units: a control experiment, see `jobs.train_data.shuffled`. The evaluation keeps the true order.
        steps: replaces `section.steps`.

    Raises:
        ValueError: if `out` holds a run and `resume` is off, or that run had other settings.
    """
    with joined(device, section.timeout_seconds) as world:
        run = _prepared(world, dataset, out, section, sequence, seed, mixture, resume, shuffle_units, steps)
        tokens, seconds = _loop(run)
        summary = _summary(run, tokens, seconds) if world.leads else None
        del run  # its model holds the group, which ends only with the last that does
    return summary


def _summary(run: Run, tokens: int, seconds: float) -> TrainSummary:
    where = str(run.world.device) if run.world.size == 1 else f"{run.world.size} x {run.world.device.type}"
    parameters = sum(p.numel() for p in run.learner.model.parameters())
    return summary_of(run.folder, where, parameters, tokens, seconds)


def _prepared(
    world: World,
    dataset: str | Path,
    out: Path,
    section: TrainSection,
    sequence: SequenceSection,
    seed: int,
    mixture: Mixture | None,
    resume: bool,
    shuffle_units: bool,
    steps: int | None,
) -> Run:
    total = steps or section.steps
    data = Dataset.open(str(dataset))
    vocabulary = open_vocabulary(data, sequence.vocabulary)
    carried = CarriedVocabulary(vocabulary, data, sequence.vocabulary)
    settings = settings_of(
        data, section, sequence, vocabulary, mixture, seed=seed, steps=total, shuffle_units=shuffle_units
    )
    world.agree(lambda: str(claim(out, settings, resume=resume).path))
    folder = opened(out)
    if len(found := set(world.gather(folder.step))) > 1:
        raise ValueError(f"{out}: the processes see checkpoints of steps {sorted(found)}; put it where all see it")

    held_out = hold_out(data, sequence, seed, on_corrupt=section.on_corrupt)
    reader = open_reader(
        mixture or data,
        sequence,
        seed=seed,
        rank=world.rank,
        world_size=world.size,
        # A block of each stream makes a step, so steps do not depend on the number of processes.
        streams=section.batch_size * section.accumulation * world.size,
        vocabulary=vocabulary,
        like=data,
        prepare=partial(prepare, held_out=frozenset(d.key for d in held_out), seed=seed, shuffle=shuffle_units),
        cache=ShardCache(section.cache or None, max_bytes=int(section.cache_gb * 2**30)),
        verify=section.verify,
        shuffle_shards=section.shuffle_shards,
        on_corrupt=section.on_corrupt,
    )
    learner = make_learner(
        section, sequence, vocabulary, data.contracts, world, seed=seed, checkpoint=folder.checkpoint
    )
    optimiser = _optimiser(learner.model, section)
    if folder.checkpoint is not None:
        restore(folder.checkpoint, world, learner.model, optimiser)
        reader.load_state_dict(folder.readers)
    evaluation = evaluation_blocks(held_out, sequence, vocabulary, seed)
    evaluation += [blank(evaluation[0])] * (-len(evaluation) % world.size if evaluation else 0)
    return Run(
        world=world,
        section=section,
        folder=folder,
        learner=learner,
        optimiser=optimiser,
        reader=reader,
        evaluation=evaluation[world.rank :: world.size],
        save=lambda step: save(folder, step, section.keep, world, learner.model, optimiser, reader, carried),
        total=total,
    )


def _optimiser(model: Any, section: TrainSection) -> Any:
    import torch

    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": section.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=section.learning_rate, betas=section.betas)


def _loop(run: Run) -> tuple[int, float]:
    """Train from the folder's step up to the last; return the tokens seen and the seconds spent on steps."""
    section, world = run.section, run.world
    blocks: Iterator[Block] = iter(run.reader)
    tokens, seconds = 0, 0.0
    log = Log(run.folder, writes=world.leads, tensorboard=section.tensorboard)
    with shown(run.total, silent=not world.leads) as show:
        for step in range(run.folder.step + 1, run.total + 1):
            began = time.perf_counter()
            batches = [list(islice(blocks, section.batch_size)) for _ in range(section.accumulation)]
            rate = section.rate(step, run.total)
            found = _step(run, batches, rate)
            elapsed = time.perf_counter() - began
            tokens, seconds = tokens + int(found["tokens"]), seconds + elapsed
            pace = {"learning_rate": rate, "tokens_per_second": round(found["tokens"] / elapsed, 1)}
            log.write({"step": step, "epoch": run.reader.epoch, **found, **pace})
            show(step, found["loss"], tokens / seconds)
            if step % section.evaluate_every == 0 or step == run.total:
                log.write({"step": step, **_evaluate(run), **read_so_far(world, run.reader)})
            if step % section.checkpoint_every == 0 or step == run.total:
                run.save(step)
    log.close()
    return tokens, seconds


def _step(run: Run, batches: Sequence[Sequence[Block]], rate: float) -> dict[str, float]:
    """Take one optimiser step on this process' part of a global batch; return losses and counts of the whole."""
    learner = run.learner
    learner.model.train()
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.optimiser.zero_grad(set_to_none=True)
    blocks = [block for batch in batches for block in batch]
    targets, tokens = run.world.total(
        [
            sum(int(np.sum(block["labels"][1:] != IGNORED)) for block in blocks),
            sum(int(np.sum(block["document_ids"] >= 0)) for block in blocks),
        ]
    )
    sums = [0.0] * len(SUMS)
    for number, batch in enumerate(batches, 1):
        with learner.accumulate(last=number == len(batches)):
            losses, target, modality = token_losses(learner, batch)
            (losses.sum() * (learner.scale / max(1.0, targets))).backward()
        sums = [a + b for a, b in zip(sums, loss_sums(losses.detach(), target, modality), strict=True)]
    norm = _clip(learner.model, run.section.clip_norm)
    run.optimiser.step()
    return {**loss_means(run.world.total(sums)), "gradient_norm": norm, "tokens": int(tokens)}


def _clip(model: Any, limit: float | None) -> float:
    """Clip the gradient's norm over all parameters; return what it was.

    Raises:
        ValueError: if it is not finite, in all processes alike.
    """
    import torch

    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit or float("inf"))
    found = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    if not np.isfinite(found):
        raise ValueError(
            f"the gradient's norm is {found}: training diverged; lower train.learning_rate or raise train.warmup"
        )
    return found


def _evaluate(run: Run) -> dict[str, float]:
    """Return the losses on held-out documents, if there are any."""
    import torch

    if not run.evaluation:
        return {}
    run.learner.model.eval()
    size, sums = run.section.batch_size, [0.0] * len(SUMS)
    with torch.no_grad():
        for start in range(0, len(run.evaluation), size):
            more = loss_sums(*token_losses(run.learner, run.evaluation[start : start + size]))
            sums = [a + b for a, b in zip(sums, more, strict=True)]
    return loss_means(run.world.total(sums), "eval_")
