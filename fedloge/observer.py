"""Who is told of a run while it runs: the progress display, trackers, the log, your own code.

::

    class LossPrinter(Observer):
        def on_round(self, event):
            print(event.round, event.row.get("train/loss"))

    fedloge.run("digits", observers=[LossPrinter()])

Observers are called in the process that began the run, one after the other, between the steps of
the round loop. A slow observer makes the run slow. An exception in an observer ends the run, like
any other error. The rounds that are done stay on disk, and the run can be resumed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedloge.errors import in_one_line

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunStarted:
    """The rounds begin: for the first time, or after a resume.

    Attributes
    ----------
    folder : holds the run's record, on the machine where the run is recorded.
    first_round, rounds : the first and the last round to be run.
    clients_per_round : clients drawn each round.
    text : one line for a person.
    """

    folder: Path
    name: str
    first_round: int
    rounds: int
    clients_per_round: int
    text: str


@dataclass(frozen=True)
class ClientAnswered:
    """One more client of the round has answered.

    Runs on Flower's own engines do not send this event.

    Attributes
    ----------
    kind : what it was asked: ``train`` or ``evaluate``.
    done, of : answers so far, and clients asked.
    """

    kind: str
    done: int
    of: int


@dataclass(frozen=True)
class RoundDone:
    """A round is over, and its line is on disk.

    Attributes
    ----------
    row : the round's line of ``metrics.jsonl``; accuracies are in [0, 1].
    timing : its line of ``timing.jsonl``; seconds and bytes.
    text : one line for a person.
    """

    row: Mapping[str, Any]
    timing: Mapping[str, Any]
    text: str

    @property
    def round(self) -> int:
        """Which round, counted from 1."""
        return int(self.row["round"])


@dataclass(frozen=True)
class RunEnded:
    """The run is over.

    It comes without a `RunStarted` if there was no round left to run.

    Attributes
    ----------
    complete : True if all rounds are done, False if the run has stopped with an error.
    text : one line for a person.
    """

    folder: Path
    text: str
    complete: bool


Event = RunStarted | ClientAnswered | RoundDone | RunEnded


class Observer:
    """Is told of a run. Override what you want to be told of; the rest does nothing."""

    def on_start(self, event: RunStarted) -> None:
        """The rounds begin."""

    def on_client(self, event: ClientAnswered) -> None:
        """A client has answered."""

    def on_round(self, event: RoundDone) -> None:
        """A round is over."""

    def on_end(self, event: RunEnded) -> None:
        """The run is over, or has stopped."""


class Observers(tuple[Observer, ...], Observer):
    """Several observers as one; they are told of each event in this order."""

    def on_start(self, event: RunStarted) -> None:
        """Tell all."""
        for observer in self:
            observer.on_start(event)

    def on_client(self, event: ClientAnswered) -> None:
        """Tell all."""
        for observer in self:
            observer.on_client(event)

    def on_round(self, event: RoundDone) -> None:
        """Tell all."""
        for observer in self:
            observer.on_round(event)

    def on_end(self, event: RunEnded) -> None:
        """Tell all."""
        for observer in self:
            observer.on_end(event)


def tell(observer: Observer, event: Event) -> None:
    """Call the method of `observer` that takes this kind of event."""
    match event:
        case RunStarted():
            observer.on_start(event)
        case ClientAnswered():
            observer.on_client(event)
        case RoundDone():
            observer.on_round(event)
        case RunEnded():
            observer.on_end(event)


@contextlib.contextmanager
def told_to_the_end(observers: Iterable[Observer]) -> Iterator[Observers]:
    """The observers of the run inside the block; an exception in the block also reaches their `on_end`."""
    started = _Started()
    everyone = Observers((started, *observers))
    try:
        yield everyone
    except BaseException as exc:
        if started.event is not None:
            _tell_of_early_end(everyone, started.event, exc)
        raise


class _Started(Observer):
    """Remembers a run that has started and has not ended."""

    event: RunStarted | None = None

    def on_start(self, event: RunStarted) -> None:
        self.event = event

    def on_end(self, event: RunEnded) -> None:
        self.event = None


def _tell_of_early_end(observers: Observers, run: RunStarted, problem: BaseException) -> None:
    why = " ".join(str(problem).split()) or type(problem).__name__
    ended = RunEnded(run.folder, f"run {run.name} has stopped: {why}", complete=False)
    for observer in observers:
        try:
            observer.on_end(ended)
        except Exception as exc:
            # The caller must see the error that stopped the run, not this one.
            log.warning("an observer failed at the end of a run: %s", in_one_line(exc))
