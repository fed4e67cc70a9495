"""``arrivals.jsonl``: in which order answers came in each round, and whose counted.

Where a run does not wait for all, who was fast decides what it computes. So that is written down, and a
round that is done again after a resume is done with the same answers, whoever is fast then. A line is on the
disk before the round's model is made. To have rounds choose anew, delete their lines before a resume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedloge.server.kept_lines import KeptLines, OfRound

Event = tuple[str, int, float]
"""What happened (``asked``, ``came`` with a good answer, ``failed``), to which client, and when: in seconds,
after the round's beginning by the real clock, after the run's by a simulated one."""


@dataclass(frozen=True)
class Arrivals(OfRound):
    """One round: what happened, in order, and whose answers counted, ascending.

    Attributes
    ----------
    seconds : when the last of them had come, as in `Event`.
    """

    taken: tuple[int, ...]
    events: tuple[Event, ...]
    seconds: float


class ArrivalRecord(KeptLines[Arrivals]):
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Arrivals)
