"""What a checkpoint holds beside the settings: weights, optimiser, generators and readers, of one or many processes.

Everything is saved whole, by name, in safetensors: a checkpoint of any number of processes, divided or not, can be
resumed by any other.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jobs.train_dist import World, part_like, whole_tensor
from jobs.train_run import RunFolder, publishing
from jobs.train_vocabulary import CarriedVocabulary
from pipeline.reader import SequenceReader

OPTIMISER, GENERATORS, STATE = "optimizer.safetensors", "rng.safetensors", "state.json"


def save(
    folder: RunFolder,
    step: int,
    keep: int,
    world: World,
    model: Any,
    optimiser: Any,
    reader: SequenceReader,
    vocabulary: CarriedVocabulary,
) -> Path:
    """Write a checkpoint, whole or not at all; all processes must call this.

    Raises:
        ValueError: in all processes, if the first one cannot write.
    """
    weights = _whole(model.state_dict().items(), world)
    if model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)  # the same rows as the input embeddings; transformers ties them again
    moments = _whole(_moments(model, optimiser), world)
    readers, generators = world.gather(reader.state_dict()), world.gather(_generators(world))

    def write() -> str:
        from safetensors.torch import save_file

        with publishing(folder.path, step, keep) as partial:
            model.save_pretrained(partial, state_dict=weights, safe_serialization=True)
            save_file(moments, partial / OPTIMISER)
            save_file(_generator_tensors(generators), partial / GENERATORS)
            (partial / STATE).write_text(json.dumps({"step": step, "readers": readers}), encoding="utf-8")
            vocabulary.write(partial)
        return str(folder.path / f"checkpoint-{step:06d}")

    return Path(world.agree(write))


def restore(checkpoint: Path, world: World, model: Any, optimiser: Any) -> None:
    """Load optimiser and generators; the weights are loaded where the model is made."""
    from safetensors import safe_open

    parameters = dict(model.named_parameters())
    state: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    with safe_open(str(checkpoint / OPTIMISER), framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a dict
            name, _, kind = key.rpartition(".")
            whole = file.get_tensor(key)
            state[name][kind] = part_like(whole, parameters[name]) if whole.ndim else whole
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]]
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": {i: state[name] for i, name in enumerate(order)}, "param_groups": groups})
    _restore_generators(checkpoint, world)


def _whole(tensors: Iterable[tuple[str, Any]], world: World) -> dict[str, Any]:
    """Return tensors put together, on the CPU; only the first process keeps them."""
    kept = {}
    for name, tensor in tensors:
        whole = whole_tensor(tensor)
        if world.leads:
            kept[name] = whole.cpu()
    return kept


def _moments(model: Any, optimiser: Any) -> Iterator[tuple[str, Any]]:
    for name, parameter in model.named_parameters():
        for kind, value in optimiser.state[parameter].items():
            yield f"{name}.{kind}", value


def _generators(world: World) -> dict[str, list[int]]:
    import torch

    found = {"cpu": torch.get_rng_state().tolist()}
    if world.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(world.device).tolist()
    return found


def _generator_tensors(generators: list[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    return {
        f"{kind}.{rank}": torch.tensor(state, dtype=torch.uint8)
        for rank, own in enumerate(generators)
        for kind, state in own.items()
    }


def _restore_generators(checkpoint: Path, world: World) -> None:
    import torch
    from safetensors.torch import load_file

    # A process that the run did not have before keeps the generator that its rank began with.
    saved = load_file(checkpoint / GENERATORS)
    if f"cpu.{world.rank}" in saved:
        torch.set_rng_state(saved[f"cpu.{world.rank}"])
    if world.device.type == "cuda" and f"cuda.{world.rank}" in saved:
        torch.cuda.set_rng_state(saved[f"cuda.{world.rank}"], world.device)
