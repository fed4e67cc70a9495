"""An engine's real run, let go round by round, so that it can be interleaved with other work."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

LOGGER = "fedloge.run"


class _Enough(Exception):
    """Ends a run from within."""


class Paced(logging.Handler):
    """Runs `run` in a thread that waits after its start and after every round.

    The rounds are those of the server's own loop; this handler only holds its log.
    """

    def __init__(self, run: Callable[[], None]) -> None:
        super().__init__()
        self._run = run
        self._told: queue.Queue[dict[str, Any] | BaseException] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._over = False
        self._logger = logging.getLogger(LOGGER)
        self._before = self._logger.level, self._logger.propagate
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Paced:
        self._logger.addHandler(self)
        self._logger.setLevel(logging.INFO)
        self._logger.propagate = False
        self._thread.start()
        try:
            self._next()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the run and stop listening."""
        self._over = True
        self._go.release()
        self._thread.join()
        self._logger.removeHandler(self)
        self._logger.level, self._logger.propagate = self._before
        super().close()

    def round(self) -> dict[str, Any]:
        """Let one round run; its line of ``timing.jsonl``."""
        self._go.release()
        return self._next()

    def handle(self, record: logging.LogRecord) -> bool:
        """Take a record without the handler's lock: another run's thread may be waiting in here."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Hold this run's thread at its start and after each round."""
        event = getattr(record, "event", "")
        if threading.current_thread() is not self._thread or event not in ("start", "round"):
            return
        self._told.put(record.details["timing"] if event == "round" else {})  # type: ignore[attr-defined]
        self._go.acquire()
        if self._over:
            raise _Enough

    def _next(self) -> dict[str, Any]:
        told = self._told.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def _work(self) -> None:
        try:
            self._run()
            self._told.put(RuntimeError("the run ended before the measurement did"))
        except _Enough:
            pass
        except BaseException as exc:  # shown where the round was asked for
            self._told.put(exc)
