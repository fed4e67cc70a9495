"""The classes that the imbalanced law gives up, by the norms of a run's heads: sentences for people."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from fedloge.geometry.law_fit import LawFit, fit_law

MOST_NAMED = 8
TRUSTED = 0.5
"""Below this share of explained variance the law says nothing about a run."""
_HEADS = "norms/"


def head_of(name: str) -> str:
    """Which head a recorded list holds the norms of, in words; empty if of none."""
    return name.removeprefix(_HEADS).replace("-", " ") if name.startswith(_HEADS) else ""


def law_of_list(
    counts: Int[ndarray, " classes"] | None,
    listed: object,
    of: Literal["rows", "features"] = "rows",
) -> LawFit | None:
    """The law fitted to a recorded list of norms, None for a class without one.

    None where class counts are unknown, or fewer than three classes have both.
    """
    if counts is None or not isinstance(listed, list) or len(listed) != len(counts):
        return None
    norms = np.array([math.nan if v is None else v for v in listed], dtype=np.float64)
    kept = np.where(np.isfinite(norms), counts, 0)
    return fit_law(kept, np.nan_to_num(norms), of) if (kept > 0).sum() >= 3 else None


def collapse_warnings(
    recorded: Mapping[str, object],
    counts: Int[ndarray, " classes"] | None,
    split: Int[ndarray, "clients classes"] | None,
    class_names: Sequence[str],
) -> list[str]:
    """Classes under the law's threshold, of all clients and of single ones; of each head whose norms it explains.

    Parameters
    ----------
    recorded : lists over classes by name, of which those called ``norms/HEAD`` are read.
    counts, split : training examples of each class, and of each client; None: unknown.
    """
    said = []
    for name, listed in recorded.items():
        law = law_of_list(counts, listed) if head_of(name) else None
        if law is None or counts is None or not law.r_squared >= TRUSTED:
            continue
        if under := law.under(counts):
            said.append(
                f"Minority collapse: by the norms of the {head_of(name)}, the classes {_named(class_names, under)} "
                f"have no more than the {law.threshold:.3g} images under which a class gets no direction of its own."
            )
        if split is not None:
            said += _by_client(law, split, class_names, head_of(name))
    return said


def _by_client(
    law: LawFit, split: Int[ndarray, "clients classes"], class_names: Sequence[str], whose: str
) -> list[str]:
    found, every = {}, float(split.sum())
    for client, own in enumerate(split):
        limit = law.threshold_of(float(own.sum()), every)
        if under := np.flatnonzero((own > 0) & (own <= limit)).tolist():
            found[client] = under
    if not found:
        return []
    told = [f"client {client}: {_named(class_names, under)}" for client, under in found.items()]
    more = f"; and {len(told) - MOST_NAMED} more clients" if len(told) > MOST_NAMED else ""
    clients = "1 client" if len(found) == 1 else f"{len(found):,} clients"
    return [
        f"With the same penalties, a head trained on one client alone would give up classes that it has, by the "
        f"norms of the {whose}, at {clients}: {'; '.join(told[:MOST_NAMED])}{more}."
    ]


def _named(class_names: Sequence[str], classes: list[int]) -> str:
    names = [class_names[c] for c in classes[:MOST_NAMED]]
    more = f" and {len(classes) - MOST_NAMED} more" if len(classes) > MOST_NAMED else ""
    return ", ".join(names) + more
