"""Local engine: a thread per worker, each owning an executor's child process. No framework, the least overhead."""

import threading
from concurrent.futures import ThreadPoolExecutor

from pipeline.engines import EngineRequest
from pipeline.engines.turns import Turns
from pipeline.engines.worker import SplitWorker


def run(request: EngineRequest) -> None:
    turns, lock = Turns(request.splits), threading.Lock()

    def work(_: int) -> None:
        worker = SplitWorker(request.job)
        try:
            sound = True
            while sound:
                with lock:
                    turn = turns.take(worker)
                if turn is None:
                    return
                sound = worker.run(*turn)
        finally:
            worker.close()

    workers = min(request.workers, len(request.splits))
    with ThreadPoolExecutor(workers, thread_name_prefix="worker") as pool:
        list(pool.map(work, range(workers)))  # raises what a worker raised, once all have ended
