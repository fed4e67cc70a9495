"""What a lab is: a claim, how it is tried, and what was found beside what the paper says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """One number beside the one that was expected.

    Parameters
    ----------
    what : in words.
    measured : here.
    expected : what the paper or the formula says, in words; empty where nobody has said anything yet.
    holds : whether the claim holds by this number; None where there is no claim.
    """

    what: str
    measured: float
    expected: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Lab:
    """A claim and how it is tried.

    Parameters
    ----------
    name : as ``fedloge lab`` takes it.
    claim : in one sentence, with its paper.
    run : from a seed to findings and a picture.
    """

    name: str
    claim: str
    run: Callable[[int], tuple[Sequence[Finding], Figure]]
