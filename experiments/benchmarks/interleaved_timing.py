"""Interleaved timing: medians, spread, and ratios taken sample by sample."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Case:
    """Something that is measured.

    Attributes
    ----------
    call : does the work once. May return its wall seconds itself, if only a part of what it does
        counts.
    amount : units of work in a call; figures are seconds per unit.
    cpu : whether this process does the work, so that its processor time means something.
    """

    name: str
    call: Callable[[], float | None]
    amount: float = 1.0
    cpu: bool = True


@dataclass(frozen=True)
class Ratio:
    """The ratio of two cases' seconds; it should be at most `limit`, or at least that if `floor`."""

    over: str
    under: str
    limit: float | None = None
    floor: bool = False

    @property
    def name(self) -> str:
        """The names of both cases."""
        return f"{self.over} / {self.under}"


@dataclass(frozen=True)
class Group:
    """Cases of one kind of work, in one unit, and the ratios that matter."""

    name: str
    unit: str
    cases: tuple[Case, ...]
    ratios: tuple[Ratio, ...] = ()
    repeats: int = 5


def run_group(group: Group, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure a group: each case once unmeasured, then all in turn, `repeats` times."""
    wall: dict[str, list[float]] = {case.name: [] for case in group.cases}
    cpu: dict[str, list[float]] = {case.name: [] for case in group.cases}
    for case in group.cases:
        say(f"{group.name}: {case.name}, warming up")
        case.call()
    for number in range(1, group.repeats + 1):
        for case in group.cases:
            say(f"{group.name}: {case.name}, {number} of {group.repeats}")
            began, worked = time.perf_counter(), time.process_time()
            own = case.call()
            worked = time.process_time() - worked
            seconds = time.perf_counter() - began if own is None else own
            wall[case.name].append(seconds / case.amount)
            if case.cpu and own is None:
                cpu[case.name].append(worked / case.amount)
    return {
        "unit": group.unit,
        "repeats": group.repeats,
        "cases": {name: _spread(wall[name]) | _cpu(cpu[name]) for name in wall},
        "ratios": {r.name: _ratio(r, wall, cpu) for r in group.ratios},
    }


def _ratio(
    ratio: Ratio, wall: dict[str, list[float]], cpu: dict[str, list[float]]
) -> dict[str, Any]:
    figures = _spread(_quotients(wall[ratio.over], wall[ratio.under]))
    if cpu[ratio.over] and cpu[ratio.under]:
        figures |= _cpu(_quotients(cpu[ratio.over], cpu[ratio.under]))
    if ratio.limit is not None:
        met = figures["median"] >= ratio.limit if ratio.floor else figures["median"] <= ratio.limit
        figures |= {"wanted": f"{'>=' if ratio.floor else '<='} {ratio.limit:g}", "met": met}
    return figures


def _quotients(over: Sequence[float], under: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(over, under, strict=True)]


def _spread(values: Sequence[float]) -> dict[str, Any]:
    low, high = quartiles(values)
    return {"median": statistics.median(values), "low": low, "high": high, "least": min(values)}


def _cpu(values: Sequence[float]) -> dict[str, Any]:
    return {"cpu": statistics.median(values)} if values else {}


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile, interpolated between values."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third
