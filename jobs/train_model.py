"""The model that is trained: a Llama of transformers, new or given, and the loss of its tokens."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from jobs.train_dist import World, divided, replicated
from jobs.train_vocabulary import read_carried
from pipeline.reader import IGNORED, Block
from schemas.contract import UnitContract
from schemas.sequence import SequenceSection
from schemas.training import TrainSection
from stages.vocabulary import Vocabulary

FLEX = "interloom_flex"
"""Name under which transformers finds our attention."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learner:
    """A model as one process trains it.

    Attributes:
        model: LlamaForCausalLM: parameters, configuration, weights.
        forward: the model, or the wrapper through which several processes train it.
        device: where it is.
        autocast: whether matrix products are done in bfloat16 by autocast (FSDP2 does it in its own way).
        flex: whether attention is flex attention.
        scale: what a process must multiply its loss by so that the step sees the sum over processes.
    """

    model: Any
    forward: Any
    device: Any
    autocast: bool
    flex: bool
    scale: float = 1.0

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """Return a context for a backward pass; before the last one of a step gradients need not be exchanged."""
        held: AbstractContextManager[None] = nullcontext()
        if not last and hasattr(self.forward, "no_sync"):
            held = self.forward.no_sync()
        return held


def make_learner(
    section: TrainSection,
    sequence: SequenceSection,
    vocabulary: Vocabulary,
    contracts: Mapping[str, UnitContract],
    world: World,
    *,
    seed: int,
    checkpoint: Path | None,
) -> Learner:
    """Return the model of a run: from its checkpoint, from the given model, or new.

    Raises:
        ValueError: if a folder holds no Llama model, or one that does not fit the vocabulary or the context.
    """
    import torch

    build = partial(_whole_model, section, sequence, vocabulary, contracts, seed, checkpoint)
    half = section.precision == "bfloat16" or (section.precision == "auto" and world.device.type == "cuda")
    scale = 1.0
    if world.size == 1:
        model = forward = build().to(world.device)
    elif section.parallel == "fsdp2":
        model = forward = divided(build, world, half=half)
    else:
        model = build().to(world.device)
        forward, scale = replicated(model, world), float(world.size)
    use_attention(model, section.attention)
    model.config.use_cache = False
    if section.recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(seed + world.rank)  # only a given model may have dropout, which should differ by process
    return Learner(
        model=model,
        forward=forward,
        device=world.device,
        autocast=half and not (world.size > 1 and section.parallel == "fsdp2"),
        flex=section.attention == "flex",
        scale=scale,
    )


def _whole_model(
    section: TrainSection,
    sequence: SequenceSection,
    vocabulary: Vocabulary,
    contracts: Mapping[str, UnitContract],
    seed: int,
    checkpoint: Path | None,
) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    if checkpoint is not None or section.model:
        model = load_llama(checkpoint or Path(section.model))
        if checkpoint is None:
            extend(model, section, vocabulary, contracts)
        if sequence.context > model.config.max_position_embeddings:
            raise ValueError(
                f"{section.model} takes {model.config.max_position_embeddings} tokens, sequence.context is "
                f"{sequence.context}: lower it"
            )
        return model
    config = LlamaConfig(
        vocab_size=vocabulary.size,
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


def load_llama(folder: Path) -> Any:
    """Return the Llama model of a local folder, in float32 on the CPU; nothing is downloaded.

    Raises:
        ValueError: if there is none; the message names the folder.
    """
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: name the folder of a Hugging Face Llama model")
    kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if kind != "llama":
        raise ValueError(f"{folder} holds a model of type {kind}; only llama can be trained and scored here")
    return LlamaForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)


def extend(model: Any, section: TrainSection, vocabulary: Vocabulary, contracts: Mapping[str, UnitContract]) -> None:
    """Give a model the embeddings of the joint vocabulary, in place.

    Rows of text tokens stay. Rows from the first speech token on are given their first value, those of a padded matrix
    too; a checkpoint of ours keeps all of its rows. A matrix that is larger than the vocabulary stays so.

    Raises:
        ValueError: if the model lacks text tokens, or was trained with another joint vocabulary.
    """
    import torch

    theirs = read_carried(Path(section.model))
    if theirs is not None:
        theirs.require_contracts(contracts, here=section.model, there="the dataset")
        if theirs.vocabulary.describe() != vocabulary.describe():
            raise ValueError(
                f"{section.model} was trained with another vocabulary: {theirs.vocabulary.describe()} there, "
                f"{vocabulary.describe()} here; set sequence.vocabulary as it was"
            )
        return
    first, rows = vocabulary.marker_id(0), model.get_input_embeddings().num_embeddings
    if rows < vocabulary.tokenizer.vocab_size:
        raise ValueError(
            f"{section.model} has embeddings for {rows} tokens, the tokenizer has {vocabulary.tokenizer.vocab_size}: "
            "set sequence.vocabulary.tokenizer to the model's own"
        )
    known = vocabulary.tokenizer.vocab_size
    model.resize_token_embeddings(max(rows, vocabulary.size), mean_resizing=False)
    tables = {id(table.weight): table.weight for table in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight in tables.values():
            if section.new_rows == "mean":
                weight[first : vocabulary.size] = weight[:known].mean(0)
            else:
                weight[first : vocabulary.size].normal_(0.0, model.config.initializer_range)


def use_attention(model: Any, attention: str) -> None:
    """Choose the attention of a model, `sdpa` or `flex`."""
    if attention == "flex":
        from transformers import AttentionInterface

        AttentionInterface.register(FLEX, flex_forward)
    model.set_attn_implementation(FLEX if attention == "flex" else "sdpa")


def flex_forward(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float | None = None, **_: Any
) -> tuple[Any, None]:
    """Attention in the form that transformers calls: heads first in, (batch, positions, heads, size) out.

    Compiled on CUDA. On the CPU torch's reference is used, which holds all scores: fit for tests, not for training.
    """
    attend = _compiled_flex() if query.is_cuda else _flex()
    gqa = query.shape[1] != key.shape[1]
    out = attend(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=gqa)
    return out.transpose(1, 2).contiguous(), None


def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


@cache
def _compiled_flex() -> Callable[..., Any]:
    import torch

    return torch.compile(_flex(), dynamic=False)


def document_mask(document_ids: Any, *, flex: bool) -> Any:
    """Return the mask of causal attention within documents, boolean (batch, 1, context, context) or a BlockMask."""
    if not flex:
        return (document_ids[:, None, :, None] == document_ids[:, None, None, :]).tril()
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(b: Any, _: Any, query: Any, key: Any) -> Any:
        return (document_ids[b, query] == document_ids[b, key]) & (query >= key)

    batch, context = document_ids.shape
    return create_block_mask(sees, batch, None, context, context, device=document_ids.device)


def token_losses(learner: Learner, batch: Sequence[Block]) -> tuple[Any, Any, Any]:
    """Return (loss, is target, modality) of each predicted position, tensors of shape (batch, context - 1).

    Losses are float32, in nats, and 0 where there is no target. Attention is causal and block-diagonal: no document
    sees another one of its block.
    """
    import torch

    names = ("input_ids", "labels", "position_ids", "document_ids", "modality")
    block = {name: torch.from_numpy(np.stack([b[name] for b in batch])).to(learner.device) for name in names}
    with torch.autocast(learner.device.type, dtype=torch.bfloat16, enabled=learner.autocast):
        logits = learner.forward(
            input_ids=block["input_ids"],
            position_ids=block["position_ids"],
            attention_mask=document_mask(block["document_ids"], flex=learner.flex),
            use_cache=False,
        ).logits
    labels = block["labels"][:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
    )
    return losses, labels != IGNORED, block["modality"][:, 1:]
