"""Utterances of the report: player, figure, transcript, scores and one interleaved draw each."""

import base64
from collections.abc import Sequence
from html import escape

from pipeline.audit.figure import utterance_svg, word_title
from pipeline.audit.summary import DrawnExample, Example
from schemas.clock import seconds_from_samples
from schemas.unit_record import UnitRecord

MAX_AUDIO_BYTES = 4_000_000
"""A longer clip is not embedded: twenty of them would make a page that no browser likes to open."""


def card(example: Example, key: str) -> str:
    """Return a card; `key` is unique on the page."""
    record = example.record
    return "".join(
        [
            f'<article class="card example" id="{escape(key)}">',
            _head(record, example.why),
            f'<div class="scroll">{utterance_svg(record, modalities(example.drawn, len(record.words)))}</div>',
            _player(record),
            _transcript(record),
            _interleaved(example.drawn, key),
            "</article>",
        ]
    )


def modalities(drawn: DrawnExample, num_words: int) -> list[str]:
    """Return the modality of each word, or nothing where the draw does not cover the words."""
    found = [span.modality for span in drawn.spans for _ in range(span.words)]
    return found if len(found) == num_words else []


def _head(record: UnitRecord, why: str) -> str:
    meta = record.meta
    worst = min((word.score for word in record.words if word.score is not None), default=None)
    facts = [
        ("speaker", meta["speaker"]),
        ("source", meta["source"]),
        ("license", meta["license"]),
        ("length", f"{seconds_from_samples(record.num_samples):.2f} s"),
        ("words", f"{len(record.words):,}"),
        ("score", _score(meta["score_all"])),
        ("worst word", _score(worst)),
        ("doubtful", f"{len(record.doubtful):,}"),
    ]
    items = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value)) or '&ndash;'}</dd></div>" for name, value in facts
    )  # fmt: skip
    return (
        f'<header><h3><code>{escape(str(meta["id"]))}</code></h3><span class="badge">{escape(why)}</span></header>'
        f'<dl class="facts">{items}</dl>'
    )


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _player(record: UnitRecord) -> str:
    if record.flac is None:
        return '<p class="none">This record holds no audio: the recipe said <code>store.audio: false</code>.</p>'
    if len(record.flac) > MAX_AUDIO_BYTES:
        return f'<p class="none">{len(record.flac) / 1e6:.1f} MB of audio, too much to embed here.</p>'
    data = base64.b64encode(record.flac).decode("ascii")
    return f'<audio controls preload="auto" src="data:audio/flac;base64,{data}"></audio>'


def _transcript(record: UnitRecord) -> str:
    doubtful, words = set(record.doubtful), []
    for index, word in enumerate(record.words):
        kinds = ["w"] + ["doubt"] * (index in doubtful) + ["untimed"] * (word.start is None)
        start = "" if word.start is None else f' data-start="{seconds_from_samples(word.start):.4f}"'
        title = escape(word_title(word, index in doubtful))
        words.append(
            f'<span class="{" ".join(kinds)}" data-word="{index}"{start} title="{title}">{escape(word.text)}</span>'
        )
    return f'<p class="transcript">{" ".join(words)}</p>'


def _interleaved(drawn: DrawnExample, key: str) -> str:
    if not drawn.spans:
        return '<p class="none">No interleaving: the record has no words.</p>'
    toggle = f"{escape(key)}-units"
    tokens = sum(span.tokens for span in drawn.spans)
    parts = []
    for span in drawn.spans:
        body = f'<span class="units" title="{span.tokens:,} tokens">{escape(span.content)}</span>'
        if span.modality == "text":
            body = escape(span.content)
        parts.append(
            f'<span class="span {escape(span.modality)}"><b>[{escape(span.modality.title())}]</b>{body}</span>'
        )
    spans = f"{len(drawn.spans)} span{'s' * (len(drawn.spans) > 1)}"
    has_speech = any(span.modality == "speech" for span in drawn.spans)
    box, switch = (
        (f'<input type="checkbox" id="{toggle}">', f'<label for="{toggle}"></label>') if has_speech else ("", "")
    )
    return (
        f'<div class="inter">{box}<p class="label">One interleaved draw of this utterance alone: '
        f"{spans}, {tokens:,} tokens {switch}</p>"
        f'<p class="string">{"".join(parts)}</p></div>'
    )


def legend() -> str:
    return (
        '<p class="legend"><span class="text">drawn as text</span><span class="speech">drawn as speech</span>'
        '<span class="doubt">doubtful word, never next to a switch</span>'
        '<span class="untimed">word without a time</span></p>'
    )


def cards(examples: Sequence[Example], prefix: str) -> str:
    return "".join(card(example, f"{prefix}-{index}") for index, example in enumerate(examples, 1))
