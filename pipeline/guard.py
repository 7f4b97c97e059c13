"""The one place where an exception of a stage is caught."""

import errno
import re
from collections.abc import Callable, Sequence
from typing import Any

from schemas.rejects import Reason, Reject, one_line
from schemas.urls import public_url
from stages.base import Stage

SYSTEM_ERRORS = (ImportError, SyntaxError, NameError, MemoryError)
"""The installation is broken: abort the split, reject nobody. (AttributeError is left out: odd data can raise it.)

MemoryError: whether a hoarding record meets it, or the watchdog, or the kernel, is a matter of the machine. The child
ends with its journal as it is, so that all three end in the same reject.
"""
SYSTEM_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO}
SYSTEM_ERRNOS |= {errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.ESHUTDOWN, errno.EHOSTDOWN}
"""Of a disk, of what a process may have, and of a mount that is away."""

MEMORY_MESSAGE = re.compile(r"\[enforce fail at alloc_cpu\.cpp|DefaultCPUAllocator: |std::bad_alloc")
"""How the message of a plain RuntimeError begins where libraries in C++ find no memory."""
NO_THREAD = "can't start new thread"

DEVICE_ERRORS = {"torch.AcceleratorError", "torch.CudaError", "torch.DeferredCudaCallError", "torch.OutOfMemoryError"}
"""Of an accelerator that is gone, full or broken: package and class."""
DEVICE_MESSAGE = re.compile(
    r"(?:CUDA (?:error|failure|out of memory|driver|call failed|failed with error)"
    r"|cuDNN(?: Frontend)? error|cuBLAS(?:Lt)? (?:error|failed)|(?:CUDNN|CUBLAS|CUSPARSE|CUSOLVER)_STATUS_"
    r"|cuFFT error|CUFFT_|NCCL error|Triton Error \[CUDA\]|No CUDA GPUs are available|Found no NVIDIA driver"
    r"|GET was unable to find an engine|FIND was unable to find an engine)"
)
"""How the message of a plain RuntimeError from CUDA's libraries begins: a name from the data comes later, if at all."""

Notice = Callable[[Sequence[str]], None]
"""Called with the keys that a stage is about to work on."""


class BrokenStage(RuntimeError):
    """A stage broke its contract: that is our bug, never the data's."""


def run_stage(stage: Stage[Any, Any], name: str, items: Sequence[Any], notice: Notice) -> list[Any]:
    """Feed live records to a stage and let earlier rejects pass in place; one outcome per item, in order."""
    live = [item for item in items if not isinstance(item, Reject)]
    done = iter(_attempt(stage, name, live, notice) if live else ())
    return [item if isinstance(item, Reject) else next(done) for item in items]


def _attempt(stage: Stage[Any, Any], name: str, batch: Sequence[Any], notice: Notice) -> list[Any]:
    notice([key_and_id(item)[0] for item in batch])
    try:
        outcomes = list(stage.process(batch))
    except SYSTEM_ERRORS:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and MEMORY_MESSAGE.match(str(error)):
            raise MemoryError(f"stage {name}: {error}") from error
        if _is_system(error):
            raise
        if len(batch) > 1:  # isolate the culprit: rerun one by one
            return [outcome for item in batch for outcome in _attempt(stage, name, [item], notice)]
        key, row_id, audio = key_and_id(batch[0])
        detail = f"{one_line(audio)}: {type(error).__name__} in stage {name}"
        return [Reject(key=key, id=row_id, stage=name, reason=Reason.UNEXPECTED, detail=detail)]
    if len(outcomes) != len(batch):
        raise BrokenStage(f"stage {name} returned {len(outcomes)} outcomes for {len(batch)} records")
    return outcomes


def _is_system(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno in SYSTEM_ERRNOS:
        return True
    if isinstance(error, RuntimeError) and str(error) == NO_THREAD:
        return True
    return isinstance(error, BrokenStage) or _is_of_device(error)


def _is_of_device(error: BaseException | None) -> bool:
    """Whether an accelerator failed, or that caused the error."""
    if error is None:
        return False
    kinds = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    told = isinstance(error, RuntimeError) and DEVICE_MESSAGE.match(str(error)) is not None
    return told or bool(kinds & DEVICE_ERRORS) or _is_of_device(error.__cause__)


def key_and_id(item: Any) -> tuple[str, str, str]:
    """Return key, id and the name of the audio, without credentials, of any record that flows between stages."""
    if hasattr(item, "utterance"):
        item = item.utterance
    elif hasattr(item, "clip"):
        item = item.clip.utterance
    return item.key, getattr(item, "id", item.key), public_url(getattr(item, "audio", item.key))
