"""Progress of a run, from its log: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

LOGGER = "fedloge.run"


class ProgressHandler(logging.Handler):
    """Turns the run's log records into a bar or lines; remembers the run's folder."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.folder = ""
        self._console = console
        self._bar: Progress | None = None
        self._rounds: TaskID | None = None
        self._first, self._last, self._began = 1, 1, 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record."""
        event, details = getattr(record, "event", None), getattr(record, "details", {})
        if event == "start":
            self._start(record.getMessage(), details)
        elif event == "client":
            self._client(details)
        elif event == "round":
            self._round(record.getMessage(), details)
        elif event == "end":
            self.close_bar()
        elif event == "complete":
            self.folder = details["folder"]
            self._console.print(record.getMessage(), soft_wrap=True, markup=False)
        elif record.levelno >= logging.WARNING:
            self._console.print(record.getMessage(), soft_wrap=True, markup=False)

    def close_bar(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _start(self, text: str, details: dict[str, Any]) -> None:
        self.folder = details["folder"]
        self._first, self._last, self._began = details["first"], details["rounds"], time.monotonic()
        self._console.print(text, soft_wrap=True, markup=False)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._rounds = self._bar.add_task(
                "rounds", total=self._last, completed=self._first - 1, note=""
            )
            self._bar.start()

    def _client(self, details: dict[str, Any]) -> None:
        if self._bar is not None and self._rounds is not None and "done" in details:
            self._bar.update(
                self._rounds, description=f"{details['kind']} {details['done']}/{details['of']}"
            )

    def _round(self, text: str, details: dict[str, Any]) -> None:
        round, timing = details["row"]["round"], details["timing"]
        done, left = round - self._first + 1, self._last - round
        eta = (time.monotonic() - self._began) / done * left
        note = f"{timing['images-per-second']:,.0f} images/s  {_duration(eta)} left"
        if self._bar is not None and self._rounds is not None:
            self._bar.update(
                self._rounds, completed=round, description="rounds", note=f"{note}  {text}"
            )
        else:
            self._console.print(f"{text}  {note}", soft_wrap=True, markup=False)


@contextlib.contextmanager
def shown_progress(console: Console) -> Iterator[ProgressHandler]:
    """Show a run's progress while the block runs."""
    logger = logging.getLogger(LOGGER)
    handler = ProgressHandler(console)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield handler
    finally:
        handler.close_bar()
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
