from __future__ import annotations

import logging
from pathlib import Path

import harness
import pytest

from fedloge.observer import (
    ClientAnswered,
    Event,
    Observer,
    Observers,
    RoundDone,
    RunEnded,
    RunStarted,
    tell,
    told_to_the_end,
)

STARTED = RunStarted(Path("runs/a"), "a", 1, 3, 2, "run a: rounds 1 to 3")


class Listener(Observer):
    """Keeps all that it hears."""

    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_start(self, event: RunStarted) -> None:
        self.heard.append(event)

    def on_client(self, event: ClientAnswered) -> None:
        self.heard.append(event)

    def on_round(self, event: RoundDone) -> None:
        self.heard.append(event)

    def on_end(self, event: RunEnded) -> None:
        self.heard.append(event)


class Impatient(Listener):
    """Ends the run after the first round."""

    def on_round(self, event: RoundDone) -> None:
        super().on_round(event)
        raise RuntimeError("good enough")


def test_observers_hear_a_run_in_order(tmp_path: Path) -> None:
    listener = Listener()
    folder = harness.run_local(harness.tiny(tmp_path, rounds=2), observers=[listener])
    started, *answers, ended = listener.heard
    assert started == RunStarted(folder, "run", 1, 2, 3, "run run: rounds 1 to 2")
    assert ended == RunEnded(folder, f"run run is complete: {folder}", complete=True)
    asked = [
        (event.kind, event.done, event.of) if isinstance(event, ClientAnswered) else event.round
        for event in answers
        if isinstance(event, (ClientAnswered, RoundDone))
    ]
    train = [("train", k, 3) for k in (1, 2, 3)]
    evaluate = [("evaluate", k, 4) for k in (1, 2, 3, 4)]
    assert asked == [*train, *evaluate, 1, *train, *evaluate, 2]
    rounds = [event for event in answers if isinstance(event, RoundDone)]
    assert [event.row for event in rounds] == harness.lines(folder, "metrics")
    assert [event.timing for event in rounds] == harness.lines(folder, "timing")


def test_what_an_observer_raises_ends_the_run_which_can_be_resumed(tmp_path: Path) -> None:
    impatient, listener = Impatient(), Listener()
    config = harness.tiny(tmp_path, rounds=2)
    with pytest.raises(RuntimeError, match="good enough"):
        harness.run_local(config, observers=[impatient, listener])
    folder = tmp_path / "run"
    for one in (impatient, listener):
        assert one.heard[-1] == RunEnded(folder, "run run has stopped: good enough", complete=False)
    harness.resume_local(folder)
    other = harness.run_local(harness.tiny(tmp_path, "whole", rounds=2))
    assert harness.differences(folder, other) == []


def test_several_observers_hear_as_one_and_in_order() -> None:
    heard: list[str] = []

    class Named(Observer):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_start(self, event: RunStarted) -> None:
            heard.append(self.name)

    tell(Observers([Named("a"), Observers([Named("b"), Observer()]), Named("c")]), STARTED)
    assert heard == ["a", "b", "c"]


def test_the_first_error_is_the_one_that_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    class Bad(Observer):
        def on_end(self, event: RunEnded) -> None:
            raise ValueError("bad")

    listener = Listener()
    with (
        caplog.at_level(logging.WARNING, logger="fedloge"),
        pytest.raises(OSError, match="disk"),
        told_to_the_end([Bad(), listener]) as observers,
    ):
        observers.on_start(STARTED)
        raise OSError("disk")
    assert "ValueError: bad" in caplog.text
    assert listener.heard[-1] == RunEnded(Path("runs/a"), "run a has stopped: disk", complete=False)


def test_a_run_that_never_started_does_not_end() -> None:
    listener = Listener()
    with pytest.raises(OSError, match="disk"), told_to_the_end([listener]):
        raise OSError("disk")
    assert listener.heard == []
