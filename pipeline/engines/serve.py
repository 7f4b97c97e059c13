"""The engine process: the driver starts it, hands it a request, and may kill it at any time."""

from multiprocessing.connection import Connection

from pipeline.engines import EngineRequest
from pipeline.log import Log
from pipeline.process import die_with_parent


def main(pipe: int, parent: int) -> None:
    die_with_parent(parent)
    request: EngineRequest = Connection(pipe).recv()  # from our own parent over a private pipe
    Log(role="engine", root=request.job.root).tell(
        "engine_started", engine=request.engine, splits=len(request.splits), workers=request.workers
    )
    if request.engine == "local":
        from pipeline.engines.on_local import run
    elif request.engine == "beam":
        from pipeline.engines.on_beam import run
    else:
        from pipeline.engines.on_ray import run
    run(request)
