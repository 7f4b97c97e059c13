"""What the commands share: options, the settings made of them, and errors as one line with an exit code."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from jobs.terminal import one_safe_line, safe
from pipeline.drive import EngineSettings, RunFailed, require_patience
from pipeline.engines import ENGINES
from pipeline.folder_lock import FolderInUse
from pipeline.log import VARIABLE
from schemas.recipe import Recipe

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def errors() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return the exceptions that end in exit code 1 and in exit code 2; each message is one clear line.

    The second group takes in what a user's paths, values and missing extras raise (most of our errors are ValueErrors).
    """
    from pipeline.bake import BakeExists
    from pipeline.build import PlanError
    from pipeline.commit import CommitConflict
    from pipeline.finish import LedgerError
    from pipeline.fit import FitError
    from pipeline.transcribe import TranscribeError
    from pipeline.verify import VerifyFailed

    failed = (RunFailed, TranscribeError, LedgerError, CommitConflict, FolderInUse, FitError, VerifyFailed)
    return failed, (BakeExists, PlanError, ValueError, OSError, ImportError)


def storage_errors() -> tuple[type[Exception], ...]:
    """Return what S3's client raises of its own, such as missing credentials, if it was loaded."""
    loaded = sys.modules.get("botocore.exceptions")
    return (loaded.BotoCoreError,) if loaded is not None else ()


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into one line and an exit code; INTERLOOM_DEBUG=1 shows the traceback of what is not documented."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        failed, usage = errors()
        try:
            return function(*args, **kwargs)
        except failed as error:
            click.echo(f"interloom: {safe(str(error))}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except usage as error:
            if os.environ.get("INTERLOOM_DEBUG"):
                raise
            untold = isinstance(error, ImportError) and "install" not in str(error).lower()
            hint = "; it comes with: pip install 'interloom[all]'" if untold else ""
            click.echo(f"interloom: {one_safe_line(str(error))}{hint}", err=True)
            raise SystemExit(EXIT_USAGE) from None
        except storage_errors() as error:
            click.echo(f"interloom: the object store: {one_safe_line(str(error))}", err=True)
            raise SystemExit(EXIT_FAILED) from None
        except KeyboardInterrupt:
            click.echo("interloom: interrupted; run the same command again to go on where it stopped", err=True)
            raise SystemExit(EXIT_INTERRUPTED) from None

    return wrapped


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Combine click decorators."""

    def apply(function: Any) -> Any:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def limit(name: str, default: float, text: str) -> Callable[[Any], Any]:
    """Return an option for a limit of the run."""
    return click.option(name, type=click.FloatRange(0.1, 1e9), default=default, show_default=True, help=text)


def _choose_log(context: click.Context, _: click.Parameter, as_json: bool) -> None:
    """Set the variable that our processes look at, and that engines and workers inherit, while the command runs."""
    if not as_json:
        return
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "json"

    def restore() -> None:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before

    context.call_on_close(restore)


log_option = click.option(
    "--log-json",
    is_flag=True,
    expose_value=False,
    callback=_choose_log,
    help=f"Log events as JSON lines on standard error: {VARIABLE}=json.",
)
recipe_argument = options(
    click.argument("recipe"),
    click.option("--set", "overrides", multiple=True, metavar="a.b=c", help="Override a recipe key; may be repeated."),
)
manifest_option = options(
    click.option(
        "--manifest", required=True, help="JSON Lines, CSV / TSV with a header, Parquet, or a LibriSpeech-style folder."
    ),
    click.option(
        "--audio-root", default=None, help="Where relative audio paths start.  [default: the manifest's folder]"
    ),
)
out_option = click.option("--out", required=True, help="Dataset folder; the same folder again resumes.")
record_seconds_option = click.option(
    "--record-seconds",
    type=click.FloatRange(0.1),
    default=120.0,
    show_default=True,
    help="Time limit for one record.",
)
memory_option = click.option(
    "--memory-gb",
    type=click.FloatRange(0.5, 4096),
    default=6.0,
    show_default=True,
    help="Memory limit of one worker.",
)
engine_options = options(
    click.option("--engine", type=click.Choice(ENGINES), default="local", show_default=True),
    click.option("--workers", type=click.IntRange(1), default=None, help="Splits at once.  [default: CPU cores]"),
    click.option(
        "--stall-seconds",
        type=click.FloatRange(1.0),
        default=1800.0,
        show_default=True,
        help="Restart an engine that stands still. With an object store 180 at least.",
    ),
    record_seconds_option,
    limit("--split-seconds", 21600.0, "Time limit for one attempt at a split."),
    memory_option,
    click.option(
        "--max-processes",
        type=click.IntRange(1),
        default=64,
        show_default=True,
        help="Most processes of one worker, counting those that it starts.",
    ),
    limit("--printed-mb", 256.0, "Most that a worker may print over one record."),
    click.option(
        "--batch-records",
        type=click.IntRange(1, 4096),
        default=8,
        show_default=True,
        help="Most records in a worker's hands.",
    ),
    click.option(
        "--batch-seconds",
        type=click.FloatRange(1.0),
        default=120.0,
        show_default=True,
        help="Most audio in a worker's hands.",
    ),
    click.option("--device", default="auto", show_default=True, help="For models: auto, cpu, cuda or cuda:N."),
    click.option("--compile", "compile_models", is_flag=True, help="Pass models through torch.compile."),
    log_option,
    click.argument("engine_args", nargs=-1, type=click.UNPROCESSED),
)


def run_settings(
    out: str,
    engine: Any,
    workers: int | None,
    stall_seconds: float,
    record_seconds: float,
    split_seconds: float,
    memory_gb: float,
    max_processes: int,
    printed_mb: float,
    batch_records: int,
    batch_seconds: float,
    device: str,
    compile_models: bool,
    engine_args: Sequence[str],
) -> Any:
    from pipeline.build import RunSettings
    from pipeline.job import Limits

    if engine == "ray":
        from pipeline.engines.on_ray import parse_options

        parse_options(engine_args)  # a mistake shows at once, not in the engine's log
    chosen = EngineSettings(
        engine=engine,
        workers=workers or os.cpu_count() or 1,
        options=tuple(engine_args),
        stall_seconds=stall_seconds,
    )
    require_patience(rooted(out), stall_seconds)
    require_device(device, engine)
    limits = Limits(
        record_seconds=record_seconds,
        split_seconds=split_seconds,
        max_rss_bytes=int(memory_gb * 2**30),
        max_processes=max_processes,
        max_printed_bytes=int(printed_mb * 2**20),
        batch_records=batch_records,
        batch_seconds=batch_seconds,
        device=device,
        compile_models=compile_models,
    )
    return RunSettings(out=rooted(out), engine=chosen, limits=limits)


def require_device(device: str, engine: str) -> None:
    """Check a device's name, and for workers on this machine that it is there.

    Raises:
        ValueError: if not.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device {device}: use auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and engine == "local":
        import torch

        if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            raise ValueError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here")


def audio_root_of(given: str | None) -> str | None:
    """Return the folder that relative audio paths start from, or None where it was not given."""
    return None if given is None else rooted(given)


def rooted(path: str) -> str:
    """Return an absolute local path, or the URL of an object store.

    Raises:
        ValueError: for a chained URL, a path that is a file, or none.
    """
    path = path.removeprefix("file://")
    if not path:
        raise ValueError("an empty path: name a folder, the current one with '.'")
    if "::" in path:
        raise ValueError(f"{path}: a folder's name must not hold '::'")
    if "://" in path:
        return path.rstrip("/")
    if Path(path).is_file():
        raise ValueError(f"{path} is a file, a folder is needed")
    return str(Path(path).absolute())


def reading_recipe_of(dataset: str, overrides: Sequence[str]) -> Recipe:
    """Return a finished dataset's recipe, with overrides of its reading-time sections."""
    from pipeline.dataset import Dataset
    from pipeline.recipes import reading_recipe

    return reading_recipe(Dataset.open(rooted(dataset)).recipe, overrides)
