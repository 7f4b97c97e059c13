"""The folder of a training run: its settings, its log and its checkpoints.

`run.json` holds the settings, `log.jsonl` a line per step and per evaluation, `checkpoint-NNNNNN/` a state: weights and
`config.json` for transformers, the vocabulary, `optimizer.safetensors`, `rng.safetensors`, `state.json`.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.dataset import Dataset
from schemas.sequence import Mixture, SequenceSection
from schemas.training import TrainSection
from stages.vocabulary import Vocabulary


class Show(Protocol):
    """Shows a step to a person."""

    def __call__(self, step: int, loss: float, tokens_per_second: float) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """A run as it lies on disk.

    Attributes:
        path: the folder.
        checkpoint: the newest checkpoint, or None where training starts afresh.
        step: steps done at that checkpoint.
        readers: the readers' states there, one per process of that time.
    """

    path: Path
    checkpoint: Path | None
    step: int
    readers: Sequence[Any]

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
    mixture: Mixture | None,
    *,
    seed: int,
    steps: int,
    shuffle_units: bool,
) -> dict[str, Any]:
    """Return what a resumed run must have in common with the run it resumes."""
    return {
        "dataset": dataset.info.get("fingerprint", ""),
        "mixture": None if mixture is None else mixture.model_dump(mode="json"),
        "seed": seed,
        "sequence": sequence.model_dump(mode="json", exclude={"vocabulary"}),
        "shuffle_units": shuffle_units,
        # A constant rate does not look ahead; a cosine does.
        "steps": steps if section.schedule == "cosine" else None,
        "train": section.model_dump(mode="json", exclude=set(section.MAY_CHANGE)),
        "vocabulary": vocabulary.describe(),
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
    folder = opened(path)
    lines = folder.log.read_text(encoding="utf-8").splitlines(keepends=True) if folder.log.exists() else []
    # A killed run may have left a half-written last line.
    whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= folder.step]
    _replace(folder.log, "".join(whole))
    return folder


def opened(path: Path) -> RunFolder:
    """Return what lies in a run's folder, without changing anything."""
    found = checkpoints(path)
    if not found:
        return RunFolder(path=path, checkpoint=None, step=0, readers=())
    state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
    return RunFolder(path=path, checkpoint=found[-1], step=state["step"], readers=state["readers"])


def checkpoints(path: Path) -> list[Path]:
    """Return the checkpoints of a run, the oldest first."""
    found = {folder: folder.name.partition("-")[2] for folder in path.glob("checkpoint-*")}
    return sorted((folder for folder, step in found.items() if step.isdigit()), key=lambda folder: int(found[folder]))


@contextmanager
def publishing(path: Path, step: int, keep: int) -> Iterator[Path]:
    """Give a folder to write a checkpoint into; it gets its name when all is on disk, and older ones go after that."""
    final, partial = path / f"checkpoint-{step:06d}", path / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    yield partial
    for file in partial.iterdir():
        _sync(file)
    _sync(partial)
    partial.rename(final)
    _sync(path)
    for old in checkpoints(path)[:-keep]:
        shutil.rmtree(old)


@contextmanager
def shown(total: int, *, silent: bool = False) -> Iterator[Show]:
    """Show steps as a bar on a terminal, otherwise as about ten plain lines."""
    from rich.console import Console
    from rich.progress import Progress

    if silent:
        yield lambda step, loss, tokens_per_second: None
        return
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


class Log:
    """Lines of JSON, and the same numbers for TensorBoard where that is asked for."""

    def __init__(self, folder: RunFolder, *, writes: bool, tensorboard: bool) -> None:
        """Open the log of a run.

        Args:
            folder: of the run.
            writes: off in all processes but the first: nothing is opened.
            tensorboard: whether TensorBoard gets the numbers too.

        Raises:
            ImportError: if TensorBoard is asked for and not installed.
        """
        self._file = folder.log.open("a", encoding="utf-8") if writes else None
        self._board: Any = None
        if writes and tensorboard:
            from torch.utils import tensorboard as board

            writer: Any = board.SummaryWriter  # untyped
            self._board = writer(str(folder.path / "tensorboard"), purge_step=folder.step + 1)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Write an entry, which has a `step`."""
        if self._file is not None:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        if self._board is not None:
            for name, value in _scalars(entry):
                self._board.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


def _scalars(entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an entry; those of a source as `sources/N/...`, N from 0 in the order of the mixture."""
    for name, value in entry.items():
        if isinstance(value, int | float) and name != "step":
            yield name, value
    for number, source in enumerate(entry.get("sources", ())):
        for name in ("tokens", "epochs", "skipped"):
            yield f"sources/{number}/{name}", source[name]


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
