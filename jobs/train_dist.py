"""Processes that train together: which one this is, what they tell each other, a model spread over them.

What they tell each other travels as JSON over gloo, on the CPU; gradients travel over NCCL where there is CUDA.
"""

import gc
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among those of a run.

    Attributes:
        rank: from 0; the process with rank 0 writes.
        size: number of processes.
        device: the torch.device of this process.
    """

    rank: int
    size: int
    device: Any

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes by rank, in each; a value is plain JSON.

        Raises:
            ConnectionError: if another process is gone or silent for longer than `timeout_seconds`.
        """
        if self.size == 1:
            return [value]
        import torch
        import torch.distributed as dist

        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        try:
            dist.all_gather(sizes, torch.tensor([len(data)]))
            widest = max(int(size) for size in sizes)
            padded = torch.nn.functional.pad(data, (0, widest - len(data)))
            found = [torch.zeros(widest, dtype=torch.uint8) for _ in range(self.size)]
            dist.all_gather(found, padded)
        except RuntimeError as error:
            raise ConnectionError(
                f"process {self.rank} of {self.size} lost the others ({str(error).splitlines()[0]}); the first error "
                "in their output says why, or raise train.timeout_seconds if they were only slow"
            ) from error
        return [json.loads(item[: int(n)].numpy().tobytes()) for item, n in zip(found, sizes, strict=True)]

    def total(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, added up by rank, so that they are the same in each."""
        return [sum(column) for column in zip(*self.gather(list(values)), strict=True)]

    def agree(self, work: Callable[[], T]) -> T:
        """Do work in the first process and return its plain JSON result in all; its error is raised in all.

        Raises:
            ValueError: what the work raised, or the text of its ValueError or OSError.
        """
        if self.size == 1:
            return work()
        answer: dict[str, Any] = {}
        if self.leads:
            try:
                answer = {"value": work()}
            except (ValueError, OSError) as error:
                answer = {"error": str(error)}
        answer = self.gather(answer)[0]
        if "error" in answer:
            raise ValueError(answer["error"])
        value: T = answer["value"]
        return value


@contextmanager
def joined(device: str, timeout_seconds: float) -> Iterator[World]:
    """Join the other processes of a run that `torchrun` started; a process on its own is a world of one.

    Args:
        device: `cpu`, `cuda` or `auto`.
        timeout_seconds: how long one process waits for another before it gives up.

    Raises:
        ValueError: if CUDA is asked for and this process has no device of its own.
    """
    import torch

    size, local = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_RANK", 0))
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise ValueError(
                f"--device cuda: process {local} of this machine has no device, torch finds "
                f"{torch.cuda.device_count()}; start fewer with --nproc-per-node, or take --device cpu"
            )
        torch.cuda.set_device(local)
    here = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if size == 1:
        yield World(rank=0, size=1, device=here)
        return
    import torch.distributed as dist

    # What this imports takes the group that there is for a default and holds it to the end; so before there is one.
    import torch.distributed.nn

    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout_seconds))
    yield World(rank=dist.get_rank(), size=size, device=here)
    # Gloo's threads free what they have sent, which may take Python's lock: a thread that asks for it while the
    # interpreter ends aborts the process, so they must end before. They end with the last that holds the group, and a
    # model that was trained holds it, often in a circle. Not in a `finally`: after an error a peer may hold the group
    # open for as long as the timeout.
    gc.collect()
    dist.destroy_process_group()


def replicated(model: Any, world: World) -> Any:
    """Return a wrapper that averages gradients over the processes; the weights become those of the first."""
    from torch.nn.parallel import DistributedDataParallel

    devices = [world.device.index] if world.device.type == "cuda" else None
    # The rotary frequencies are constants, so no buffer needs to be sent.
    return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True)


def divided(build: Callable[[], Any], world: World, *, half: bool) -> Any:
    """Return a Llama model whose parameters are divided among the processes by FSDP2.

    Only the first process builds the model whole; the others get their parts of it. Gradients are summed over the
    processes, not averaged: gloo's reduce-scatter takes an average for a sum without a word.

    Args:
        build: returns the whole model.
        world: of at least two processes.
        half: whether matrix products are done in bfloat16; gradients are reduced in float32.
    """
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
    from transformers import LlamaConfig, LlamaForCausalLM

    whole: list[Any] = []

    def build_first() -> Any:
        whole.append(build())
        return json.loads(whole[0].config.to_json_string(use_diff=False))

    config = LlamaConfig.from_dict(world.agree(build_first))
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    mesh = init_device_mesh(world.device.type, (world.size,))
    policy = (
        MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else MixedPrecisionPolicy()
    )
    for layer in [*model.model.layers, model]:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    model.to_empty(device=world.device)
    # Its frequencies are no parameters: they are computed, and nothing restores them on the meta device.
    model.model.rotary_emb = type(model.model.rotary_emb)(config, device=world.device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(model, whole[0].state_dict() if world.leads else {}, options=options)
    return model


def whole_tensor(tensor: Any) -> Any:
    """Return a tensor, put together if it is divided; all processes must ask for it."""
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()


def part_like(whole: Any, like: Any) -> Any:
    """Return a whole tensor, or this process' part of it where `like` is divided."""
    if not hasattr(like, "full_tensor"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # Each process has read the whole from disk, so it cuts out its part and nothing is sent.
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
