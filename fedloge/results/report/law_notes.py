"""The imbalanced law beside a run's norms: the fit, its sentence, and classes that it gives up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fedloge.results.number_words import plural
from fedloge.results.recorded_run import RecordedRun

if TYPE_CHECKING:
    from fedloge.geometry.law_fit import LawFit

_FEATURES = "probe/collapse/feature-norms"
MOST_NAMED = 8
TRUSTED = 0.5
"""Below this share of explained variance the law says nothing about a run."""


def norms_of(name: str) -> str:
    """Whose norms a recorded list holds, in words; empty if it holds none."""
    if name == _FEATURES:
        return "centred class means of features"
    return name.removeprefix("norms/").replace("-", " ") if name.startswith("norms/") else ""


def law_of(run: RecordedRun, name: str) -> LawFit | None:
    """The law fitted to a recorded list of norms; None where class counts are unknown or too few."""
    # Geometry imports torch, which takes seconds, and many pages have no norms.
    from fedloge.geometry.law_fit import fit_law

    counts, listed = run.train_counts, run.last_class_line.get(name)
    if counts is None or not isinstance(listed, list) or len(listed) != len(counts):
        return None
    norms = np.array([math.nan if v is None else v for v in listed], dtype=np.float64)
    kept = np.where(np.isfinite(norms), counts, 0)
    if (kept > 0).sum() < 3:
        return None
    return fit_law(kept, np.nan_to_num(norms), "features" if name == _FEATURES else "rows")


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
    said = []
    counts = run.train_counts
    for name in run.last_class_line:
        law = law_of(run, name) if name.startswith("norms/") else None
        if law is None or counts is None or not law.r_squared >= TRUSTED:
            continue
        under = law.under(counts)
        if under:
            said.append(
                f"Minority collapse: by the norms of the {norms_of(name)}, the classes {_named(run, under)} have no "
                f"more than the {law.threshold:.3g} images under which a class gets no direction of its own."
            )
        said += _by_client(run, law, norms_of(name))
    return said


def _by_client(run: RecordedRun, law: LawFit, whose: str) -> list[str]:
    if run.split is None:
        return []
    split = run.split.train
    found = {}
    for client, own in enumerate(split):
        limit = law.threshold_of(float(own.sum()), float(split.sum()))
        if under := np.flatnonzero((own > 0) & (own <= limit)).tolist():
            found[client] = under
    if not found:
        return []
    told = [f"client {client}: {_named(run, under)}" for client, under in found.items()]
    more = f"; and {len(told) - MOST_NAMED} more clients" if len(told) > MOST_NAMED else ""
    return [
        f"With the same penalties, a head trained on one client alone would give up classes that it has, by the "
        f"norms of the {whose}, at {plural(len(found), 'client')}: {'; '.join(told[:MOST_NAMED])}{more}."
    ]


def _named(run: RecordedRun, classes: list[int]) -> str:
    names = [run.class_names[c] for c in classes[:MOST_NAMED]]
    more = f" and {len(classes) - MOST_NAMED} more" if len(classes) > MOST_NAMED else ""
    return ", ".join(names) + more
