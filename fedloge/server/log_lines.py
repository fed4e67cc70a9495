"""What a run says under Flower's engines: lines of the log that Flower keeps of it.

For people (``log-format = "text"``), or for the superlink engine, which reads them back
(``log-format = "json"``). Each begins with `PREFIX`, to be found among Flower's own.
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
    """The server side of a run has warned of something."""

    text: str


# What each event is called in a line, and what its fields are there.
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
    """Who hears of the run inside the block: the observers that our engines carry, or else the log."""
    own: Observers | None = getattr(grid, "observers", None)
    if own is not None:
        with told_to_the_end(own) as observers:
            yield observers
        return
    lines = LogLines(log_format, sys.stdout)
    with _warnings_in(lines), told_to_the_end([lines]) as observers:
        yield observers


class LogLines(Observer):
    """Writes a line for each event; of clients' answers none, in either format."""

    def __init__(self, log_format: Format, stream: TextIO) -> None:
        self._format, self._stream = log_format, stream

    def on_start(self, event: RunStarted) -> None:
        """Write a line."""
        self.write(event)

    def on_round(self, event: RoundDone) -> None:
        """Write a line."""
        self.write(event)

    def on_end(self, event: RunEnded) -> None:
        """Write a line."""
        self.write(event)

    def write(self, event: RunStarted | RoundDone | RunEnded | Warned) -> None:
        """Write the line of an event and let it go at once."""
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


@contextlib.contextmanager
def _warnings_in(lines: LogLines) -> Iterator[None]:
    """Write our warnings among the lines, unless somebody shows them already."""
    logger = logging.getLogger("fedloge")
    if logger.handlers:
        yield
        return
    handler, before = _WarningLines(lines), logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before
