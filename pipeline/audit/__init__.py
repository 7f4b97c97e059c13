"""The audit of a finished dataset: tables on a terminal and a report in one self-contained HTML file."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.audit.summary import AuditSummary
from pipeline.audit.tables import print_tables

if TYPE_CHECKING:
    from pipeline.audit.draws import Draw

__all__ = ["AuditSummary", "audit", "print_tables", "write_report"]

_EXTRA = ("duckdb", "plotly", "soundfile")


def audit(
    dataset: str,
    out: Path | None,
    *,
    seed: int = 0,
    examples: int = 10,
    max_draws: int = 2_000,
    draw: "Draw | None" = None,
) -> AuditSummary:
    """Audit a finished dataset and, if `out` is given, write the report there.

    Statistics come from the Parquet files and the commit records. Records are read only for the draws, at most
    `max_draws` of them, and for the examples: that many of the worst and that many at random. The same dataset and
    seed give the same bytes.

    Args:
        dataset: folder or fsspec URL of a finished dataset.
        out: path of the report, or None.
        seed: of the draws and of the random choice.
        examples: utterances of each kind in the report; 0 for none.
        max_draws: most records read for the interleaved draws; 0 for none.
        draw: how a document is interleaved; None for the dataset's own recipe.

    Raises:
        BadDataset: if the folder is not a finished dataset or is damaged.
        ValueError: if a count is negative or the packages of the audit are not installed.
    """
    if missing := [name for name in _EXTRA if find_spec(name) is None]:
        raise ValueError(f"the audit needs {', '.join(missing)}: pip install 'interloom[audit]'")
    if examples < 0 or max_draws < 0:
        raise ValueError(f"examples and max_draws must not be negative, got {examples} and {max_draws}")
    from pipeline.audit.collect import collect

    summary = collect(dataset, seed=seed, examples=examples, max_draws=max_draws, draw=draw)
    if out is not None:
        write_report(summary, out)
    return summary


def write_report(summary: AuditSummary, path: Path) -> None:
    """Write the report, whole or not at all; it opens without a network."""
    from pipeline.audit.report import report_html
    from pipeline.storage import publish_bytes

    publish_bytes(report_html(summary).encode(), str(path.absolute()))
