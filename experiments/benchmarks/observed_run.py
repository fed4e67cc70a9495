"""Real runs with somebody who hears of their rounds: the one place that knows how a run is observed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fedloge.config import Config
from fedloge.engines import local
from fedloge.engines.own_grid import OwnGrid
from fedloge.server.server_app import app as server_app


class Observer:
    """Hears of a run, in the thread that runs it; does nothing by itself."""

    def on_start(self) -> None:
        """The first round is about to begin."""

    def on_round(self, timing: dict[str, Any]) -> None:
        """A round is over; `timing` is its line of ``timing.jsonl``."""

    def on_end(self) -> None:
        """The last round is over."""


def run_local(config: Config, observer: Observer) -> None:
    """A run on the local engine."""
    with attached(observer):
        local.run(config)


def run_on(grid: OwnGrid, observer: Observer) -> None:
    """A run on a grid that is there already."""
    with attached(observer):
        server_app(grid, grid.server_context())


@contextmanager
def attached(observer: Observer) -> Iterator[None]:
    """Tell `observer` of the runs of this thread while the block lasts; nothing is printed of them."""
    logger, handler = logging.getLogger("fedloge.run"), _Handler(observer)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Handler(logging.Handler):
    """Turns this thread's log records into calls of an observer."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer, self._thread = observer, threading.current_thread()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record without the handler's lock: another run's thread may be waiting in here."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Pass on what an observer is told; other lines are dropped."""
        if threading.current_thread() is not self._thread:
            return
        event, details = getattr(record, "event", ""), getattr(record, "details", {})
        if event == "start":
            self._observer.on_start()
        elif event == "round":
            self._observer.on_round(details["timing"])
        elif event == "end":
            self._observer.on_end()
