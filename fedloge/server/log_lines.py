"""The lines that a run under Flower's engines writes to the log that Flower keeps of it.

They are for people (``log-format = "text"``), or for the superlink engine, which reads them
(``log-format = "json"``). Each begins with `PREFIX`, which tells it from Flower's own lines.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TextIO

from flwr.serverapp import Grid

from fedloge.console import warnings_to
from fedloge.errors import FedlogeError
from fedloge.observer import (
    ClientAnswered,
    Event,
    Observer,
    Observers,
    RoundDone,
    RunEnded,
    RunStarted,
    told_to_the_end,
)

PREFIX = "fedloge: "
Format = Literal["text", "json"]


@dataclass(frozen=True)
class Warned:
    """A warning of the server's side of a run."""

    text: str


# Each event's name in a line, its class, and the types of its fields.
_KINDS: Mapping[str, tuple[type[Event | Warned], Mapping[str, type]]] = {
    "start": (
        RunStarted,
        {
            "folder": str,
            "name": str,
            "first_round": int,
            "rounds": int,
            "clients_per_round": int,
            "text": str,
        },
    ),
    "client": (ClientAnswered, {"kind": str, "done": int, "of": int}),
    "round": (RoundDone, {"row": dict, "timing": dict, "text": str}),
    "end": (RunEnded, {"folder": str, "text": str, "complete": bool}),
    "warning": (Warned, {"text": str}),
}


@contextlib.contextmanager
def observed(grid: Grid, log_format: Format) -> Iterator[Observers]:
    """The observers of a run inside the block: those of the local or Ray engine, else the log."""
    own: Observers | None = getattr(grid, "observers", None)
    if own is not None:
        with told_to_the_end(own) as observers:
            yield observers
        return
    lines = LogLines(log_format, sys.stdout)
    try:
        with _warnings_in(lines), told_to_the_end([lines]) as observers:
            yield observers
    except FedlogeError as exc:
        # Flower's own lines come later, and are many. What reads JSON asks Flower how a run ended.
        if log_format == "text" and not lines.started:
            lines.write(Warned(f"the run has not started: {exc}"))
        raise


class LogLines(Observer):
    """Writes one line for each event, except for clients' answers."""

    def __init__(self, log_format: Format, stream: TextIO) -> None:
        self._format, self._stream = log_format, stream
        self.started = False

    def on_start(self, event: RunStarted) -> None:
        """Write a line."""
        self.started = True
        self.write(event)

    def on_round(self, event: RoundDone) -> None:
        """Write a line."""
        self.write(event)

    def on_end(self, event: RunEnded) -> None:
        """Write a line."""
        self.write(event)

    def write(self, event: RunStarted | RoundDone | RunEnded | Warned) -> None:
        """Write the line of an event, and flush it."""
        line = event.text if self._format == "text" else in_json(event)
        self._stream.write(f"{PREFIX}{line}\n")
        self._stream.flush()


def in_json(event: Event | Warned) -> str:
    """An event as one line of JSON, which `from_json` reads.

    >>> in_json(Warned("slow"))
    '{"event": "warning", "text": "slow"}'
    """
    (name,) = (name for name, (kind, _) in _KINDS.items() if isinstance(event, kind))
    return json.dumps({"event": name, **asdict(event)}, default=str)


def from_json(line: str) -> Event | Warned | None:
    """The event of a line that `in_json` has made; None for any other line."""
    try:
        fields = json.loads(line)
        kind, expected = _KINDS[fields.pop("event")]
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if fields.keys() != expected.keys() or not all(
        isinstance(fields[name], of_type) for name, of_type in expected.items()
    ):
        return None
    if kind is RoundDone and not isinstance(fields["row"].get("round"), int):
        return None
    if "folder" in fields:
        fields["folder"] = Path(fields["folder"])
    return kind(**fields)


class _WarningLines(logging.Handler):
    def __init__(self, lines: LogLines) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.write(Warned(record.getMessage()))


def _warnings_in(lines: LogLines) -> contextlib.AbstractContextManager[None]:
    """Write fedloge's warnings among the lines, unless its logger has a handler already."""
    if logging.getLogger("fedloge").handlers:
        return contextlib.nullcontext()
    return warnings_to(_WarningLines(lines))
