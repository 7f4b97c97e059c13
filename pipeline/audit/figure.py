"""An utterance as inline SVG: waveform, words, F0, time axis, and the cursor that the page's script moves."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
import soundfile

from schemas.clock import SAMPLE_RATE
from schemas.records import Word
from schemas.unit_record import UnitRecord

LEFT, RIGHT = 46.0, 14.0
LABEL_TOP, LABEL_ROW, LABEL_ROWS = 16.0, 16.0, 3
WAVE_TOP, WAVE_HEIGHT = 58.0, 84.0
PITCH_TOP, PITCH_HEIGHT = 154.0, 74.0
AXIS_TOP = 240.0
HEIGHT = 264.0

CHARACTER = 6.9
"""Width of a label's character in px at 11 px, on the generous side."""

F0_HOP = 160
F0_RANGE = (50.0, 500.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Time to px. `width` is the figure's, `per_second` the px of one second."""

    seconds: float
    per_second: float

    @property
    def width(self) -> float:
        return LEFT + RIGHT + self.seconds * self.per_second

    def x(self, sample: float) -> float:
        return LEFT + sample / SAMPLE_RATE * self.per_second


def scale_for(num_samples: int) -> Scale:
    """Fill about a page's width, but never squeeze a second below 120 px: long clips scroll."""
    seconds = max(num_samples / SAMPLE_RATE, 0.1)
    return Scale(seconds=seconds, per_second=min(400.0, max(120.0, (1100 - LEFT - RIGHT) / seconds)))


def utterance_svg(record: UnitRecord, modalities: Sequence[str]) -> str:
    """Return the figure of a record; `modalities` names the modality of each word, or is empty."""
    scale = scale_for(record.num_samples)
    words, rows = _words(record, modalities, scale)
    top = (LABEL_ROWS - rows) * LABEL_ROW
    width, height = f"{scale.width:.0f}", f"{HEIGHT - top:.0f}"
    parts = [
        f'<svg class="utterance" role="img" aria-label="Waveform, words and F0 of {escape(record.key)}" '
        f'width="{width}" height="{height}" viewBox="0 {top:.0f} {width} {height}" '
        f'data-left="{LEFT:g}" data-per-second="{scale.per_second:.3f}" data-seconds="{scale.seconds:.4f}">',
        *_frames(scale),
        *words,
        _wave(record.flac, scale),
        *_pitch(record.f0, int(record.meta.get("f0_hop") or F0_HOP), scale),
        *_axis(scale),
        f'<line class="cursor" x1="{LEFT:g}" x2="{LEFT:g}" y1="4" y2="{AXIS_TOP:g}"/>',
        "</svg>",
    ]
    return "".join(parts)


def _frames(scale: Scale) -> list[str]:
    right = scale.width - RIGHT
    middle = WAVE_TOP + WAVE_HEIGHT / 2
    return [
        f'<rect class="lane" x="{LEFT:g}" y="{WAVE_TOP:g}" width="{right - LEFT:.1f}" height="{WAVE_HEIGHT:g}"/>',
        f'<rect class="lane" x="{LEFT:g}" y="{PITCH_TOP:g}" width="{right - LEFT:.1f}" height="{PITCH_HEIGHT:g}"/>',
        f'<line class="zero" x1="{LEFT:g}" x2="{right:.1f}" y1="{middle:g}" y2="{middle:g}"/>',
    ]


def _words(record: UnitRecord, modalities: Sequence[str], scale: Scale) -> tuple[list[str], int]:
    """Return a box per timed word over both lanes with its label in the first row where it fits; and the rows used."""
    parts, row_ends = [], [0.0] * LABEL_ROWS
    for index, word in enumerate(record.words):
        if word.start is None or word.end is None:
            continue
        left, right = scale.x(word.start), scale.x(word.end)
        label = word.text if len(word.text) <= 18 else word.text[:17] + "…"
        half = len(label) * CHARACTER / 2
        centre = min(max((left + right) / 2, LEFT + half), scale.width - half)
        row = next((r for r in range(LABEL_ROWS) if row_ends[r] <= centre - half), None)
        if row is None:
            row = min(range(LABEL_ROWS), key=row_ends.__getitem__)
        row_ends[row] = centre + half + 5
        modality = modalities[index] if index < len(modalities) else ""
        classes = " ".join(filter(None, ("word", modality, "doubt" if index in record.doubtful else "")))
        baseline = LABEL_TOP + (LABEL_ROWS - 1 - row) * LABEL_ROW
        parts.append(
            f'<g class="{escape(classes)}" data-word="{index}" data-start="{word.start / SAMPLE_RATE:.4f}" '
            f'data-end="{word.end / SAMPLE_RATE:.4f}">'
            f"<title>{escape(word_title(word, index in record.doubtful))}</title>"
            f'<rect x="{left:.1f}" y="{WAVE_TOP:g}" width="{right - left:.1f}" '
            f'height="{PITCH_TOP + PITCH_HEIGHT - WAVE_TOP:g}"/>'
            f'<line x1="{centre:.1f}" x2="{centre:.1f}" y1="{baseline + 4:g}" y2="{WAVE_TOP:g}"/>'
            f'<text x="{centre:.1f}" y="{baseline:g}">{escape(label)}</text></g>'
        )
    return parts, sum(end > 0 for end in row_ends)


def word_title(word: Word, doubtful: bool) -> str:
    """Return what the pointer shows on a word: its text, times and score."""
    where = "no time" if word.start is None else f"{word.start / SAMPLE_RATE:.2f} to {word.end / SAMPLE_RATE:.2f} s"  # type: ignore[operator]
    score = "no score" if word.score is None else f"score {word.score:.2f} nats per frame"
    return f"{word.text}: {where}, {score}" + (", doubtful: carries no switch" if doubtful else "")


def decode(flac: bytes) -> npt.NDArray[np.float32] | None:
    """Return mono samples in [-1, 1], or None where the bytes are no readable audio."""
    try:
        wave, _ = soundfile.read(io.BytesIO(flac), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        return None
    return np.asarray(wave[:, 0], dtype=np.float32)


def _wave(flac: bytes | None, scale: Scale) -> str:
    wave = decode(flac) if flac is not None else None
    middle = WAVE_TOP + WAVE_HEIGHT / 2
    if wave is None or not len(wave):
        note = "no audio in this record" if flac is None else "the audio of this record cannot be decoded"
        return f'<text class="note" x="{LEFT + 10:g}" y="{middle - 4:g}">{note}</text>'
    bins = max(1, min(len(wave), int(scale.seconds * scale.per_second / 1.5)))
    starts = (np.arange(bins) * len(wave)) // bins
    # The loudest sample fills the lane: what matters here is where sound is, not how loud the clip is.
    gain = (WAVE_HEIGHT / 2 - 3) / max(float(np.abs(wave).max()), 1e-4)
    upper, lower = np.maximum.reduceat(wave, starts) * gain, np.minimum.reduceat(wave, starts) * gain
    x = LEFT + (starts + len(wave) / bins / 2) / SAMPLE_RATE * scale.per_second
    points = [f"{a:.1f} {middle - b:.1f}" for a, b in zip(x, upper, strict=True)]
    points += [f"{a:.1f} {middle - b:.1f}" for a, b in zip(x[::-1], lower[::-1], strict=True)]
    return f'<path class="wave" d="M{"L".join(points)}Z"/>'


def _height_of(hz: float) -> float:
    low, high = F0_RANGE
    share = math.log(min(max(hz, low), high) / low) / math.log(high / low)
    return PITCH_TOP + PITCH_HEIGHT * (1 - share)


def _pitch(f0: npt.NDArray[np.float32] | None, hop: int, scale: Scale) -> list[str]:
    """Return the F0 curve on a logarithmic axis, one point per 20 ms, one stroke per voiced stretch."""
    parts = []
    for tick in (100, 200, 400):
        y = _height_of(tick)
        parts.append(f'<line class="grid" x1="{LEFT:g}" x2="{scale.width - RIGHT:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick side" x="{LEFT - 6:g}" y="{y + 3.5:.1f}">{tick} Hz</text>')
    if f0 is None:
        middle = PITCH_TOP + PITCH_HEIGHT / 2
        return [*parts, f'<text class="note" x="{LEFT + 10:g}" y="{middle - 4:g}">no F0 in this record</text>']
    strokes: list[str] = []
    before = False
    for index in range(0, len(f0), max(1, 2 * F0_HOP // hop)):
        hz = float(f0[index])
        if voiced := hz > 0:
            x, y = scale.x(index * hop), _height_of(hz)
            # The short dash lets a lone voiced frame be seen.
            strokes.append(f"L{x:.1f} {y:.1f}" if before else f"M{x:.1f} {y:.1f}h.1")
        before = voiced
    return [*parts, f'<path class="pitch" d="{"".join(strokes)}"/>']


def _axis(scale: Scale) -> list[str]:
    step = 0.5 if scale.per_second >= 160 else 1.0
    parts = []
    for index in range(int(scale.seconds / step) + 1):
        x = LEFT + index * step * scale.per_second
        parts.append(f'<line class="ticks" x1="{x:.1f}" x2="{x:.1f}" y1="{AXIS_TOP - 12:g}" y2="{AXIS_TOP - 7:g}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{AXIS_TOP + 8:g}">{index * step:g} s</text>')
    return parts
