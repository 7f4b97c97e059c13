"""Local engine: a thread per worker, each owning an executor's child process. No framework, the least overhead."""

import queue
import threading

from pipeline.engines import EngineRequest
from pipeline.engines.worker import SplitWorker


def run(request: EngineRequest) -> None:
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for split in request.splits:
        todo.put(split)
    threads = [
        threading.Thread(target=_work, args=(request, todo), name=f"worker-{i}")
        for i in range(min(request.workers, len(request.splits)))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _work(request: EngineRequest, todo: "queue.SimpleQueue[int]") -> None:
    worker = SplitWorker(request.job)
    try:
        while True:
            try:
                split = todo.get_nowait()
            except queue.Empty:
                return
            worker.run(split)
    finally:
        worker.close()
