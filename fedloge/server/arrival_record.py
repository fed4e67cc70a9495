"""``arrivals.jsonl``: in which order answers came in each round, and whose counted.

Where a run does not wait for all, who was fast decides what it computes. So that is written down, and a
round that is done again after a resume is done with the same answers, whoever is fast then. A line is on the
disk before the round's model is made. To have rounds choose anew, delete their lines before a resume.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pydantic

from fedloge.atomic_files import append_private, disk_error, write_atomically
from fedloge.errors import RunDirError

Event = tuple[str, int, float]
"""What happened (``asked``, ``came`` with a good answer, ``failed``), to which client, and when: in seconds,
after the round's beginning by the real clock, after the run's by a simulated one."""


@dataclass(frozen=True)
class Arrivals:
    """One round: what happened, in order, and whose answers counted, ascending.

    Attributes
    ----------
    seconds : when the last of them had come, as in `Event`.
    """

    round: int
    taken: tuple[int, ...]
    events: tuple[Event, ...]
    seconds: float


_LINE = pydantic.TypeAdapter(Arrivals)


class ArrivalRecord:
    """The file of one run; it need not be there. Half a line at its end, left by a kill, counts as none.

    `RunDirError`: another line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        whole, _, self._half = text.rpartition("\n")
        self._lines: dict[int, Arrivals] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                found = _LINE.validate_json(line)
            except pydantic.ValidationError:
                raise RunDirError(
                    f"{path}: line {number} is damaged; restore a backup, or delete the lines from there on: "
                    "the run then chooses anew from the round it resumes"
                ) from None
            self._lines[found.round] = found

    def of(self, round: int) -> Arrivals | None:
        """What is known of a round; None: nothing."""
        return self._lines.get(round)

    def write(self, arrivals: Arrivals) -> None:
        """Add a round; what differs takes the place of what is there of it and of later rounds.

        `RunError`: the disk refused.
        """
        if self._lines.get(arrivals.round) == arrivals:
            return
        kept = {known: line for known, line in self._lines.items() if known < arrivals.round}
        anew = self._half or len(kept) < len(self._lines)
        self._lines, self._half = kept | {arrivals.round: arrivals}, ""
        if anew:
            write_atomically(self._path, "".join(map(_text, self._lines.values())).encode())
            return
        try:
            append_private(self._path, _text(arrivals).encode())
        except OSError as exc:
            raise disk_error(self._path, exc) from None


def _text(arrivals: Arrivals) -> str:
    return json.dumps(asdict(arrivals), allow_nan=False) + "\n"
