"""The range of an axis, and its ticks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from matplotlib.ticker import FuncFormatter

from fedloge.results.number_words import compact, signed

T = TypeVar("T")


def percent_limits(values: Iterable[float]) -> tuple[float, float]:
    """The range of an axis of accuracies in percent: multiples of 10, and at least 30 points wide.

    >>> percent_limits([3, 26]), percent_limits([84, 87]), percent_limits([55, 76])
    ((0, 30), (70, 100), (50, 80))
    """
    known = list(values)
    low, high = 10 * int(min(known) // 10), min(100, 10 * int(-(-max(known) // 10)))
    if low < 30:
        low = 0
    while high - low < 30:
        high = min(100, high + 10)
        if high - low < 30:
            low = max(0, low - 10)
    return low, high


def count_ticks(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis of counts.

    >>> count_ticks(8, 130)
    [10, 20, 50, 100]
    """
    steps = (1, 2, 5) if high / low < 200 else (1,)
    return [s * 10**p for p in range(12) for s in steps if low <= s * 10**p <= high]


def thin(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    gap = (len(items) - 1) / (most - 1)
    return [items[round(i * gap)] for i in range(most)]


def number_format(ticks: Sequence[float]) -> FuncFormatter:
    """A format for all ticks of an axis, with as many decimals as their distance needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    places = next((n for n in range(6) if abs(step * 10**n - round(step * 10**n)) < 1e-6), 6)
    return FuncFormatter(lambda v, _: compact(v) if abs(v) >= 10_000 else signed(v, places))
