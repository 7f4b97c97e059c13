"""What a training run came to."""

from dataclasses import dataclass
from statistics import fmean

from jobs.train_run import RunFolder, checkpoints


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
        skipped: items that the reader left out as damaged or without text, since the run began.
        tokens: trained on in this call, padding excluded.
    """

    steps: int
    first_loss: float
    last_loss: float
    eval_text_loss: float | None
    eval_speech_loss: float | None
    best_eval_speech_loss: float | None
    skipped: int
    parameters: int
    tokens: int
    tokens_per_second: float
    device: str
    checkpoint: str

    def __str__(self) -> str:
        more = ""
        if self.eval_speech_loss is not None:
            more = f"; held-out speech {self.eval_speech_loss:.3f}, at best {self.best_eval_speech_loss:.3f}"
        if self.skipped:
            more += f"; {self.skipped:,} items skipped, see log.jsonl"
        return (
            f"{self.steps} steps on {self.device}, loss {self.first_loss:.3f} -> {self.last_loss:.3f}{more}; "
            f"{self.parameters:,} parameters, {self.tokens_per_second:,.0f} tokens/s; {self.checkpoint}"
        )


def summary_of(folder: RunFolder, device: str, parameters: int, tokens: int, seconds: float) -> TrainSummary:
    """Sum up a run from its log; `tokens` and `seconds` are this call's."""
    entries = folder.entries()
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    speech = [entry["eval_speech_loss"] for entry in entries if "eval_speech_loss" in entry]
    text = [entry["eval_text_loss"] for entry in entries if "eval_text_loss" in entry]
    read = [entry["sources"] for entry in entries if "sources" in entry]
    tenth = max(1, len(losses) // 10)
    return TrainSummary(
        steps=len(losses),
        first_loss=fmean(losses[:tenth]),
        last_loss=fmean(losses[-tenth:]),
        eval_text_loss=text[-1] if text else None,
        eval_speech_loss=speech[-1] if speech else None,
        best_eval_speech_loss=min(speech, default=None),
        skipped=sum(source["skipped"] for source in read[-1]) if read else 0,
        parameters=parameters,
        tokens=tokens,
        tokens_per_second=tokens / seconds if seconds else 0.0,
        device=device,
        checkpoint=str(checkpoints(folder.path)[-1]),
    )
