"""Numbers as text for people: percent, durations, sizes, counts."""

from __future__ import annotations

import math


def percent(value: float | None) -> str:
    """An accuracy in percent, one decimal.

    >>> percent(0.4233), percent(None)
    ('42.3', '–')
    """
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def duration(seconds: float) -> str:
    """Seconds as text.

    >>> duration(0.4), duration(75), duration(7384)
    ('0.4 s', '1 min 15 s', '2 h 03 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def size(count: float) -> str:
    """Bytes in decimal units.

    >>> size(999), size(1_234_567)
    ('999 B', '1.2 MB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def plural(count: int, noun: str, several: str | None = None) -> str:
    """A count and its noun.

    >>> plural(1, "round"), plural(2000, "class", "classes")
    ('1 round', '2,000 classes')
    """
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def compact(value: float) -> str:
    """A number in a few characters.

    >>> compact(900), compact(5000), compact(1_500_000)
    ('900', '5k', '1.5M')
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.4g}"


def signed(value: float, places: int) -> str:
    """A number with a typographic minus, and never a negative zero.

    >>> signed(-0.1111, 2), signed(-1e-9, 2)
    ('−0.11', '0.00')
    """
    return f"{round(value, places) + 0.0:,.{places}f}".replace("-", "−")
