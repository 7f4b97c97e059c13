"""The report's charts as plotly figures. Labels that come from data are escaped: plotly reads tags in them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from pipeline.audit.summary import AuditSummary, Draws, Histogram, Rejects, SpeakerPitch, UnitUsage

INK, MUTED, LINE = "#1d2733", "#647182", "#e4e7ec"
TEXT, SPEECH, NEUTRAL, WARN = "#4656a8", "#0e8074", "#7a8aa0", "#b4540a"
FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"
SCALE = [[0.0, "#f4f7f7"], [0.25, "#c3deda"], [0.6, "#4da79d"], [1.0, "#0b5e55"]]

MAX_SPEAKERS = 24
SHARE_BINS = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart of the report: `key` is its element's id, `note` one sentence under its title, `figure` plotly's JSON."""

    key: str
    title: str
    note: str
    figure: Mapping[str, Any]
    wide: bool = False


def label(value: str, limit: int = 22) -> str:
    """Return a value from the data as a plotly label: shortened, and shown literally."""
    value = "".join(c if c.isprintable() else "\ufffd" for c in value) or "(not given)"
    # Quotes stay as they are: plotly decodes the entities of brackets, but not those of quotes.
    return escape(value if len(value) <= limit else value[: limit - 1] + "…", quote=False)


def _figure(traces: Sequence[Any], *, x: str, y: str, height: int = 300, **layout: Any) -> Mapping[str, Any]:
    axis = {"gridcolor": LINE, "linecolor": "#c9d0d9", "zeroline": False, "ticks": "outside", "tickcolor": "#c9d0d9"}
    axis |= {"automargin": True, "title": {"standoff": 10}}
    figure = go.Figure(data=list(traces))
    figure.update_layout(
        template=go.layout.Template(),
        font={"family": FONT, "size": 12, "color": MUTED},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        height=height,
        margin={"l": 54, "r": 24, "t": 22, "b": 46},
        bargap=0.06,
        hoverlabel={"bgcolor": "#ffffff", "bordercolor": "#c9d0d9", "font": {"family": FONT, "color": INK}},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.16, "bgcolor": "rgba(0,0,0,0)"},
        showlegend=False,
    )
    figure.update_xaxes(**axis, title_text=x, showgrid=False)
    figure.update_yaxes(**axis, title_text=y)
    figure.update_layout(**layout)
    value: dict[str, Any] = json.loads(figure.to_json())
    return value


def _bars(edges: Sequence[float], counts: Sequence[int], colour: str, unit: str, **rest: Any) -> Any:
    centres = [(a + b) / 2 for a, b in pairwise(edges)]
    ranges = [f"{_number(a, unit)} to {_number(b, unit)} {unit}" for a, b in pairwise(edges)]
    hover = "%{customdata}<br>%{y:,} %{meta}<extra></extra>"
    widths = [b - a for a, b in pairwise(edges)]
    style = {"color": colour, "line": {"color": "#ffffff", "width": 0.6}}
    values = {"meta": "utterances", "customdata": ranges, "hovertemplate": hover, **rest}
    return go.Bar(x=centres, y=list(counts), width=widths, marker=style, **values)


def _marker(at: float, text: str) -> dict[str, Any]:
    """Return a dashed vertical line with a word of explanation."""
    return {
        "shapes": [
            {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": WARN, "width": 1.4, "dash": "dash"}}
        ],
        "annotations": [
            {"x": at, "yref": "paper", "y": 1, "text": text, "showarrow": False, "xanchor": "auto"}
            | {"yanchor": "bottom", "font": {"color": WARN, "size": 11}}
        ],
    }


def _histogram(key: str, title: str, shape: Histogram, unit: str, axis: str, line: tuple[float, str] | None) -> Chart:
    if not shape.total:
        note = "no values"
    else:
        low, _, middle, _, high = (_number(value, unit) for value in shape.quantiles)
        note = f"Median {middle} {unit}; nine in ten between {low} and {high} {unit}.".replace(" %", "%")
        note += f" {shape.clamped:,} beyond the axis are in the end bars." if shape.clamped else ""
    reach = (shape.edges[0], shape.edges[-1])
    # A threshold far from all data would squeeze the data; it is then left to the note.
    margin = (reach[1] - reach[0]) * 0.6
    extra = _marker(*line) if line and reach[0] - margin <= line[0] <= reach[1] + margin else {}
    if line and not extra:
        note += f" The {line[1]} ({_number(line[0], unit)}) lies off the axis."
    if unit == "%":
        extra["xaxis_tickformat"] = ".0%"
    trace = _bars(shape.edges, shape.counts, NEUTRAL, unit)
    figure = _figure([trace], x=axis, y="utterances", yaxis=_whole(shape.counts), **extra)
    return Chart(key=key, title=title, note=note, figure=figure)


def _number(value: float, unit: str) -> str:
    """Return three digits with a true minus sign, shares in percent."""
    text = f"{100 * value:.1f}" if unit == "%" else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return text.replace("-", "\N{MINUS SIGN}")


def _whole(counts: Sequence[int]) -> dict[str, Any]:
    """Return an axis for counts: no ticks between whole numbers."""
    return {"tickformat": ",d", "rangemode": "tozero"} | ({"dtick": 1} if max(counts, default=0) <= 6 else {})


def distributions(summary: AuditSummary) -> list[Chart]:
    found, limits = summary.histograms, summary.thresholds
    mean_line = (limits["min_score_all"], "rejection threshold")
    word_line = (limits["doubtful_score"], "doubtful below")
    nats = "nats/frame"
    return [
        _histogram("duration", "Duration", found["duration"], "s", "length of the utterance (s)", None),
        _histogram("rate", "Speaking rate", found["rate"], "words/s", "words per second of audio", None),
        _histogram("score-all", "Alignment score, whole utterance", found["score_all"], nats,
                   "mean log-likelihood (nats per frame)", mean_line),
        _histogram("score-worst", "Alignment score, worst word", found["score_worst"], nats,
                   "lowest word score (nats per frame)", word_line),
        _histogram("speech-time", "Share of the clip inside words", found["speech"], "%", "share of the samples", None),
        _histogram("voiced", "Voiced share", found["voiced"], "%", "share of the F0 frames that are voiced", None),
    ]  # fmt: skip


def _span_chart(modality: str, draws: Draws, colour: str) -> Chart:
    bounds = draws.bounds.get(modality)
    inner, last = draws.lengths[modality], draws.final[modality]
    longest = max([1, *(bounds or ()), *inner, *last])
    words = list(range(1, longest + 1))
    hover = "%{x} words<br>%{y:,} spans<extra>%{fullData.name}</extra>"
    traces = [
        go.Bar(x=words, y=[inner.get(n, 0) for n in words], name="inside a document", marker_color=colour),
        go.Bar(x=words, y=[last.get(n, 0) for n in words], name="ends a document", marker_color="#c5ccd6"),
    ]
    for trace in traces:
        trace.hovertemplate = hover
    shapes, note = [], "The policy sets no bounds."
    if bounds is not None:
        low, high = bounds
        band = {"type": "rect", "x0": low - 0.5, "x1": high + 0.5, "yref": "paper", "y0": 0, "y1": 1}
        shapes.append(band | {"fillcolor": colour, "opacity": 0.08, "line": {"width": 0}, "layer": "below"})
        kept = f"{draws.within_bounds(modality):.1%} of {sum(inner.values()):,} spans inside documents keep to it"
        note = f"The policy asks for {low} to {high} words (shaded). {kept}; a document's last span takes what is left."
    figure = _figure(
        traces,
        x="words in the span",
        y="spans",
        barmode="stack",
        showlegend=True,
        shapes=shapes,
        yaxis=_whole([inner.get(n, 0) + last.get(n, 0) for n in words]),
        height=320,
    )
    return Chart(key=f"spans-{modality}", title=f"Length of {modality} spans", note=note, figure=figure)


def interleaving(draws: Draws) -> list[Chart]:
    charts = [_span_chart("text", draws, TEXT), _span_chart("speech", draws, SPEECH)]
    edges = [i / SHARE_BINS for i in range(SHARE_BINS + 1)]
    for key, title, shares, counts in (
        ("share-words", "Speech share of the words", draws.word_shares, draws.words),
        ("share-tokens", "Speech share of the tokens", draws.token_shares, draws.tokens),
    ):
        bins = [0] * SHARE_BINS
        for share in shares:
            bins[min(int(share * SHARE_BINS), SHARE_BINS - 1)] += 1
        total = sum(counts.values())
        realised = counts["speech"] / total if total else 0.0
        unit = key.split("-")[1]
        note = f"{realised:.1%} of all {total:,} {unit} are speech; bars count documents."
        # A little beyond 1, or plotly leaves out the last tick.
        axis = {"tickformat": ".0%", "range": [0, 1.004], "dtick": 0.25}
        figure = _figure(
            [_bars(edges, bins, SPEECH, "%", meta="documents")],
            x=f"speech share of a document's {unit}",
            y="documents",
            xaxis=axis,
            yaxis=_whole(bins),
            **(_marker(realised, "overall") if total else {}),
        )
        charts.append(Chart(key=key, title=title, note=note, figure=figure))
    return charts


def _usage_chart(usage: UnitUsage) -> Chart:
    contract = usage.contract
    ranked = sorted(range(len(usage.counts)), key=lambda i: (-usage.counts[i], i))
    total = max(1, usage.frames)
    shares = [usage.counts[i] / total for i in ranked]
    colour = {"hubert": SPEECH, "pitch": TEXT}.get(contract.stream, "#8a5a9e")
    hover = f"unit %{{customdata}}<br>%{{y:.2%}} of the frames<extra>{label(contract.stream)}</extra>"
    trace = go.Bar(x=list(range(1, len(ranked) + 1)), y=shares, customdata=ranked, hovertemplate=hover)
    trace.marker = {"color": colour, "line": {"width": 0}}
    even = 1 / contract.codebook_size
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": even, "y1": even}
    line |= {"line": {"color": MUTED, "width": 1, "dash": "dot"}}
    note = f"{usage.entropy_bits:.2f} of {usage.max_bits:.2f} bits; {usage.dead} of {contract.codebook_size} units are "
    note += "never used. Dotted: even use."
    figure = _figure([trace], x="units, most used first", y="share of frames", yaxis_tickformat=".1%", shapes=[line])
    title = f"{contract.stream} units ({contract.extractor})"
    return Chart(key=f"usage-{contract.stream}", title=title, note=note, figure=figure)


def units(summary: AuditSummary) -> list[Chart]:
    return [_usage_chart(usage) for usage in summary.units]


def _pitch_chart(speakers: Sequence[SpeakerPitch]) -> Chart:
    names = [label(s.speaker) for s in speakers]
    columns = list(zip(*(s.quantiles for s in speakers), strict=True)) or [()] * 5
    low, q1, middle, q3, high = (list(c) for c in columns)
    rows = list(range(len(names)))
    trace = go.Box(y=rows, lowerfence=low, q1=q1, median=middle, q3=q3, upperfence=high, orientation="h")
    trace.update(line={"color": TEXT, "width": 1.4}, fillcolor="rgba(70,86,168,0.16)", hoverinfo="x")
    note = "Median F0 of each utterance; boxes span the quartiles, whiskers the middle 90%."
    ticks = {"tickmode": "array", "tickvals": rows, "ticktext": names, "autorange": "reversed", "showgrid": False}
    height = max(240, 90 + 30 * len(names))
    figure = _figure([trace], x="median F0 (Hz)", y="", height=height, yaxis=ticks, xaxis_showgrid=True)
    return Chart(key="f0", title="F0 by speaker", note=note, figure=figure)


def _style_chart(draws: Draws, size: int) -> Chart:
    ordered = sorted(draws.style, key=lambda s: (-sum(draws.style[s].values()), s))[:MAX_SPEAKERS]
    frames = {speaker: max(1, sum(draws.style[speaker].values())) for speaker in ordered}
    shares = [[draws.style[s].get(i, 0) / frames[s] for i in range(size)] for s in ordered]
    hover = "style %{x}<br>%{z:.1%} of the frames<extra></extra>"
    trace = go.Heatmap(z=shares, x=list(range(size)), y=list(range(len(ordered))), colorscale=SCALE, zmin=0)
    trace.update(xgap=2, ygap=2, hovertemplate=hover)
    trace.colorbar = {
        "thickness": 10,
        "outlinewidth": 0,
        "tickformat": ".0%",
        "title": {"text": "share", "side": "top"},
    }
    ticks: dict[str, Any] = {
        "tickmode": "array",
        "tickvals": list(range(len(ordered))),
        "ticktext": [label(s) for s in ordered],
    }
    ticks |= {"autorange": "reversed", "showgrid": False, "ticks": ""}
    used = len({i for counts in draws.style.values() for i in counts})
    note = f"Each row is a speaker; {used} of {size} styles occur in {draws.records:,} sampled records."
    height = max(240, 90 + 30 * len(ordered))
    figure = _figure([trace], x="style unit", y="", height=height, yaxis=ticks, xaxis_dtick=max(1, size // 8))
    return Chart(key="style", title="Styles by speaker", note=note, figure=figure)


def prosody(summary: AuditSummary) -> list[Chart]:
    charts = [_pitch_chart(summary.pitch)] if summary.pitch else []
    if "style" in summary.contracts and summary.draws.style:
        charts.append(_style_chart(summary.draws, summary.contracts["style"].codebook_size))
    return charts


def rejects(found: Rejects) -> list[Chart]:
    if not found.reasons:
        return []
    names = [label(reason) for reason, _ in found.reasons]
    counts = [count for _, count in found.reasons]
    hover = "%{x:,} inputs<extra></extra>"
    trace = go.Bar(x=counts, y=names, orientation="h", marker_color=WARN, width=0.62, text=counts, hovertemplate=hover)
    trace.update(textposition="outside", cliponaxis=False, texttemplate="%{text:,}")
    ticks = {"autorange": "reversed", "showgrid": False, "ticks": ""}
    height = max(150, 70 + 30 * len(names))
    figure = _figure([trace], x="inputs", y="", height=height, yaxis=ticks, xaxis=_whole(counts), xaxis_showgrid=True)
    note = f"{found.count:,} of {found.inputs:,} inputs ({found.rate:.2%}) ended without a record."
    return [Chart(key="rejects", title="Rejects by reason", note=note, figure=figure, wide=True)]
