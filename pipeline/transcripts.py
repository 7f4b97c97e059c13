"""The transcript sink: what a transcribed recording becomes, as rows of a manifest, and what was left out of it."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.job import Outcome
from schemas.canonical import canonical_json
from schemas.clock import SAMPLE_RATE, Samples, seconds_from_samples
from schemas.records import Utterance
from schemas.rejects import Reject
from schemas.transcripts import Segment, Transcribed
from schemas.urls import public_url
from stages.transcribe_whisperx import language_code

KINDS = ("rows", "rejects", "dropped")
"""The sink's files: manifest rows, rows that gave none, segments that a guard dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptSinkConfig:
    """Nothing to configure; `version` is raised when the same outcomes would give other rows."""

    version: int = 1

    def setup(self) -> "TranscriptSink":
        return TranscriptSink()


class TranscriptSink:
    """Writes `rows-N.jsonl`, `rejects-N.jsonl` and `dropped-N.jsonl`, a line per segment, row and segment."""

    def write(self, split: int, outcomes: Iterable[Outcome], folder: Path) -> dict[str, Any]:
        lines: dict[str, list[str]] = {kind: [] for kind in KINDS}
        reasons: Counter[str] = Counter()
        drops: Counter[str] = Counter()
        languages: Counter[str] = Counter()
        records = samples = 0
        for outcome in outcomes:
            if isinstance(outcome, Reject):
                reasons[outcome.reason.value] += 1
                lines["rejects"].append(canonical_json(outcome.to_json()))
                continue
            records += 1
            languages[outcome.language] += len(outcome.segments)
            drops.update(item.reason.value for item in outcome.dropped)
            samples += sum(item.end - item.start for item in outcome.segments)
            lines["rows"] += [canonical_json(row) for row in segment_rows(outcome)]
            lines["dropped"] += [canonical_json(row) for row in _dropped_rows(outcome)]
        for kind, found in lines.items():
            text = "".join(line + "\n" for line in found)
            (folder / f"{kind}-{split:06d}.jsonl").write_text(text, encoding="utf-8")
        return {
            "dropped": dict(sorted(drops.items())),
            "inputs": records + sum(reasons.values()),
            "languages": dict(sorted(languages.items())),
            "reasons": dict(sorted(reasons.items())),
            "records": records,
            "rejects": sum(reasons.values()),
            "segment_samples": samples,
            "segments": len(lines["rows"]),
        }


def segment_rows(found: Transcribed) -> list[dict[str, Any]]:
    """Return a manifest row for each segment: an utterance of the row's recording, with the row's fields."""
    row = found.utterance
    language = row.language if row.language and language_code(row.language) == found.language else found.language
    return [
        {
            **manifest_row(replace(row, language=language, text=segment.text, **_window(row, segment))),
            "id": f"{row.id}-{_milliseconds(row.offset + segment.start):08d}",
            "average_logprob": round(segment.logprob, 4),
            "no_speech": round(segment.no_speech, 4),
            "transcribed_from": row.id,
        }
        for segment in found.segments
    ]


def _window(row: Utterance, segment: Segment) -> dict[str, Any]:
    return {"offset": Samples(row.offset + segment.start), "length": Samples(segment.end - segment.start)}


def _milliseconds(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE


def manifest_row(row: Utterance) -> dict[str, Any]:
    """Return an utterance as a manifest row that reads back as the same utterance."""
    fields: dict[str, Any] = {"audio_filepath": row.audio, "id": row.id, "text": row.text, "recording": row.recording}
    if row.offset:
        fields["offset"] = seconds_from_samples(row.offset)
    if row.length is not None:
        fields["duration"] = seconds_from_samples(row.length)
    if row.channel is not None:
        fields["channel"] = row.channel
    named = {name: getattr(row, name) for name in ("speaker", "language", "license", "source")}
    return fields | {name: value for name, value in named.items() if value}


def _dropped_rows(found: Transcribed) -> Iterator[dict[str, Any]]:
    for start, end, reason in found.dropped:
        window = {
            "offset": seconds_from_samples(found.utterance.offset + start),
            "duration": seconds_from_samples(end - start),
        }
        audio = public_url(found.utterance.audio)
        yield {"id": found.utterance.id, "audio_filepath": audio, "reason": reason.value, **window}
