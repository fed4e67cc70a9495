"""An engine's real run, let go round by round, so that it can be interleaved with other work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from fedloge.config import Config
from fedloge.engines import local
from fedloge.observer import Observer, RoundDone, RunStarted


class _Enough(BaseException):
    """Ends a run from within, past all that catches exceptions."""


class Paced(Observer):
    """Holds a run at its start and after every round, until it is let go on."""

    def __init__(self) -> None:
        self.told: queue.Queue[Mapping[str, Any] | BaseException] = queue.Queue()
        self._go = threading.Semaphore(0)
        self._over = False

    def go_on(self, *, over: bool = False) -> None:
        """Let one more round run, or end the run."""
        self._over = over
        self._go.release()

    def on_start(self, event: RunStarted) -> None:
        """Wait for the first round to be wanted."""
        self._hold({})

    def on_round(self, event: RoundDone) -> None:
        """Tell the round's timing, and wait for the next one to be wanted."""
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
    run : runs a federation to its end, and tells the observer that it is given.
    """

    def __init__(self, run: Callable[[Observer], None]) -> None:
        self._run, self._paced = run, Paced()
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
        self._paced.go_on(over=True)
        self._thread.join()

    def __call__(self) -> None:
        """Let one round run."""
        self.round()

    def round(self) -> Mapping[str, Any]:
        """Let one round run; its line of ``timing.jsonl``."""
        if not self._thread.is_alive():
            raise RuntimeError("the run is over")
        self._paced.go_on()
        return self._next()

    def seconds(self, figure: str) -> float:
        """Let one round run; one of the seconds that its line of ``timing.jsonl`` holds."""
        return float(self.round()[figure])

    def _next(self) -> Mapping[str, Any]:
        told = self._paced.told.get()
        if isinstance(told, BaseException):
            raise told
        return told

    def _work(self) -> None:
        try:
            self._run(self._paced)
            self._paced.told.put(RuntimeError("the run ended before the measurement did"))
        except _Enough:
            pass
        except BaseException as exc:  # shown where the round was asked for
            self._paced.told.put(exc)


def local_rounds(config: Config) -> RoundByRound:
    """The local engine's run."""
    return RoundByRound(lambda observer: local.run(config, [observer]))
