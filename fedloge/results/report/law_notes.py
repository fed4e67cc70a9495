"""The imbalanced law beside a run's norms: the fit, its sentence, and classes that it gives up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fedloge.results.recorded_run import RecordedRun

if TYPE_CHECKING:
    from fedloge.geometry.law_fit import LawFit

# Geometry imports torch, which takes seconds, and many pages have no norms; so it is imported where it is used.

_FEATURES, _HEADS = "probe/collapse/feature-norms", "norms/"


def norms_of(name: str) -> str:
    """Whose norms a recorded list holds, in words; empty if it holds none."""
    if name == _FEATURES:
        return "centred class means of features"
    return name.removeprefix(_HEADS).replace("-", " ") if name.startswith(_HEADS) else ""


def law_of(run: RecordedRun, name: str) -> LawFit | None:
    """The law fitted to a recorded list of norms; None where class counts are unknown or too few."""
    from fedloge.geometry.given_up import law_of_list

    listed = run.last_class_line.get(name)
    return law_of_list(run.train_counts, listed, "features" if name == _FEATURES else "rows")


def law_note(law: LawFit) -> str:
    """How well class sizes explain the norms."""
    if math.isnan(law.r_squared):
        return "All norms are equal: class sizes explain nothing."
    if law.r_squared <= 0:
        return "The imbalanced law explains none of the variance of these norms."
    return (
        f"The imbalanced law (free features, one linear layer) explains {law.r_squared:.0%} of the variance; "
        f"classes of up to {law.threshold:.3g} images would have no norm."
    )


def collapsed_classes(run: RecordedRun) -> list[str]:
    """Warnings: classes under the law's threshold, of all clients and of single ones."""
    if not any(name.startswith(_HEADS) for name in run.last_class_line):
        return []
    from fedloge.geometry.given_up import collapse_warnings

    split = None if run.split is None else run.split.train
    return collapse_warnings(run.last_class_line, run.train_counts, split, run.class_names)
