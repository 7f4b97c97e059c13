"""Ray engine: Ray Core actors on a local or given cluster, one split in each at a time.

Options after `--`: `--address=ADDRESS` joins a cluster, `--num-cpus=F` and `--num-gpus=F` size an actor.
"""

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.engines import EngineRequest
from pipeline.engines.loopback import private_ray
from pipeline.engines.turns import Turns
from pipeline.engines.worker import MOST_FAILURES, SplitWorker, note_failure
from pipeline.log import VARIABLE
from pipeline.process import WORKER_ENV, import_path

MAX_ATTEMPTS = 3
PACKAGES = ("schemas", "stages", "pipeline", "jobs")

# Read by Ray when it starts: a task that the memory monitor killed is retried once, not for ever; no worker at nice 15;
# in a job that was submitted with packages, those that we ship go before them.
RAY_ENV = {
    "RAY_task_oom_retries": "1",
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_OVERRIDE_JOB_RUNTIME_ENV": "1",
}


def run(request: EngineRequest) -> None:
    options = parse_options(request.options)
    os.environ.update(RAY_ENV | (private_ray() if options.address == "local" else {}))
    import ray

    scratch = tempfile.mkdtemp(prefix="r-")  # short: a socket path may have 107 characters
    try:
        ray.init(**init_arguments(options, request.workers, scratch))
        _schedule(ray, request, options)
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def parse_options(options: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="interloom ... --engine ray --", add_help=False, exit_on_error=False)
    parser.add_argument("--address", default="local")
    parser.add_argument("--num-cpus", type=float, default=1.0)
    parser.add_argument("--num-gpus", type=float, default=0.0)
    try:
        known, unknown = parser.parse_known_args(list(options))
    except argparse.ArgumentError as error:
        raise ValueError(f"option for Ray: {error}") from None
    if unknown:
        raise ValueError(f"Ray's engine knows --address, --num-cpus and --num-gpus, not {' '.join(unknown)}")
    return known


def init_arguments(options: argparse.Namespace, workers: int, scratch: str) -> dict[str, Any]:
    quiet = {"address": options.address, "log_to_driver": False, "logging_level": "ERROR"}
    environment = {**WORKER_ENV, **({VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {})}
    if options.address != "local":
        return {**quiet, "runtime_env": {"py_modules": list(map(_folder, PACKAGES)), "env_vars": environment}}
    environment["PYTHONPATH"] = import_path()
    cpus = max(1, round(workers * options.num_cpus))
    local = {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": scratch, "object_store_memory": 100 * 2**20}
    return {**quiet, **local, "runtime_env": {"env_vars": environment}}


def _folder(package: str) -> str:
    """Return where a package of ours lies: in a submitted job each has come to a place of its own."""
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(package)
    return str(Path(found.origin).resolve().parent)


def _schedule(ray: Any, request: EngineRequest, options: argparse.Namespace) -> None:
    placed = ray.remote(num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_restarts=-1, max_task_retries=2)
    actor_class = placed(SplitWorker)
    idle = [actor_class.remote(request.job) for _ in range(min(request.workers, len(request.splits)))]
    turns, attempts, running = Turns(request.splits), Counter[int](), dict[Any, tuple[Any, int]]()
    lost = Counter[Any]()
    while True:
        while idle and (turn := turns.take(idle[-1])):
            actor = idle.pop()
            attempts[turn[0]] += 1
            running[actor.run.remote(*turn)] = (actor, turn[0])
        if not running:  # all is done, or no actor is left that does anything
            return
        for reference in ray.wait(list(running), num_returns=1)[0]:
            actor, split = running.pop(reference)
            try:
                sound = ray.get(reference)
                lost[actor] = 0
                idle += [actor] if sound else []
            except ray.exceptions.RayError as error:
                lost[actor] += 1
                idle += [actor] if lost[actor] < MOST_FAILURES else []
                if attempts[split] < MAX_ATTEMPTS:
                    turns.put_back(split)
                    continue
                message = f"split {split}: Ray gave up after {MAX_ATTEMPTS} attempts: {type(error).__name__}"
                note_failure(request.job.root, split, message)
