"""The folder of a training run: its settings, its log and its checkpoints.

`run.json` holds the settings, `log.jsonl` a line per step and per evaluation, `checkpoint-NNNNNN/` the newest state:
`model.safetensors` and `config.json` for transformers, `optimizer.pt`, `state.json`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.dataset import Dataset
from pipeline.reader import SequenceReader
from schemas.recipe import TrainSection
from schemas.sequence import SequenceSection
from stages.vocabulary import Vocabulary


class Show(Protocol):
    """Shows a step to a person."""

    def __call__(self, step: int, loss: float, tokens_per_second: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run that this process may write to.

    Attributes:
        path: the folder.
        checkpoint: the newest checkpoint, or None where training starts afresh.
        step: steps done at that checkpoint.
        reader: the reader's state there, or None.
    """

    path: Path
    checkpoint: Path | None
    step: int
    reader: Mapping[str, Any] | None

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    def entries(self) -> list[dict[str, Any]]:
        """Return the lines of the log."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines()]


def settings_of(
    dataset: Dataset,
    section: TrainSection,
    sequence: SequenceSection,
    vocabulary: Vocabulary,
    *,
    seed: int,
    shuffle_units: bool,
) -> dict[str, Any]:
    """Return what a resumed run must have in common with the run it resumes; the number of steps may change."""
    return {
        "dataset": dataset.info.get("fingerprint", ""),
        "seed": seed,
        "sequence": sequence.model_dump(mode="json"),
        "shuffle_units": shuffle_units,
        "train": section.model_dump(mode="json", exclude={"steps"}),
        "vocabulary": {"layout": "spiritlm", "text": vocabulary.tokenizer.vocab_size, **vocabulary.sizes},
    }


def claim(path: Path, settings: Mapping[str, Any], *, resume: bool) -> RunFolder:
    """Open a run's folder, and cut from its log what came after the newest checkpoint.

    Raises:
        ValueError: if the folder holds a run and `resume` is off, or that run had other settings.
    """
    run = path / "run.json"
    if run.exists():
        if not resume:
            raise ValueError(f"{path} holds a run already: resume it (--resume) or name another folder")
        before = json.loads(run.read_text(encoding="utf-8"))
        if differs := [f"{k}: {before.get(k)!r} then, {v!r} now" for k, v in settings.items() if before.get(k) != v]:
            raise ValueError(f"{path} holds a run with other settings: " + "; ".join(differs))
    path.mkdir(parents=True, exist_ok=True)
    _replace(run, json.dumps(settings, indent=2) + "\n")
    checkpoint = max(path.glob("checkpoint-*"), default=None)
    state: dict[str, Any] = {"step": 0}
    if checkpoint is not None:
        state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    folder = RunFolder(path=path, checkpoint=checkpoint, step=state["step"], reader=state.get("reader"))
    lines = folder.log.read_text(encoding="utf-8").splitlines(keepends=True) if folder.log.exists() else []
    # A killed run may have left a half-written last line.
    whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= folder.step]
    _replace(folder.log, "".join(whole))
    return folder


def save_checkpoint(path: Path, step: int, model: Any, optimiser: Any, reader: SequenceReader) -> Path:
    """Write a checkpoint whole or not at all, then remove older ones."""
    import torch

    final, partial = path / f"checkpoint-{step:06d}", path / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial, safe_serialization=True)
    torch.save(optimiser.state_dict(), partial / "optimizer.pt")
    state = {"step": step, "reader": reader.state_dict()}
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    partial.rename(final)
    for old in path.glob("checkpoint-*"):
        if old != final:
            shutil.rmtree(old)
    return final


@contextmanager
def shown(total: int) -> Iterator[Show]:
    """Show steps as a bar on a terminal, otherwise as about ten plain lines."""
    from rich.console import Console
    from rich.progress import Progress

    if not Console().is_terminal:

        def print_line(step: int, loss: float, tokens_per_second: float) -> None:
            if step % max(1, total // 10) == 0 or step == total:
                print(f"step {step}/{total}  loss {loss:.3f}  {tokens_per_second:,.0f} tokens/s", flush=True)

        yield print_line
        return
    with Progress() as bar:
        task = bar.add_task("training", total=total)

        def advance(step: int, loss: float, tokens_per_second: float) -> None:
            bar.update(task, completed=step, description=f"loss {loss:.3f}, {tokens_per_second:,.0f} tokens/s")

        yield advance


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
