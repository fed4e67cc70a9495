"""What a client remembers of the sums it took part in, so that no server can have it answer twice differently.

One file per run and client, a line of JSON for each answer, written to the disk before the answer
leaves.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.atomic_files import disk_error
from fedloge.errors import CheckpointError, UpdateError
from fedloge.run_files import MASK_MEMORY


@dataclass(frozen=True)
class Remembered:
    """A sum that this client has masked a vector for.

    Attributes
    ----------
    subject : what was asked, in whichever attempt of the run.
    clients : the cohort.
    neighbours : with whom this client masked.
    threshold : how many of these and itself must be left when the masks are taken off.
    """

    subject: str
    clients: tuple[int, ...]
    neighbours: tuple[int, ...]
    threshold: int


class MaskMemory:
    """The sums of one client in one run.

    Parameters
    ----------
    folder : the client's folder in the run.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / MASK_MEMORY
        self._masked: dict[str, Remembered] = {}
        self._opened: dict[str, list[int]] = {}
        for row in self._rows():
            if "survivors" in row:
                self._opened[row["subject"]] = row["survivors"]
            else:
                self._masked[row["context"]] = Remembered(
                    row["subject"],
                    tuple(row["clients"]),
                    tuple(row["neighbours"]),
                    row["threshold"],
                )

    def mask(self, context: str, sum_: Remembered) -> None:
        """Note that a vector is masked for this sum; `UpdateError` if one was before."""
        if context in self._masked:
            raise UpdateError(
                "secure aggregation: this client has answered this very message before; a second answer "
                "under the same masks is refused"
            )
        self._masked[context] = sum_
        self._append(
            {
                "context": context,
                "subject": sum_.subject,
                "clients": list(sum_.clients),
                "neighbours": list(sum_.neighbours),
                "threshold": sum_.threshold,
            }
        )

    def masked(self, context: str) -> Remembered:
        """The sum of this context; `UpdateError` if this client has masked nothing for it."""
        if context not in self._masked:
            raise UpdateError(
                "unmasking: this client has masked no vector in this context; the message is of another "
                "round, run or attempt"
            )
        return self._masked[context]

    def open(self, context: str, survivors: list[int]) -> None:
        """Note over whom a sum is opened; `UpdateError` if it was opened over others before.

        The difference of two such sums would be the update of those that only one of them holds. So
        this holds for all attempts of a run to repeat the round, too.
        """
        subject = self.masked(context).subject
        before = self._opened.get(subject)
        if before is not None and before != survivors:
            raise UpdateError(
                f"unmasking: this sum has been opened over {len(before)} clients before, and now over "
                f"{len(survivors)}, not the same; the difference would show single updates"
            )
        if before is None:
            self._opened[subject] = survivors
            self._append({"context": context, "subject": subject, "survivors": survivors})

    def _rows(self) -> list[dict[str, Any]]:
        try:
            text = self.path.read_bytes().decode()
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError):
            raise self._damaged() from None
        # A line without its end was cut off while it was written: its answer never left.
        try:
            return [json.loads(line) for line in text.split("\n")[:-1]]
        except ValueError:
            raise self._damaged() from None

    def _append(self, row: dict[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "wb") as f:
                # Over the rest of a line that was cut off.
                f.seek(f.read().rfind(b"\n") + 1 if f.readable() else 0)
                f.write((json.dumps(row) + "\n").encode())
                f.truncate()
                f.flush()
                os.fsync(f.fileno())
        except OSError as exc:
            raise disk_error(self.path, exc) from None

    def _damaged(self) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is damaged; it keeps a server from asking twice: restore it from a backup, or "
            "take part in new runs only"
        )
