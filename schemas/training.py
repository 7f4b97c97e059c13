"""The recipe's train section: model, optimiser, how the work is laid out, how shards are read. It changes no shard."""

from math import cos, pi
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from schemas.sections import Positive, PositiveSeconds, Probability, Section


class TrainSection(Section):
    model: str = ""
    """A local Hugging Face folder of a Llama model to go on from; empty: a new one of the sizes below."""
    new_rows: Literal["mean", "normal"] = "mean"
    """First value of the embeddings that a given model lacks: the mean of its text tokens' rows, or normal with the
    model's `initializer_range`."""
    hidden_size: Positive = 128
    layers: Positive = 4
    heads: Positive = 4
    batch_size: Positive = 8
    """Blocks that a process takes at once."""
    accumulation: Positive = 1
    """Such batches of a process in an optimiser step, which sees batch_size x accumulation x processes blocks."""
    steps: Positive = 200
    learning_rate: Annotated[float, Field(gt=0)] = 3e-3
    schedule: Literal["constant", "cosine"] = "constant"
    """After the warmup: constant, or half a cosine down to `final_share` of the learning rate at the last step."""
    final_share: Probability = 0.1
    warmup: Annotated[int, Field(ge=0)] = 20
    """Steps in which the learning rate rises linearly."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of matrices; vectors are not decayed."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest norm of a step's gradient; None: no limit."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; weights and optimiser stay float32. `auto`: bfloat16 on CUDA, float32 on the CPU."""
    attention: Literal["sdpa", "flex"] = "sdpa"
    """`sdpa` builds a mask of context x context for each block, `flex` one of tiles, which pays at long contexts."""
    recompute: bool = False
    """Compute each layer's activations again in the backward pass instead of keeping them: slower, far less memory."""
    parallel: Literal["ddp", "fsdp2"] = "ddp"
    """Several processes: a whole model in each, or model and optimiser divided among them."""
    shuffle_shards: Positive = 16
    """Shards whose documents are shuffled together, and that a stream of the reader keeps open."""
    on_corrupt: Literal["raise", "skip"] = "raise"
    """A damaged shard or record ends the run, or is left out and counted in the log."""
    verify: bool = False
    """Hash each shard as it is opened, which reads it once; those of object stores always are."""
    cache: str = ""
    """Folder for shards of object stores; empty: `interloom/shards` in the user's cache folder."""
    cache_gb: Annotated[float, Field(gt=0)] = 32.0
    """Most GiB in it."""
    timeout_seconds: PositiveSeconds = 1800.0
    """A process gives up when it hears nothing from the others for so long; a checkpoint must be written in it."""
    checkpoint_every: Positive = 100
    keep: Positive = 1
    """Newest checkpoints that are kept."""
    evaluate_every: Positive = 20
    tensorboard: bool = False
    """Write the log for TensorBoard as well, into the run's folder `tensorboard`."""

    MAY_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            *("steps", "batch_size", "accumulation", "attention", "recompute", "parallel", "timeout_seconds"),
            *("checkpoint_every", "keep", "evaluate_every", "tensorboard"),
            *("on_corrupt", "verify", "cache", "cache_gb"),
        }
    )
    """Settings that a resumed run need not share with the run before."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size must be a multiple of 2 x heads, got {self.hidden_size} and {self.heads}")
        return self

    def rate(self, step: int, total: int) -> float:
        """Return the learning rate of a step, counted from 1, in a run of `total` steps."""
        if step <= self.warmup or self.schedule == "constant":
            return self.learning_rate * min(1.0, step / max(1, self.warmup))
        done = (step - self.warmup) / max(1, total - self.warmup)
        share = self.final_share + (1 - self.final_share) * (1 + cos(pi * min(1.0, done))) / 2
        return self.learning_rate * share
