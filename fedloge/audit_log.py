"""Audit logs: what a site was asked and what it sent, what a server was told and what it refused.

Lines of JSON that are only ever appended, each flushed to the disk before its event goes on. Each
line holds the hash of the line before it, so that a line that was changed, removed or put in is
noticed. A file that has grown to `MOST_BYTES` is set aside under a number, and the chain goes on
in the next. The newest `KEPT` files that were set aside stay.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedloge.atomic_files import alone, append_private, flush_folder
from fedloge.digest import digest
from fedloge.errors import InputError, RunError

FOLDER = ".audit"
"""The folder of the log, inside a site's state folder or a server's folder of runs. No run can take
this name: a run's begins with a letter or a digit."""
MOST_BYTES = 16 * 2**20
KEPT = 64
_NEWEST = "audit.jsonl"
_ASIDE = re.compile(r"audit-(\d{6})\.jsonl")


class AuditLog:
    """Appends to the audit log in a folder, which is made when first written to.

    Several processes may append to one log.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES, kept: int = KEPT) -> None:
        self.folder = folder
        self._most_bytes = most_bytes
        self._kept = kept

    def write(self, *events: Mapping[str, Any]) -> None:
        """Append a line for each event, with the time, and flush them together.

        Raises
        ------
        RunError
            The log cannot be written. Whatever it should tell of must then not happen.
        """
        if not events:
            return
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with alone(self.folder):
                self._append(events)
        except OSError as exc:
            raise RunError(
                f"the audit log in {self.folder} cannot be written ({exc.strerror}); free space or "
                "mend the permissions"
            ) from None

    def _append(self, events: tuple[Mapping[str, Any], ...]) -> None:
        newest = self.folder / _NEWEST
        last = _last_line(newest)
        if last is None:
            aside = _set_aside(self.folder)
            last = (_last_line(aside[-1]) if aside else None) or b""
        content = b""
        # Half a line, left by a kill or a power loss, stays as it is, on a line of its own.
        if newest.exists() and newest.stat().st_size and not _ends_whole(newest):
            content = b"\n"
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        for event in events:
            row = {"time": now, **event, "previous": digest(last)}
            last = json.dumps(row, separators=(",", ":")).encode()
            content += last + b"\n"
        append_private(newest, content)
        if newest.stat().st_size >= self._most_bytes:
            self._rotate(newest)

    def _rotate(self, newest: Path) -> None:
        aside = _set_aside(self.folder)
        number = 1 + (int(_number(aside[-1])) if aside else 0)
        newest.rename(self.folder / f"audit-{number:06d}.jsonl")
        for old in aside[: max(0, len(aside) + 1 - self._kept)]:
            old.unlink()
        flush_folder(self.folder)


@dataclass(frozen=True)
class AuditLine:
    """A line of an audit log.

    Attributes
    ----------
    event : its content; empty where it is no JSON.
    wrong : why it cannot be trusted; empty where it follows the line before.
    """

    file: Path
    number: int
    event: dict[str, Any]
    wrong: str


def read_audit(folder: Path) -> Iterator[AuditLine]:
    """The lines of an audit log, oldest first, each checked against the one before.

    Parameters
    ----------
    folder : the log's, or the folder that holds it.

    Raises
    ------
    InputError
        There is no audit log.
    """
    inside = folder if folder.name == FOLDER else folder / FOLDER
    files = [*_set_aside(inside), *(p for p in [inside / _NEWEST] if p.exists())]
    if not files:
        raise InputError(
            f"{folder} holds no audit log; give a site's state folder, a server's folder of runs, "
            f"or the folder {FOLDER!r} in it"
        )
    # Of the files before the first one nothing is known: they may have been dropped in their turn.
    before: str | None = None
    for file in files:
        for number, line in enumerate(file.read_bytes().split(b"\n"), start=1):
            if not line:
                continue
            event, wrong = _parsed(line), ""
            if not event:
                wrong = "no whole line of JSON: cut off, or changed"
            elif before is not None and event.get("previous") != before:
                wrong = "does not follow the line before: one was changed, removed or put in"
            yield AuditLine(file, number, event, wrong)
            before = digest(line)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _set_aside(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("audit-*.jsonl") if _ASIDE.fullmatch(p.name))


def _number(path: Path) -> str:
    return path.stem.rpartition("-")[2]


def _last_line(path: Path) -> bytes | None:
    """The last line of a file without its end; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            size, block, tail = file.tell(), 2**16, b""
            while len(tail) < size and b"\n" not in tail.rstrip(b"\n"):
                block = min(2 * block, size)
                file.seek(size - block)
                tail = file.read(block)
    except FileNotFoundError:
        return None
    return tail.rstrip(b"\n").rpartition(b"\n")[2] or None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
