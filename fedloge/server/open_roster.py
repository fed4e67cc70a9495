"""``rosters.jsonl``: who is there in each round of a run whose sites come and go (option ``min-clients``).

Of those who are there a round's clients are drawn from (seed, round). So that is written down, and a
round that is done again after a resume is done with the same sites. Line 0 is of the run's beginning: by it
weights are bounded and classes counted as many, medium or few, for the whole run, whoever comes later.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedloge.server.kept_lines import KeptLines, OfRound
from fedloge.server.roster import Member, Roster

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Present(OfRound):
    """Who was there in a round: training images by partition id, and of each class where they tell them."""

    images: dict[int, int]
    class_counts: dict[int, tuple[int, ...]] = field(default_factory=dict)


class OpenRoster:
    """Who takes part, round by round.

    Parameters
    ----------
    path : of the run's ``rosters.jsonl``.
    timeout : seconds that a round waits for enough sites to be there.
    """

    def __init__(self, roster: Roster, path: Path, timeout: float) -> None:
        self._roster, self._timeout = roster, timeout
        self._record = KeptLines(path, Present)

    def at_start(self) -> Present:
        """Who was there as the run began."""
        before = self._record.of(0)
        if before is None:
            members = self._roster.members()
            counts = {k: m.class_counts for k, m in sorted(members.items()) if m.class_counts}
            before = Present(0, _images(members), counts)
            self._record.write(before)
        return before

    def of(self, round: int) -> list[int]:
        """Who is there in a round: as it is on record, if they are there now, else who is there now.

        Raises
        ------
        RunError
            They are fewer than the run needs, and no others have come in time.
        """
        before = self._record.of(round)
        if before is not None:
            self._roster.await_again(before.images)
            members = self._roster.members()
            missing = {k for k, n in before.images.items() if _said(members, k) != n}
            if not missing:
                return sorted(before.images)
            log.warning(
                "round %d cannot be repeated with the sites that it had: client %s not there as it was; it is done "
                "with those that are",
                round,
                ", ".join(map(str, sorted(missing))),
            )
        self._roster.wait(self._timeout)
        self._record.write(Present(round, _images(self._roster.members())))
        return sorted(self._roster.members())


def _images(members: Mapping[int, Member]) -> dict[int, int]:
    return {k: members[k].num_examples for k in sorted(members)}


def _said(members: Mapping[int, Member], client: int) -> int | None:
    return members[client].num_examples if client in members else None
