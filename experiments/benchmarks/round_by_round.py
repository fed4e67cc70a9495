"""A real run of an engine, one round at a time, so that other work can be done between rounds."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fedloge.config import Config
from fedloge.engines import local
from fedloge.observer import Observer, RoundDone, RunStarted


class _Enough(BaseException):
    """Ends a run from within; not an `Exception`, so that nothing catches it on the way."""


class StopsAfterEachRound(Observer):
    """Stops a run at its start and after every round, until `go_on` is called."""

    def __init__(self) -> None:
        self.told: queue.Queue[Mapping[str, Any] | BaseException] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._over = False

    def go_on(self, *, over: bool = False) -> None:
        """Let one more round run, or end the run."""
        self._over = over
        self._go.release()

    def on_start(self, event: RunStarted) -> None:
        """Wait until the first round may run."""
        self._hold({})

    def on_round(self, event: RoundDone) -> None:
        """Tell the round's timing, and wait until the next round may run."""
        self._hold(event.timing)

    def _hold(self, told: Mapping[str, Any]) -> None:
        self.told.put(told)
        self._go.acquire()
        if self._over:
            raise _Enough


class RoundByRound:
    """A run in a thread of its own that waits after its start and after every round.

    The rounds are those of the server's own loop.

    Parameters
    ----------
    run : runs a federation to its end, with the observer that it is given.
    """

    def __init__(self, run: Callable[[Observer], None]) -> None:
        self._run, self._stops = run, StopsAfterEachRound()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> RoundByRound:
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
        """End the run."""
        self._stops.go_on(over=True)
        self._thread.join()

    def __call__(self) -> None:
        """Let one round run."""
        self.round()

    def round(self) -> Mapping[str, Any]:
        """Let one round run; returns its line of ``timing.jsonl``."""
        if not self._thread.is_alive():
            raise RuntimeError("the run is over")
        self._stops.go_on()
        return self._next()

    def seconds(self, figure: str) -> float:
        """Let one round run; returns the `figure` of its line of ``timing.jsonl``, in seconds."""
        return float(self.round()[figure])

    def _next(self) -> Mapping[str, Any]:
        told = self._stops.told.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def _work(self) -> None:
        try:
            self._run(self._stops)
            self._stops.told.put(RuntimeError("the run ended before the measurement did"))
        except _Enough:
            pass
        except BaseException as exc:  # raised again where the round was asked for
            self._stops.told.put(exc)


def local_rounds(config: Config) -> RoundByRound:
    """A run of the local engine."""
    return RoundByRound(lambda observer: local.run(config, [observer]))
