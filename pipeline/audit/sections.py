"""Sections of the report but for its charts and cards. Every value from the data is escaped here."""

import json
from collections.abc import Sequence
from fractions import Fraction
from html import escape

from pipeline.audit.charts import Chart
from pipeline.audit.summary import AuditSummary, Breakdown
from schemas.contract import UnitContract


def shown(value: object) -> str:
    """Escape a value from the data; an empty one and control characters become visible."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in str(value))
    return escape(text) if text.strip() else '<span class="none">not given</span>'


def tiles(summary: AuditSummary) -> str:
    totals, rejects = summary.totals, summary.rejects
    hours = (f"{totals.hours:,.1f}", "hours") if totals.hours >= 1 else (f"{totals.hours * 60:,.1f}", "minutes")
    per = totals.speech_tokens / totals.words if totals.words else 0.0
    entries = [
        ("Audio", *hours),
        ("Utterances", f"{totals.utterances:,}", f"in {totals.recordings:,} recordings"),
        ("Speakers", f"{totals.speakers:,}", "named in the manifest"),
        ("Words", f"{totals.words:,}", f"{totals.unaligned:,} without a time, {totals.doubtful:,} doubtful"),
        ("Text tokens", f"{totals.text_tokens:,}", "of the dataset's tokenizer"),
        ("Speech tokens", f"{totals.speech_tokens:,}", f"deduplicated, {per:.1f} per word"),
        ("Rejected", f"{rejects.rate:.2%}", f"{rejects.count:,} of {rejects.inputs:,} inputs"),
    ]
    return "".join(
        f'<div class="tile"><p class="name">{name}</p><p class="value">{value}</p><p class="unit">{unit}</p></div>'
        for name, value, unit in entries
    )


def composition(breakdowns: Sequence[Breakdown], all_samples: int) -> str:
    heads = ("utterances", "hours", "words", "text tokens", "speech tokens")
    head = "".join(f'<th scope="col" class="num">{name}</th>' for name in heads)
    bodies = "".join(_group_rows(breakdown, all_samples) for breakdown in breakdowns)
    return (
        '<div class="scroll"><table class="composition"><caption>Speech tokens are deduplicated; bars show the share '
        f'of the audio.</caption><thead><tr><th scope="col">value</th>{head}</tr></thead>{bodies}</table></div>'
    )


def _group_rows(breakdown: Breakdown, all_samples: int) -> str:
    rows = [
        f'<tr class="group"><th scope="rowgroup" colspan="6">{escape(breakdown.column.title())} '
        f"<span>{breakdown.distinct:,}</span></th></tr>"
    ]
    for group in breakdown.groups:
        counts = "".join(f'<td class="num">{n:,}</td>' for n in (group.words, group.text_tokens, group.speech_tokens))
        share = f"{group.num_samples / max(1, all_samples):.1%}"
        bar = f'<span class="track"><span class="bar" style="width:{share}"></span></span>'
        rows.append(
            f'<tr><th scope="row">{shown(group.value)}</th><td class="num">{group.utterances:,}</td>'
            f'<td class="num hours">{bar}{group.hours:,.3f}</td>{counts}</tr>'
        )
    if (more := breakdown.distinct - len(breakdown.groups)) > 0:
        rows.append(f'<tr class="more"><td colspan="6">and {more:,} more with less audio</td></tr>')
    return f"<tbody>{''.join(rows)}</tbody>"


def backends(summary: AuditSummary) -> str:
    """Return who made each label; a slot filled by something else than its name says is called out."""
    info = summary.info
    aligner = {key: value for key, value in sorted(info["aligner"].items()) if key not in ("name", "score")}
    hashes = [str(value) for key, value in aligner.items() if key.endswith("sha256")]
    about = ", ".join(
        f"{key} {value}"
        for key, value in aligner.items()
        if isinstance(value, str | int | float) and not key.endswith("sha256")
    )
    rows = [_row("word times", summary.aligner, about, hashes[0] if hashes else "")]
    rows += [_contract_row(contract) for contract in summary.contracts.values()]
    text = info["recipe"].get("text", {})
    tokenizer = info.get("artifacts", {}).get("tokenizer", {})
    pieces = f"{text['vocab_size']:,} pieces" if "vocab_size" in text else ""
    rows.append(_row("text tokens", text.get("backend", "unknown"), pieces, tokenizer.get("sha256", "")))
    head = "".join(f'<th scope="col">{name}</th>' for name in ("label", "made by", "how", "codebook or model"))
    note = ""
    hubert = summary.contracts.get("hubert")
    if hubert is not None and "hubert" not in hubert.extractor.lower():
        note = (
            f'<p class="callout">The slot <code>hubert</code> is filled by <code>{shown(hubert.extractor)}</code>: '
            "these are not HuBERT units, and a model trained on them does not fit HuBERT's.</p>"
        )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>{note}'
    )


def _contract_row(contract: UnitContract) -> str:
    layer = "" if contract.layer is None else f", layer {contract.layer}"
    rate = f"{float(Fraction(contract.frame_rate)):g} Hz"
    how = f"version {contract.version}{layer}, {contract.codebook_size:,} units at {rate}"
    return _row(f"{contract.stream} units", contract.extractor, how, contract.codebook_sha256)


def _row(label: str, made_by: object, how: str, digest: str) -> str:
    short = f'<code title="sha256 {shown(digest)}">{shown(digest[:12])}</code>' if digest else "&ndash;"
    what = shown(how) if how else "&ndash;"
    return f'<tr><th scope="row">{shown(label)}</th><td>{shown(made_by)}</td><td>{what}</td><td>{short}</td></tr>'


def checks(summary: AuditSummary) -> str:
    items = "".join(
        f'<li class="{"ok" if check.ok else "bad"}"><b>{"agrees" if check.ok else "differs"}</b> '
        f"{escape(check.name)} <span>{escape(check.detail)}</span></li>"
        for check in summary.checks
    )
    return f'<ul class="checks">{items}</ul>'


def usage_table(summary: AuditSummary) -> str:
    heads = ("frames", "units", "never used", "entropy", "at most", "perplexity", "most used")
    head = "".join(f'<th scope="col" class="num">{name}</th>' for name in heads)
    rows = []
    for usage in summary.units:
        top = max(usage.counts, default=0) / max(1, usage.frames)
        values = (
            f"{usage.frames:,}", f"{usage.contract.codebook_size:,}", f"{usage.dead:,}",
            f"{usage.entropy_bits:.2f} bits", f"{usage.max_bits:.2f} bits", f"{2**usage.entropy_bits:,.1f}",
            f"{top:.1%}",
        )  # fmt: skip
        cells = "".join(f'<td class="num">{value}</td>' for value in values)
        rows.append(f'<tr><th scope="row">{shown(usage.contract.stream)}</th>{cells}</tr>')
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">stream</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def voicing_table(summary: AuditSummary) -> str:
    heads = ("utterances", "voiced share", "median F0", "middle 90%")
    head = "".join(f'<th scope="col" class="num">{name}</th>' for name in heads)
    rows = "".join(
        f'<tr><th scope="row">{shown(s.speaker)}</th><td class="num">{s.utterances:,}</td>'
        f'<td class="num">{s.voiced:.1%}</td><td class="num">{s.quantiles[2]:.0f} Hz</td>'
        f'<td class="num">{s.quantiles[0]:.0f} to {s.quantiles[4]:.0f} Hz</td></tr>'
        for s in summary.pitch
    )
    return (
        f'<div class="scroll"><table><thead><tr><th scope="col">speaker</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def reject_table(summary: AuditSummary) -> str:
    found = summary.rejects
    if not found.count:
        return '<p class="none">Every input became a record.</p>'
    rows = "".join(
        f"<tr><td><code>{shown(item.get('id', ''))}</code></td><td>{shown(item.get('reason', ''))}</td>"
        f"<td>{shown(item.get('stage', ''))}</td><td>{shown(item.get('detail', ''))}</td></tr>"
        for item in found.first
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("id", "reason", "stage", "detail"))
    first = f"The first {len(found.first):,} of {found.count:,}" if len(found.first) < found.count else "All"
    return (
        f'<div class="scroll tall"><table class="rejects"><caption>{first}, in the order of the shards.</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def recipe(summary: AuditSummary) -> str:
    text = json.dumps(summary.info["recipe"], indent=2, sort_keys=True, ensure_ascii=False)
    return f"<details><summary>Every setting of the recipe</summary><pre>{escape(text)}</pre></details>"


def chart_grid(charts: Sequence[Chart]) -> str:
    boxes = "".join(
        f'<figure class="card chart{" wide" if chart.wide else ""}"><figcaption><h3>{escape(chart.title)}</h3>'
        f'<p>{escape(chart.note)}</p></figcaption><div class="plot" id="chart-{escape(chart.key)}" '
        f'style="height:{int(chart.figure["layout"]["height"])}px"></div></figure>'
        for chart in charts
    )
    return f'<div class="grid{" three" if len(charts) == 3 else ""}">{boxes}</div>' if charts else ""
