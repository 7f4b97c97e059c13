"""The steps behind the commands: call the pipeline, show progress, say what to do next."""

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.console import print_next, print_summary, progress_bar
from pipeline.build import RunSettings, make_plan, run_build, run_fit, transcribe_first
from pipeline.dataset import BadDataset, Dataset
from pipeline.folder_lock import locked
from pipeline.manifest import ManifestError
from pipeline.preflight import preflight
from pipeline.recipes import load_recipe
from pipeline.storage import is_remote, join, read_json
from schemas.clock import SAMPLE_RATE
from schemas.recipe import Recipe
from schemas.unit_record import UnitRecord

CORPUS = "examples/corpus/manifest.jsonl"


def plan_step(console: Console, recipe: Recipe, manifest: str, out: str, audio_root: str | None = None) -> None:
    preflight(recipe)
    plan = make_plan(manifest, recipe, out, audio_root)
    hours = sum(plan.sizes) / 3600
    console.print(f"plan: {sum(plan.inputs):,} rows, {hours:.3f} h of audio, {len(plan.sizes):,} splits in {out}/plan")
    if not hours:
        console.print("the length of no row's audio is known; are the audio paths right?")


def fit_step(console: Console, recipe: Recipe, settings: RunSettings) -> Any:
    preflight(recipe)
    with progress_bar(console, "fit") as progress:
        artifacts = run_fit(recipe, settings, progress)
    console.print(f"fit: {', '.join(sorted(artifacts))} in {settings.out}/artifacts")
    return artifacts


def build_step(console: Console, recipe: Recipe, settings: RunSettings) -> int:
    """Build and print the summary; return the exit code: 1 where too many inputs were rejected."""
    artifacts = fit_step(console, recipe, settings)
    started = time.monotonic()
    with progress_bar(console, "build") as progress:
        info = run_build(recipe, artifacts, settings, progress)
    print_summary(console, settings.out, info, time.monotonic() - started)
    untold = info.get("transcription", {}).get("rejects", 0)
    if untold:
        console.print(
            f"{untold:,} further rows were rejected by the transcriber: {settings.out}/transcripts/rejects.jsonl"
        )
    rate = (info["rejects"] + untold) / max(1, info["inputs"] + untold)
    if rate > recipe.max_reject_rate:
        console.print(
            f"{rate:.1%} of the inputs were rejected, the recipe's max_reject_rate is {recipe.max_reject_rate:.0%}"
        )
        return 1
    return 0


def transcribe_step(
    console: Console, recipe: Recipe, manifest: str, settings: RunSettings, audio_root: str | None
) -> tuple[str, str]:
    """Transcribe the rows without text; return the new manifest and the root of its audio paths."""
    if read_json(join(settings.out, "transcripts", "transcribe.json")) is None:
        preflight(recipe, transcribe=True)
    with progress_bar(console, "transcribe") as progress:
        path, base = transcribe_first(manifest, recipe, settings, progress, audio_root)
    facts = read_json(join(settings.out, "transcripts", "transcribe.json")) or {}
    dropped = sum(facts.get("dropped", {}).values())
    console.print(
        f"transcribe: {facts.get('transcribed', 0):,} recordings became {facts.get('segments', 0):,} utterances "
        f"({dropped:,} segments dropped by the guards), {facts.get('with_text', 0):,} rows had text, "
        f"{facts.get('rejects', 0):,} rejects in {settings.out}/transcripts"
    )
    return path, base


def whole_run(
    console: Console, recipe: Recipe, manifest: str, settings: RunSettings, audio_root: str | None = None
) -> int:
    """Transcribe where the recipe says so, plan, fit and build while nobody else may work in the folder; then audit."""
    preflight(recipe)  # before there is a folder
    with locked(settings.out):
        if recipe.transcribe is not None:
            manifest, audio_root = transcribe_step(console, recipe, manifest, settings, audio_root)
        plan_step(console, recipe, manifest, settings.out, audio_root)
        code = build_step(console, recipe, settings)
    if Dataset.open(settings.out).info["records"] and not is_remote(settings.out):
        audit_step(console, settings.out, None, 10, tables=False)
    where = settings.out
    print_next(
        console,
        f"interloom audit {where}                  tables and {where}/report.html",
        f"interloom inspect {where}                one record and the sequence drawn from it",
        f"interloom train {where} --out model      a small model on these shards",
    )
    return code


def audit_step(console: Console, dataset: str, report: str | None, examples: int, tables: bool = True) -> None:
    from pipeline.audit import audit, print_tables

    if report is None and is_remote(dataset):
        raise ValueError(f"{dataset} is remote: say where the report goes with --report FILE")
    path = Path(report or join(dataset, "report.html"))
    summary = audit(dataset, path, examples=examples)
    if tables:
        print_tables(summary, console)
    console.print(f"report: {path}")


def train_step(
    console: Console,
    dataset: str,
    out: str,
    recipe: Recipe,
    steps: int | None,
    device: str,
    seed: int,
    resume: bool,
    shuffle_units: bool,
    mixture: str | None = None,
) -> None:
    from jobs.train import train
    from jobs.train_data import load_mixture

    summary = train(
        dataset,
        Path(out),
        recipe.train,
        recipe.sequence,
        seed,
        mixture=None if mixture is None else load_mixture(Path(mixture)),
        device=device,
        resume=resume,
        shuffle_units=shuffle_units,
        steps=steps,
    )
    if summary is not None:
        console.print(f"train: {summary}")


def bake_step(
    console: Console, dataset: str, recipe: Recipe, settings: RunSettings, *, seed: int, epochs: int, streams: int
) -> None:
    from pipeline.bake import BakeConfig, bake

    config = BakeConfig(dataset=dataset, sequence=recipe.sequence, seed=seed, epochs=epochs, streams=streams)
    with progress_bar(console, "bake") as progress:
        info = bake(config, settings.out, settings.engine, settings.limits, progress)
    share = info["speech_tokens"] / max(1, info["tokens"])
    console.print(
        f"{settings.out}: {info['blocks']:,} blocks of {info['context']} tokens in {len(info['shards']):,} shards; "
        f"{info['tokens']:,} tokens, {share:.1%} of them speech"
    )


def inspect_step(console: Console, root: str, key: str | None, epoch: int) -> None:
    dataset = Dataset.open(root)
    record = _find(dataset, key)
    console.print(
        f"{record.key} ({record.meta['id']}), {record.num_samples / SAMPLE_RATE:.2f} s, {record.meta['audio']}"
    )
    table = Table("word", "start s", "end s", "score", "")
    for index, word in enumerate(record.words):
        mark = "doubtful" if index in record.doubtful else ""
        times = ["-" if t is None else f"{t / SAMPLE_RATE:.2f}" for t in (word.start, word.end)]
        table.add_row(word.text, *times, "-" if word.score is None else f"{word.score:.2f}", mark)
    console.print(table)
    for name, ids in record.streams.items():
        contract = dataset.contract(name)
        shown = " ".join(map(str, ids[:24])) + (" ..." if len(ids) > 24 else "")
        console.print(f"{name} ({contract.extractor}, {contract.frame_rate} Hz, {len(ids)} frames): {shown}")
    from pipeline.reader.draw import draw_document
    from stages.documents import document_from
    from stages.interleave import interleaved_string

    document = document_from([record], dataset.contracts)
    spans = draw_document(document, dataset.recipe.sequence, seed=dataset.recipe.seed, epoch=epoch)
    console.print(interleaved_string(document, spans, dataset.recipe.sequence), markup=False)


def _find(dataset: Dataset, key: str | None) -> UnitRecord:
    for split in range(dataset.num_splits):
        for record in dataset.records(split):
            if key is None or key in (record.key, record.meta["id"]):
                return record
    raise BadDataset(f"{dataset.root}: no record with key or id {key!r}; it may be among the rejects")


def demo_steps(console: Console, settings: RunSettings) -> int:
    """The whole path on the bundled corpus, then a short training run."""
    manifest = find_corpus()
    recipe = load_recipe("demo")
    code = whole_run(console, recipe, str(manifest), settings)
    train_step(console, settings.out, f"{settings.out}/model", recipe, None, "auto", recipe.seed, True, False)
    return code


def find_corpus() -> Path:
    """Return the bundled manifest, from the working folder or from the source tree that this module belongs to."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (root / CORPUS).is_file():
            return root / CORPUS
    raise ManifestError(f"{CORPUS} is not here; run the demo in a clone of the project")


def doctor_step(console: Console, recipe: Recipe, device: str) -> int:
    """Print what a recipe needs; return the exit code: 2 where a run would not start."""
    from pipeline.doctor import RUNTIME_BYTES, examine

    found = examine(recipe, device)
    parts = Table("part", "backend", "runs on", "memory, about")
    for part in found.parts:
        parts.add_row(part.section, part.backend, part.device, _megabytes(part.memory_bytes))
    console.print(parts)
    if found.files:
        files = Table("key", "file", "licence", "sha256", "state")
        for file in found.files:
            licence = file.ref.licence + (" (non-commercial)" if file.ref.noncommercial else "")
            state = "there" if not file.problem else "missing" if not file.bytes else "refused"
            files.add_row(file.ref.where, file.ref.path, licence or "not stated", file.sha256[:12], state)
        console.print(files)
    for file in found.files:
        if file.problem:
            console.print(f"{file.ref.where}: {file.problem}", markup=False, soft_wrap=True)
    for package, extra in found.packages:
        console.print(f"package {package} is not installed: pip install 'interloom[{extra}]'", markup=False)
    total = RUNTIME_BYTES + sum(part.memory_bytes for part in found.parts)
    console.print(f"one worker takes about {_megabytes(total)}")
    if found.problem:
        console.print(f"not ready: {found.problem}", markup=False, soft_wrap=True)
    else:
        console.print("ready" if not found.packages else "not ready: packages are missing")
    return 2 if found.problem or found.packages else 0


def _megabytes(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB" if count else "-"
