"""The look of series on the page: colours of both themes, dashes, marks and legend entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

TONES: dict[str, tuple[str, str]] = {
    "card": ("#ffffff", "#1c1e21"),
    "ink": ("#1d2125", "#e9e9e6"),
    "soft": ("#565d64", "#a6abb0"),
    "grid": ("#e4e4e0", "#303439"),
    "edge": ("#b9bdbf", "#545a60"),
    "blue": ("#0068ad", "#58aeea"),
    "orange": ("#c24e00", "#f08c4a"),
    "green": ("#007f5f", "#35bd94"),
    "purple": ("#9a4a86", "#d68cc4"),
    "gold": ("#946800", "#dcb03f"),
    "sky": ("#2a7f9e", "#7fcfe8"),
    "red": ("#b0243b", "#f27b8a"),
    "grey": ("#666d73", "#a0a6ab"),
}
"""Colours of the page by name, in the light and in the dark theme."""

_DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 3)),
    (0, (2, 3)),
    (0, (8, 3, 2, 3)),
    (0, (1, 2)),
    (0, (10, 4)),
    (0, (4, 2)),
    (0, (6, 2, 1, 2)),
)
_MARKS = ("o", "s", "^", "D")


@dataclass(frozen=True)
class Style:
    """The look of one series.

    Attributes
    ----------
    tone : a colour, by its name in `TONES`.
    shape : numbers its dash and its mark, since colour alone must not tell series apart.
    hollow : whether marks are drawn as outlines.
    """

    tone: str
    shape: int = 0
    hollow: bool = False

    @property
    def dash(self) -> str | None:
        """The dash pattern as SVG writes it; None for a solid line."""
        pattern = _DASHES[self.shape % len(_DASHES)]
        return None if pattern == "-" else " ".join(map(str, pattern[1]))

    @property
    def mark(self) -> str:
        """The mark: ``o``, ``s``, ``^`` or ``D``."""
        return _MARKS[self.shape % len(_MARKS)]

    def line(self) -> dict[str, Any]:
        """matplotlib's arguments for a line of this style."""
        return {"color": TONES[self.tone][0], "linestyle": _DASHES[self.shape % len(_DASHES)]}

    def marks(self, size: float = 7.0) -> dict[str, Any]:
        """matplotlib's arguments for marks of this style without a line; `size` is in points."""
        face, edge = ("card", self.tone) if self.hollow else (self.tone, "card")
        return {
            "linestyle": "none",
            "marker": self.mark,
            "markersize": size,
            "markerfacecolor": TONES[face][0],
            "markeredgecolor": TONES[edge][0],
            "markeredgewidth": 1.3 if self.hollow else 0.6,
        }


@dataclass(frozen=True)
class Key:
    """An entry of a legend."""

    style: Style
    kind: Literal["line", "mark", "bar"]
    text: str
