"""The numbers that a run logs: losses and what was read, over all processes."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from jobs.train_dist import World
from pipeline.reader import SequenceReader

SUMS = ("text_loss", "text", "speech_loss", "speech")


def loss_sums(losses: Any, target: Any, modality: Any) -> list[float]:
    """Return `SUMS`: the summed loss, in nats, and the number of targets of each modality.

    Args:
        losses: of the positions, a tensor of any shape.
        target: bool, the same shape: which positions are targets.
        modality: int, the same shape: 0 text, 1 speech.
    """
    masks = (target & (modality == number) for number in (0, 1))
    return [float(value) for mask in masks for value in (losses[mask].double().sum(), mask.sum())]


def loss_means(sums: Sequence[float], prefix: str = "") -> dict[str, float]:
    """Return the mean loss per target, of each modality that occurs too, and the share of speech."""
    text_loss, text, speech_loss, speech = sums
    found = {"loss": (text_loss + speech_loss) / max(1.0, text + speech)}
    if text:
        found["text_loss"] = text_loss / text
    if speech:
        found["speech_loss"] = speech_loss / speech
    found["speech_share"] = speech / max(1.0, text + speech)
    return {prefix + name: value for name, value in found.items()}


def read_so_far(world: World, reader: SequenceReader) -> dict[str, Any]:
    """Return what all processes have read since the run began; all of them must call this.

    `sources`: by source, the tokens given, the epochs that they make, and the items skipped. `skipped`: why, message to
    number of items.
    """
    told = world.gather([reader.progress(), dict(reader.skipped)])
    sources = [
        {
            "source": parts[0]["source"],
            "tokens": sum(part["tokens"] for part in parts),
            "epochs": fmean(part["epochs"] for part in parts),  # each process serves as many streams
            "skipped": sum(part["skipped"] for part in parts),
        }
        for parts in zip(*(progress for progress, _ in told), strict=True)
    ]
    return {"sources": sources, "skipped": dict(sum((Counter(skipped) for _, skipped in told), Counter[str]()))}
