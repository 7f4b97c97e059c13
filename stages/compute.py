"""What a worker computes on. Set for the whole process by the run, never part of a stage's config: it is not to change
what a stage gives (beyond the last bits, which `benchmarks/units.py` measures).
"""

import os
from typing import Any

DEVICE_VARIABLE = "INTERLOOM_DEVICE"
COMPILE_VARIABLE = "INTERLOOM_COMPILE"


def device() -> Any:
    """Return the torch device of this worker: INTERLOOM_DEVICE, or `auto` for CUDA where there is one.

    Raises:
        ValueError: if a CUDA device is asked for that is not there.
    """
    import torch

    name = os.environ.get(DEVICE_VARIABLE) or "auto"
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but torch finds no CUDA device")
    return torch.device(name)


def compiled(module: Any) -> Any:
    """Return a module through `torch.compile` where the run asked for it."""
    import torch

    return torch.compile(module, dynamic=True) if os.environ.get(COMPILE_VARIABLE) == "1" else module


def dtype_of(precision: str) -> Any:
    """Return the torch dtype of a recipe's `precision`."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]
