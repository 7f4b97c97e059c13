"""What comes from data reaches a terminal as text: no control sequences, no markup, nothing that reorders a line."""

import sys
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

REPLACEMENT = "\ufffd"
_KEPT = {"\n", "\t"}
# Controls (C0, DEL, C1), line separators, and what sets or isolates a direction; other marks belong to scripts.
_UNSAFE = {
    *range(0x20),
    *range(0x7F, 0xA0),
    0x061C,
    *(0x200E, 0x200F, 0x2028, 0x2029),
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
    *range(0xD800, 0xE000),
    0xFEFF,
} - set(map(ord, _KEPT))  # fmt: skip
_TABLE = dict.fromkeys(_UNSAFE, REPLACEMENT)


def safe(text: str) -> str:
    """Return text in which nothing but newlines and tabs acts on a terminal."""
    return text.translate(_TABLE)


def one_safe_line(text: str) -> str:
    """Return text as one line that is safe to print: what an error says."""
    return safe(" ".join(text.split()))


class _Safe:
    """What something renders as, its texts made safe; the styles, which are ours, stay."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._renderable, options):
            yield segment if segment.control else Segment(safe(segment.text), segment.style)


class _Hook(RenderHook):
    """Makes safe whatever is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Safe(each) for each in renderables]


def safe_console(**options: Any) -> Console:
    """Return a console on which nothing printed acts: markup is off, control characters are replaced."""
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, **options)
    console.push_render_hook(_Hook())
    return console
