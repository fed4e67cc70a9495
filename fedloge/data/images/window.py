"""The window by which values wider than a byte become bytes: stated, and the same for all images."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """`low` becomes 0 and `high` 255; values outside are cut off if `clip`, else they are an error."""

    low: float
    high: float
    clip: bool = False


OWN = "dicom"
"""The window that says: the one that each DICOM file brings."""


def parse_window(text: str) -> Window | None:
    """The window of ``"LOW HIGH"`` or ``"LOW HIGH clip"``.

    None for ``""``, and for ``"dicom"``, which leaves the choice to each DICOM file.

    >>> parse_window("0 4095"), parse_window("-1000 400 clip").clip
    (Window(low=0.0, high=4095.0, clip=False), True)

    Raises
    ------
    ValueError
        Another form, or low is not below high.
    """
    words = text.split()
    if not words or words == [OWN]:
        return None
    try:
        low, high = (float(word) for word in words[:2])
    except ValueError:
        low, high = math.nan, math.nan
    if words[2:] not in ([], ["clip"]) or not -math.inf < low < high < math.inf:
        raise ValueError(f'expected "LOW HIGH", "LOW HIGH clip" or "{OWN}", got {text!r}')
    return Window(low, high, clip=len(words) == 3)
