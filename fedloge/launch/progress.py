"""The progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar

from fedloge.console import stderr
from fedloge.observer import ClientAnswered, Observer, RoundDone, RunEnded, RunStarted


class Progress(Observer):
    """Shows how far a run is, and how long it will take, on `console` (default: standard error)."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr()
        self._run: RunStarted | None = None
        self._bar: Bar | None = None
        self._rounds = TaskID(0)
        self._began = 0.0

    def on_start(self, event: RunStarted) -> None:
        """Show the run's name, and on a terminal a bar."""
        self._run, self._began = event, time.monotonic()
        self._print(event.text)
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._rounds = self._bar.add_task(
                "rounds", total=event.rounds, completed=event.first_round - 1, note=""
            )
            self._bar.start()

    def on_client(self, event: ClientAnswered) -> None:
        """Show in the bar how many clients have answered in this round."""
        if self._bar is not None:
            self._bar.update(self._rounds, description=f"{event.kind} {event.done}/{event.of}")

    def on_round(self, event: RoundDone) -> None:
        """Show the round's figures, the speed, and the time that is left."""
        speed = event.timing.get("images-per-second", 0.0)
        note = f"{speed:,.0f} images/s  {_duration(self._seconds_left(event.round))} left"
        if self._bar is not None:
            self._bar.update(
                self._rounds,
                completed=event.round,
                description="rounds",
                note=f"{note}  {event.text}",
            )
        else:
            self._print(f"{event.text}  {note}")

    def on_end(self, event: RunEnded) -> None:
        """Stop the bar; if there was nothing left to run, say so."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if self._run is None:
            self._print(event.text)
        self._run = None

    def _seconds_left(self, round: int) -> float:
        if self._run is None:
            return 0.0
        done = round - self._run.first_round + 1
        return (time.monotonic() - self._began) / done * (self._run.rounds - round)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
