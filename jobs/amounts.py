"""Amounts as a person says them."""

import math


def duration(seconds: float) -> str:
    """Return a length of time as a person says it: two units at most."""
    whole = round(seconds)
    for size, big, small, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // part} {small}"
    return f"{whole} s"


def size(count: float) -> str:
    """Return a number of bytes in the largest unit that leaves at least one of it; a kB has 1,000 bytes."""
    units = ("bytes", "kB", "MB", "GB", "TB", "PB")
    power = min(len(units) - 1, int(math.log10(max(1.0, count)) / 3))
    return f"{count / 1000**power:,.2f} {units[power]}"
