"""The guard: one outcome for every record, the culprit alone is rejected, and its name keeps to one line."""

import errno
from dataclasses import replace
from typing import Any

import pytest
import torch

from pipeline.guard import BrokenStage, run_stage
from schemas.rejects import Reason, Reject
from tests.poison import PoisonConfig, utterances

ROWS = utterances(4)


def test_the_culprit_is_rejected_and_its_batch_mates_are_not() -> None:
    hands: list[list[str]] = []
    found = run_stage(PoisonConfig(raises=("u002",)).setup(), "poison", ROWS, lambda keys: hands.append(list(keys)))
    assert [item for item in found if not isinstance(item, Reject)] == [ROWS[0], ROWS[1], ROWS[3]]
    detail = "u002.wav: ZeroDivisionError in stage poison"
    assert found[2] == Reject(key="u002", id="u002", stage="poison", reason=Reason.UNEXPECTED, detail=detail)
    assert hands == [["u000", "u001", "u002", "u003"], ["u000"], ["u001"], ["u002"], ["u003"]]


def test_a_hostile_name_keeps_to_one_line() -> None:
    row = replace(ROWS[0], audio="a\nb\x1b[2J\u202e" + "c" * 500)
    (found,) = run_stage(PoisonConfig(raises=("u000",)).setup(), "poison", [row], lambda _: None)
    assert isinstance(found, Reject)
    assert found.detail.startswith("a?b?[2J?ccc")
    assert found.detail.endswith(": ZeroDivisionError in stage poison")
    assert found.detail.isprintable()
    assert len(found.detail) < 250


def test_the_credentials_of_a_url_are_not_shown() -> None:
    row = replace(ROWS[0], audio="https://user:hunter2@h/a.wav?X-Amz-Signature=abc")
    (found,) = run_stage(PoisonConfig(raises=("u000",)).setup(), "poison", [row], lambda _: None)
    assert isinstance(found, Reject)
    assert found.detail == "https://h/a.wav?X-Amz-Signature=...: ZeroDivisionError in stage poison"


def test_an_outcome_too_few_is_our_bug() -> None:
    class Forgetful:
        def process(self, batch: Any) -> list[Any]:
            return list(batch)[1:]

    with pytest.raises(BrokenStage, match="3 outcomes for 4 records"):
        run_stage(Forgetful(), "forgetful", ROWS, lambda _: None)


class Failing:
    """Raises what it was given."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def process(self, batch: Any) -> list[Any]:
        raise self._error


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "number",
    [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNABORTED, errno.EMFILE, errno.ENOMEM],
    ids=errno.errorcode.get,
)
def test_a_system_that_fails_blames_no_record(number: int) -> None:
    with pytest.raises(OSError, match="as the kernel says") as caught:
        run_stage(Failing(OSError(number, "as the kernel says")), "align", ROWS, lambda _: None)
    assert caught.value.errno == number


def test_a_thread_that_cannot_start_blames_no_record() -> None:
    with pytest.raises(RuntimeError, match="new thread"):
        run_stage(Failing(RuntimeError("can't start new thread")), "units", ROWS, lambda _: None)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ...",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "std::bad_alloc",
    ],
)
def test_memory_that_a_library_lacks_is_a_memory_error(message: str) -> None:
    hands: list[list[str]] = []
    with pytest.raises(MemoryError, match="stage units: "):
        run_stage(Failing(RuntimeError(message)), "units", ROWS, lambda keys: hands.append(list(keys)))
    assert len(hands) == 1  # nothing is tried again in this process


def test_memory_that_torch_lacks_is_a_memory_error() -> None:
    class Hoarding:
        def process(self, batch: Any) -> list[Any]:
            return [torch.empty(1 << 58) for _ in batch]

    with pytest.raises(MemoryError, match="DefaultCPUAllocator"):
        run_stage(Hoarding(), "units", ROWS, lambda _: None)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might come later"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA failed with error out of memory"),
        RuntimeError("CUDA driver version is insufficient for CUDA runtime version"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED"),
        RuntimeError("No CUDA GPUs are available"),
        type("OutOfMemoryError", (RuntimeError,), {"__module__": "torch"})("whatever it says"),
        type("DeferredCudaCallError", (Exception,), {"__module__": "torch.cuda"})("lazily"),
        caused(ValueError("the backend raised"), RuntimeError("Triton Error [CUDA]: device kernel image is invalid")),
    ],
    ids=lambda error: str(error)[:30],
)
def test_an_accelerator_that_fails_blames_no_record(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_stage(Failing(error), "units", ROWS, lambda _: None)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("CUDA/track01.wav is odd"),
        ValueError("CUDA error: a song.wav is odd"),
        KeyError("CUDA out of memory"),
        RuntimeError("Error opening 'CUDA error: a song.wav': Format not recognised."),
        RuntimeError("CUDA/track01.wav is odd"),
        RuntimeError("cannot open 'std::bad_alloc.wav'"),
        ValueError("std::bad_alloc"),
        OSError(errno.EINVAL, "an odd value"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    ],
    ids=str,
)
def test_a_name_from_the_data_passes_for_no_broken_machine(error: Exception) -> None:
    found = run_stage(Failing(error), "units", ROWS, lambda _: None)
    assert [item.reason for item in found] == [Reason.UNEXPECTED] * 4
