"""Several processes on the bundled corpus: the same losses as one, whole checkpoints, an end when one of them fails."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.train_builders import alone, bundled_dataset, command, entries, environment, run, tiny_llama

NUMBERS = ("loss", "text_loss", "speech_loss", "gradient_norm", "tokens", "speech_share")
NUMBERS += tuple(f"eval_{name}" for name in ("loss", "text_loss", "speech_loss"))
ONE = ("train.batch_size=1", "train.accumulation=4")
TWO = ("train.batch_size=1", "train.accumulation=2")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundled_dataset(tmp_path_factory.mktemp("data") / "d")


@pytest.fixture(scope="module")
def single(request: pytest.FixtureRequest, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """One process with doubled accumulation, 12 steps, of the stream that a test names."""
    out = tmp_path_factory.mktemp(request.param) / "one"
    stream = f"sequence.stream={request.param}"
    alone(dataset, out, stream, *ONE, steps=12)
    return stream, out


def assert_close(one: Path, other: Path, within: float = 1e-5) -> None:
    ours, theirs = entries(one), entries(other)
    assert [e["step"] for e in ours] == [e["step"] for e in theirs]
    assert len([e for e in ours if "loss" in e]) >= 10
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in NUMBERS:
            assert abs(a.get(name, 0) - b.get(name, 0)) <= within, (a, b)
        for of_one, of_other in zip(a.get("sources", ()), b.get("sources", ()), strict=True):
            assert of_one == {**of_other, "epochs": pytest.approx(of_other["epochs"])}
    assert ours[-1]["sources"][0]["tokens"] == sum(entry.get("tokens", 0) for entry in ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("single", "parallel"), [("base", "ddp"), ("base", "fsdp2"), ("expressive", "ddp")], indirect=["single"]
)
def test_two_processes_equal_one_with_doubled_accumulation(
    dataset: Path, single: tuple[str, Path], parallel: str, tmp_path: Path
) -> None:
    stream, one = single
    run(command(dataset, tmp_path / "two", stream, *TWO, f"train.parallel={parallel}", processes=2,
                more=["--steps", "12"]))  # fmt: skip
    assert_close(one, tmp_path / "two")

    from safetensors.numpy import load_file

    names = ("model.safetensors", "optimizer.safetensors")
    for name in names:
        a, b = (load_file(folder / "checkpoint-000012" / name) for folder in (one, tmp_path / "two"))
        assert a.keys() == b.keys()
        assert all(np.allclose(a[key], b[key], atol=1e-4) for key in a)


@pytest.mark.slow
@pytest.mark.parametrize("single", ["base", "expressive"], indirect=True)
def test_another_number_of_processes_goes_on_with_exactly_the_rest(
    dataset: Path, single: tuple[str, Path], tmp_path: Path
) -> None:
    stream, one = single
    # Two processes in one way, then one, then two in the other way.
    first, last = ("ddp", "fsdp2") if stream.endswith("base") else ("fsdp2", "ddp")
    out = tmp_path / "run"
    run(command(dataset, out, stream, *TWO, f"train.parallel={first}", processes=2, more=["--steps", "4"]))
    alone(dataset, out, stream, *ONE, steps=8)
    run(command(dataset, out, stream, *TWO, f"train.parallel={last}", processes=2, more=["--steps", "12", "--resume"]))
    trained = [entry for entry in entries(out) if "loss" in entry]
    whole = [entry for entry in entries(one) if "loss" in entry]
    for a, b in zip(trained, whole, strict=True):
        assert all(abs(a[name] - b[name]) <= 1e-5 for name in NUMBERS if name in a), (a, b)


@pytest.mark.slow
def test_a_given_model_with_tied_embeddings_trains_alike_divided(dataset: Path, tmp_path: Path) -> None:
    tiny_llama(400, tie=True).save_pretrained(tmp_path / "llama")
    model = f"train.model={tmp_path / 'llama'}"
    alone(dataset, tmp_path / "one", model, *ONE, steps=10)
    two = command(dataset, tmp_path / "two", model, *TWO, "train.parallel=fsdp2", processes=2, more=["--steps", "10"])
    run(two)
    assert_close(tmp_path / "one", tmp_path / "two")

    from transformers import LlamaForCausalLM

    trained = LlamaForCausalLM.from_pretrained(tmp_path / "two" / "checkpoint-000010", local_files_only=True)
    assert type(trained).__name__ == trained.config.architectures[0] == "LlamaForCausalLM"
    assert trained.lm_head.weight is trained.model.embed_tokens.weight


def killed_midway(arguments: list[str], out: Path, steps: int) -> None:
    """Start a run, kill all of its processes with SIGKILL once it has done so many steps."""
    with (out.parent / "killed.txt").open("w") as output:
        process = subprocess.Popen(arguments, env=environment(), stdout=output, stderr=output, start_new_session=True)
        log = out / "log.jsonl"
        try:
            deadline = time.monotonic() + 200
            while not log.exists() or log.read_text().count("\n") < steps:
                assert process.poll() is None, (out.parent / "killed.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            # torchrun's workers are in sessions of their own, so each is killed by its number.
            for child in [*children(process.pid), process.pid]:
                os.kill(child, signal.SIGKILL)
            process.wait()


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


@pytest.mark.slow
@pytest.mark.parametrize(("stream", "processes"), [("base", 1), ("expressive", 2)])
def test_a_killed_run_resumes_with_identical_losses(dataset: Path, stream: str, processes: int, tmp_path: Path) -> None:
    every = ("train.checkpoint_every=4", "train.evaluate_every=5")
    settings = (f"sequence.stream={stream}", "train.schedule=cosine", *every, *TWO)
    steps = ["--steps", "30"]
    run(command(dataset, tmp_path / "whole", *settings, processes=processes, more=steps))
    again = command(dataset, tmp_path / "killed", *settings, processes=processes, more=[*steps, "--resume"])
    killed_midway(again, tmp_path / "killed", steps=10)
    before = len(entries(tmp_path / "killed"))
    assert 10 <= before < 30, "the run was over before it was killed"
    run(again)
    assert entries(tmp_path / "killed") == entries(tmp_path / "whole")
    one, other = (
        (tmp_path / name / "checkpoint-000030" / "model.safetensors").read_bytes() for name in ("whole", "killed")
    )
    assert one == other


WORKER = """
import sys, time
from jobs.train_dist import joined

with joined("cpu", 4.0) as world:
    assert world.gather({"rank": world.rank, "long": "x" * (1 + 1000 * world.rank)}) == [
        {"rank": rank, "long": "x" * (1 + 1000 * rank)} for rank in range(2)
    ]
    assert world.total([1.5, world.rank]) == [3.0, 1.0]
    calls = []
    assert world.agree(lambda: calls.append(1) or "done") == "done"
    assert len(calls) == (world.rank == 0)
    try:
        world.agree(lambda: [][world.rank + 5] if False else (_ for _ in ()).throw(OSError("the disk is full")))
    except ValueError as error:
        assert str(error) == "the disk is full", error
    else:
        raise AssertionError("no error")
    print(f"rank {world.rank} agrees", flush=True)
    if world.rank == 1 and sys.argv[1] == "dies":
        sys.exit(3)
    if world.rank == 1:
        time.sleep(60)
    began = time.monotonic()
    try:
        world.gather("anyone?")
    except ConnectionError as error:
        print(f"rank 0: {error}", flush=True)
        assert time.monotonic() - began < 30
        sys.exit(4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["dies", "sleeps"])
def test_a_lost_process_ends_the_others(tmp_path: Path, peer: str) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    began = time.monotonic()
    done = run([*launcher, str(tmp_path / "worker.py"), peer], code=1, seconds=120)
    assert time.monotonic() - began < 50, "the sleeper was waited for"
    assert "rank 0 agrees" in done.stdout
    assert "rank 1 agrees" in done.stdout
    if peer == "sleeps":
        assert "process 0 of 2 lost the others" in done.stdout
        assert "train.timeout_seconds" in done.stdout


THREADS = """
import pathlib, sys
import torch
from jobs.train_dist import divided, joined, replicated


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM  # as late as training does

    sizes = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(**sizes))


def a_step(world):
    model = replicated(llama(), world) if sys.argv[1] == "ddp" else divided(llama, world, half=False)
    tokens = torch.arange(16)[None]
    model(input_ids=tokens, labels=tokens).loss.backward()


def threads():
    names = [task.joinpath("comm").read_text() for task in pathlib.Path("/proc/self/task").iterdir()]
    return len([name for name in names if "jemalloc" not in name])  # which pyarrow starts


before = threads()
with joined("cpu", 60.0) as world:
    assert threads() > before, "gloo has no threads, so this shows nothing"
    a_step(world)
    world.gather("done")
assert threads() == before, f"{threads() - before} threads are left"
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_no_thread_of_the_group_outlives_it(tmp_path: Path, parallel: str) -> None:
    # One that is left may abort the process while the interpreter ends: training was done, and its command failed.
    (tmp_path / "worker.py").write_text(THREADS)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run([*launcher, str(tmp_path / "worker.py"), parallel], seconds=120)


@pytest.mark.slow
def test_a_mistake_of_the_first_process_ends_all_of_them(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    done = run(command(dataset, tmp_path / "run", *TWO, processes=2), code=1, seconds=120)
    assert done.stderr.count("holds a run already") == 2
