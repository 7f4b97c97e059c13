"""Beam engine: Create the splits, Reshuffle, ParDo. Any runner by option; the only data in the runner are numbers.

The default names FnApiRunner, because plain DirectRunner first tries to download another runner. Its multi-process mode
hangs for ever when a worker dies: the driver's watchdog deals with that.
"""

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.engines import EngineRequest
from pipeline.engines.loopback import serve_on_loopback_only
from pipeline.engines.worker import SplitWorker
from pipeline.job import Job


class RunSplit(beam.DoFn):
    """One executor per DoFn instance, hence per worker thread.

    A split is run when the next one of its bundle is there, or the bundle ends: so the next one is known.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def setup(self) -> None:
        self._worker = SplitWorker(self._job)

    def start_bundle(self) -> None:
        self._held: int | None = None

    def process(self, split: int) -> None:
        if self._held is not None:
            self._worker.run(self._held, split)
        self._held = split

    def finish_bundle(self) -> None:
        if self._held is not None:
            self._worker.run(self._held)

    def teardown(self) -> None:
        self._worker.close()


def default_options(workers: int) -> list[str]:
    if workers == 1:
        return ["--runner=FnApiRunner", "--direct_running_mode=in_memory"]
    return ["--runner=FnApiRunner", "--direct_running_mode=multi_processing", f"--direct_num_workers={workers}"]


def run(request: EngineRequest) -> None:
    serve_on_loopback_only()
    chosen = list(request.options)
    if not any(option.startswith("--runner") for option in chosen):
        chosen = default_options(request.workers) + chosen
    with beam.Pipeline(options=PipelineOptions(chosen)) as pipeline:
        splits = pipeline | "Splits" >> beam.Create(list(request.splits), reshuffle=False)
        _ = splits | "Spread" >> beam.Reshuffle() | "Run" >> beam.ParDo(RunSplit(request.job))
