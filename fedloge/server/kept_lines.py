"""A file of one line per round that a resume reads, so that what chance decided is decided alike again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import pydantic

from fedloge.atomic_files import append_private, disk_error, write_atomically
from fedloge.errors import RunDirError


@dataclass(frozen=True)
class OfRound:
    """A line: plain values, in a subclass."""

    round: int


T = TypeVar("T", bound=OfRound)


class KeptLines(Generic[T]):
    """The file of one run; it need not be there. Half a line at its end, left by a kill, counts as none.

    Parameters
    ----------
    kind : what a line is made of.

    Raises
    ------
    RunDirError
        A line is damaged.
    """

    def __init__(self, path: Path, kind: type[T]) -> None:
        self._path = path
        text = path.read_text("utf-8", errors="replace") if path.exists() else ""
        whole, _, self._half = text.rpartition("\n")
        self._lines: dict[int, T] = {}
        form = pydantic.TypeAdapter(kind)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                found = form.validate_json(line)
            except pydantic.ValidationError:
                raise RunDirError(
                    f"{path}: line {number} is damaged; restore a backup, or delete the lines from there on: "
                    "the run then chooses anew from the round it resumes"
                ) from None
            self._lines[found.round] = found

    def of(self, round: int) -> T | None:
        """What is known of a round; None: nothing."""
        return self._lines.get(round)

    def write(self, line: T) -> None:
        """Add a round; what differs takes the place of what is there of it and of later rounds.

        It is on the disk when this returns. `RunError`: the disk refused.
        """
        if self._lines.get(line.round) == line:
            return
        kept = {known: other for known, other in self._lines.items() if known < line.round}
        anew = self._half or len(kept) < len(self._lines)
        self._lines, self._half = kept | {line.round: line}, ""
        if anew:
            write_atomically(self._path, "".join(map(_text, self._lines.values())).encode())
            return
        try:
            append_private(self._path, _text(line).encode())
        except OSError as exc:
            raise disk_error(self._path, exc) from None


def _text(line: OfRound) -> str:
    return json.dumps(asdict(line), allow_nan=False) + "\n"
