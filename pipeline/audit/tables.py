"""The audit on a terminal. Nothing from the data is read as markup or reaches the terminal as a control sequence."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.audit.summary import AuditSummary, Breakdown, Draws

TERMINAL_GROUPS = 12


def plain(value: str) -> Text:
    """Return a value from the data as text, its control characters replaced."""
    return Text("".join(c if c.isprintable() else "\ufffd" for c in value) or "(not given)")


def print_tables(summary: AuditSummary, console: Console) -> None:
    """Print the headline figures, the breakdowns, unit usage, interleaving and rejects."""
    console.print(Text.assemble(plain(summary.name), f"  {summary.fingerprint}", style="bold"))
    console.print(_headline(summary))
    for breakdown in summary.breakdowns:
        console.print(_breakdown(breakdown))
    console.print(_units(summary))
    if summary.draws.documents:
        console.print(_draws(summary.draws))
    if summary.rejects.reasons:
        console.print(_rejects(summary))
    for check in summary.checks:
        if not check.ok:
            console.print(Text(f"does not agree: {check.name}: {check.detail}", style="bold red"))


def _table(title: str, *columns: str, names: int = 1) -> Table:
    table = Table(title=Text(title, style="bold"), title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < names else "right", overflow="fold")
    return table


def _headline(summary: AuditSummary) -> Table:
    totals, rejects = summary.totals, summary.rejects
    rows = [
        ("audio", f"{totals.hours:,.3f} h"),
        ("utterances", f"{totals.utterances:,}"),
        ("recordings", f"{totals.recordings:,}"),
        ("speakers", f"{totals.speakers:,}"),
        ("words", f"{totals.words:,}"),
        ("words without a time", f"{totals.unaligned:,}"),
        ("doubtful words", f"{totals.doubtful:,}"),
        ("text tokens", f"{totals.text_tokens:,}"),
        ("speech tokens, deduplicated", f"{totals.speech_tokens:,}"),
        ("rejects", f"{rejects.count:,} of {rejects.inputs:,} ({rejects.rate:.2%})"),
        ("aligner", summary.aligner),
    ]
    table = _table("", "figure", "value")
    table.show_header = False
    for name, value in rows:
        table.add_row(name, plain(value))
    return table


def _breakdown(breakdown: Breakdown) -> Table:
    table = _table(
        f"By {breakdown.column}", breakdown.column, "utterances", "hours", "words", "text tokens", "speech tokens"
    )
    shown = breakdown.groups[:TERMINAL_GROUPS]
    for group in shown:
        counts = (group.words, group.text_tokens, group.speech_tokens)
        table.add_row(
            plain(group.value), f"{group.utterances:,}", f"{group.hours:,.3f}", *(f"{count:,}" for count in counts)
        )
    if breakdown.distinct > len(shown):
        table.add_row(Text(f"and {breakdown.distinct - len(shown):,} more", style="dim"))
    return table


def _units(summary: AuditSummary) -> Table:
    table = _table("Units", "stream", "extractor", "frames", "units", "never used", "entropy, bits", "of", names=2)
    for usage in summary.units:
        contract = usage.contract
        table.add_row(
            plain(contract.stream), plain(f"{contract.extractor} v{contract.version}"), f"{usage.frames:,}",
            f"{contract.codebook_size:,}", f"{usage.dead:,}", f"{usage.entropy_bits:.2f}", f"{usage.max_bits:.2f}",
        )  # fmt: skip
    return table


def _draws(draws: Draws) -> Table:
    table = _table(
        f"Interleaving, {draws.documents:,} documents drawn", "modality", "words", "tokens", "spans inside",
        "within the policy's bounds",
    )  # fmt: skip
    for modality, lengths in draws.lengths.items():
        low, high = draws.bounds.get(modality, (0, 0))
        kept = f"{draws.within_bounds(modality):.1%} of {low}-{high} words" if high else "none set"
        table.add_row(
            modality, f"{draws.words[modality]:,}", f"{draws.tokens[modality]:,}",
            f"{sum(lengths.values()):,}", kept,
        )  # fmt: skip
    return table


def _rejects(summary: AuditSummary) -> Table:
    table = _table("Rejects", "reason", "inputs", "share of the inputs")
    for reason, count in summary.rejects.reasons:
        table.add_row(plain(reason), f"{count:,}", f"{count / max(1, summary.rejects.inputs):.2%}")
    return table
