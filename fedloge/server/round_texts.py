"""What a round says of itself: its line for people, its lines of failures, and warnings of the method."""

from __future__ import annotations

import logging
from typing import Any

from fedloge.federation import Federation

log = logging.getLogger(__name__)


def remark(fed: Federation, rows: list[dict[str, Any]], said: set[str]) -> None:
    """Warn of what the method finds in its rounds, each thing once."""
    for remark in type(fed.method).remarks(fed.config, fed.data.num_classes, rows):
        # What differs from round to round is the figures before the advice.
        advice = remark.rpartition(":")[2]
        if advice not in said:
            said.add(advice)
            log.warning("%s", remark)


def failure_rows(round: int, failures: dict[int, str]) -> list[dict[str, Any]]:
    """One line for each client that failed in a round."""
    return [
        {"round": round, "client": client, "reason": reason} for client, reason in failures.items()
    ]


def round_line(row: dict[str, Any], fed: Federation) -> str:
    """A round in a line, from its line of metrics."""
    shown = [f"round {row['round']}"]
    if "train/loss" in row:
        shown.append(f"loss {row['train/loss']:.3f}")
    for kind, name, figure in (
        ("global", fed.method.primary_global, "all"),
        ("personal", fed.method.primary_personal, "mean"),
    ):
        key = f"{kind}/{name}/{figure}"
        if key in row:
            shown.append(f"{kind} {row[key]:.1%}")
    return "  ".join(shown)
