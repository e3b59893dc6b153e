"""Numbers as people read them: three digits, and a unit."""

from __future__ import annotations

import math

TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def time_unit(smallest: float) -> tuple[float, str]:
    """The unit in which the smallest of some times still reads well: (its seconds, its name)."""
    for seconds, name in TIMES:
        if smallest >= 0.1 * seconds:
            return seconds, name
    return TIMES[1]


def time(seconds: float) -> str:
    """`1.23 s`, `45.6 ms`."""
    if seconds == 0.0:
        return "0 s"
    unit, name = next(((unit, name) for unit, name in TIMES if seconds >= 0.9995 * unit), TIMES[-1])
    return f"{digits(seconds / unit)} {name}"


def digits(value: float, significant: int = 3) -> str:
    """So many significant digits, and all those before the point."""
    if math.isnan(value):
        return "-"
    if value == 0.0:
        return "0"
    places = significant - 1 - math.floor(math.log10(abs(value)) + 1e-3)
    return f"{value:,.{min(max(places, 0), 6)}f}"


def percent(share: float) -> str:
    """`12.3 %`."""
    return f"{100 * share:.1f} %"


def count(value: float) -> str:
    """`1,234`, `12.3 k`, `4.56 M`."""
    for size, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{digits(value / (1e3 if name == 'k' else size))} {name}"
    return f"{value:,.0f}"
