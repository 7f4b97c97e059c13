"""The report: one HTML file that holds its styles, scripts, data and sounds, and may load nothing else."""

import base64
import hashlib
import json
from html import escape
from importlib.resources import files
from typing import Any

from pipeline.audit import charts, sections
from pipeline.audit.cards import cards, legend
from pipeline.audit.charts import Chart
from pipeline.audit.summary import AuditSummary, Example
from schemas.canonical import canonical_json


def report_html(summary: AuditSummary) -> str:
    """Return the whole page; the same summary gives the same bytes."""
    body, drawn = _body(summary)
    data = json_for_script({chart.key: chart.figure for chart in drawn})
    scripts = [_plotly(), _template("report.js")]
    policy = content_security_policy(scripts)
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">',
            f"<title>{escape(summary.name)}: dataset audit</title>",
            f"<style>{_template('report.css')}</style></head><body>",
            body,
            f'<script type="application/json" id="charts">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body></html>\n",
        ]
    )


def content_security_policy(scripts: list[str]) -> str:
    """Allow these scripts, inline styles (plotly writes its own) and data: images and sounds, and nothing else."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; media-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def json_for_script(value: Any) -> str:
    """Return JSON that cannot end the script element it stands in, whatever strings it holds."""
    text = canonical_json(json.loads(json.dumps(value)))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # The page's parser turns CRLF into LF before it hashes a script.
    source: str = get_plotlyjs()
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _template(name: str) -> str:
    return files("pipeline").joinpath("templates").joinpath(name).read_text(encoding="utf-8")


def _body(summary: AuditSummary) -> tuple[str, list[Chart]]:
    drawn: list[Chart] = []

    def grid(found: list[Chart]) -> str:
        drawn.extend(found)
        return sections.chart_grid(found)

    draws = summary.draws
    parts = [
        ("Labels", _card(sections.backends(summary)), "What made each of them."),
        ("Composition", _card(sections.composition(summary.breakdowns, summary.totals.num_samples)), ""),
        ("Distributions", grid(charts.distributions(summary)), _scores_note(summary)),
        ("Interleaving", grid(charts.interleaving(draws)), _interleaving_note(summary)) if draws.documents else None,
        ("Units", _card(sections.usage_table(summary)) + grid(charts.units(summary)), "Over all frames."),
        ("Prosody", grid(charts.prosody(summary)) + _card(sections.voicing_table(summary)), "")
        if summary.pitch or draws.style
        else None,
        ("Rejects", grid(charts.rejects(summary.rejects)) + _card(sections.reject_table(summary)), ""),
        ("Worst utterances", _examples(summary.worst, "worst"), "Lowest mean scores and lowest word scores, in turns.")
        if summary.worst
        else None,
        ("Random utterances", _examples(summary.random, "random"), f"Chosen by seed {summary.seed}.")
        if summary.random
        else None,
        ("Provenance", _provenance(summary), ""),
    ]
    present = [part for part in parts if part is not None]
    links = "".join(f'<a href="#{_anchor(title)}">{title}</a>' for title, _, _ in present)
    main = "".join(
        f'<section id="{_anchor(title)}"><h2>{title}</h2>{f"<p class=lead>{escape(note)}</p>" if note else ""}'
        f"{content}</section>"
        for title, content, note in present
    )
    return f"{_header(summary)}<nav>{links}</nav><main>{main}</main>{_footer(summary)}", drawn


def _header(summary: AuditSummary) -> str:
    bad = sum(not check.ok for check in summary.checks)
    state = (
        f'<span class="chip bad">{bad} count{"s" if bad > 1 else ""} differ{"" if bad > 1 else "s"}</span>'
        if bad
        else '<span class="chip">all counts agree</span>'
    )
    return (
        f'<header class="top"><p class="over">Dataset audit</p><h1>{sections.shown(summary.name)}</h1>'
        f'<p class="chips"><span class="chip"><code>{sections.shown(summary.fingerprint)}</code></span>'
        f'<span class="chip">{sections.shown(summary.info["format"])}</span>'
        f'<span class="chip">{int(summary.info["splits"]):,} shards</span>{state}</p>'
        f'<div class="tiles">{sections.tiles(summary)}</div></header>'
    )


def _scores_note(summary: AuditSummary) -> str:
    score = summary.info["aligner"].get("score")
    return "Over all utterances." + (f" Alignment score: {score}." if score else "")


def _interleaving_note(summary: AuditSummary) -> str:
    draws = summary.draws
    policy = summary.info["recipe"].get("sequence", {}).get("policy", {}).get("name", "spiritlm")
    return (
        f"One draw of the policy {policy} from each of {draws.documents:,} documents "
        f"({draws.records:,} records), seed {summary.seed}."
    )


def _examples(examples: tuple[Example, ...], prefix: str) -> str:
    return legend() + cards(examples, prefix)


def _provenance(summary: AuditSummary) -> str:
    return _card(f"<h3>Counts that must agree</h3>{sections.checks(summary)}") + _card(sections.recipe(summary))


def _footer(summary: AuditSummary) -> str:
    return (
        f"<footer><p>Made by <code>interloom audit</code> with seed {summary.seed}. "
        "This page is complete: it loads nothing from the network.</p></footer>"
    )


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
