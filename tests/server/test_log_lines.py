from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Literal

import harness
import pytest

from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.observer import ClientAnswered, Event, RoundDone, RunEnded, RunStarted
from fedloge.server.log_lines import PREFIX, LogLines, Warned, from_json, in_json, observed

EVENTS = [
    RunStarted(Path("/runs/a"), "a", 3, 10, 4, "run a: rounds 3 to 10"),
    ClientAnswered("train", 1, 4),
    RoundDone({"round": 3, "train/loss": 0.5}, {"round": 3, "seconds": 1.5}, "round 3\n  loss"),
    RunEnded(Path("/runs/a"), "run a is complete", complete=True),
    Warned('"quoted" and ünusual'),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_an_event_comes_out_as_it_went_in(event: Event | Warned) -> None:
    line = in_json(event)
    assert "\n" not in line
    assert from_json(line) == event


@pytest.mark.parametrize(
    "line",
    [
        "",
        "run a: rounds 3 to 10",
        "{",
        "[]",
        "3",
        "null",
        '{"text": "x"}',
        '{"event": ["start"], "text": "x"}',
        '{"event": "begin", "text": "x"}',
        '{"event": "warning"}',
        '{"event": "warning", "text": 3}',
        '{"event": "warning", "text": "x", "more": 1}',
        '{"event": "round", "row": {}, "timing": {}, "text": "x"}',
        '{"event": "round", "row": {"round": "3"}, "timing": {}, "text": "x"}',
        '{"event": "end", "folder": null, "text": "x", "complete": true}',
        in_json(EVENTS[0])[:-1],
    ],
)
def test_a_malformed_line_is_no_event(line: str) -> None:
    assert from_json(line) is None


class FlowersGrid(LocalGrid):
    """Without observers, as Flower's own grids are."""

    def __getattribute__(self, name: str) -> object:
        if name == "observers":
            raise AttributeError(name)
        return super().__getattribute__(name)

    def note(self, reply: object, done: int, of: int) -> None:
        pass


def said(folder: Path, capsys: pytest.CaptureFixture[str], **changes: object) -> list[str]:
    config = harness.tiny(folder, rounds=2, **changes)
    grid = FlowersGrid(config)
    from fedloge.server.server_app import app

    app(grid, grid.server_context())
    return capsys.readouterr().out.splitlines()


def test_lines_for_people_under_flowers_engines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, one, two, last = said(tmp_path, capsys)
    assert first == "fedloge: run run: rounds 1 to 2"
    assert one.startswith("fedloge: round 1  loss ") and two.startswith("fedloge: round 2  loss ")
    assert last == f"fedloge: run run is complete: {tmp_path / 'run'}"


def test_lines_for_the_superlink_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(tmp_path, capsys, log_format="json")
    events = [from_json(line.removeprefix(PREFIX)) for line in lines]
    folder = tmp_path / "run"
    assert events[0] == RunStarted(folder, "run", 1, 2, 3, "run run: rounds 1 to 2")
    rounds = [event for event in events if isinstance(event, RoundDone)]
    assert [event.row for event in rounds] == harness.lines(folder, "metrics")
    assert events[-1] == RunEnded(folder, f"run run is complete: {folder}", complete=True)
    # It says how the run talks, not what it computes.
    text = json.loads((folder / "run.json").read_text())
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=2))
    assert json.loads((plain / "run.json").read_text())["fingerprint"] == text["fingerprint"]


def test_warnings_stand_among_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grid = FlowersGrid(harness.tiny(tmp_path))
    logger = logging.getLogger("fedloge")
    before = logger.propagate, list(logger.handlers)
    with pytest.raises(OSError, match="disk"), observed(grid, "json") as observers:
        observers.on_start(EVENTS[0])  # type: ignore[arg-type]
        logging.getLogger("fedloge.learning.loop").warning("%d images", 3)
        raise OSError("disk")
    assert (logger.propagate, logger.handlers) == before
    start, warned, ended = (
        from_json(line.removeprefix(PREFIX)) for line in capsys.readouterr().out.splitlines()
    )
    assert (start, warned) == (EVENTS[0], Warned("3 images"))
    assert ended == RunEnded(Path("/runs/a"), "run a has stopped: disk", complete=False)


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_run_that_cannot_start_says_so_to_a_person(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], log_format: Literal["text", "json"]
) -> None:
    grid = FlowersGrid(harness.tiny(tmp_path))
    with pytest.raises(RunError), observed(grid, log_format):
        raise RunError("no clients")
    # The superlink engine asks Flower how a run ended.
    told = "fedloge: the run has not started: no clients\n" if log_format == "text" else ""
    assert capsys.readouterr().out == told


def test_text_lines() -> None:
    stream = io.StringIO()
    lines = LogLines("text", stream)
    lines.on_round(RoundDone({"round": 1}, {}, "round 1"))
    lines.on_client(ClientAnswered("train", 1, 2))
    assert stream.getvalue() == "fedloge: round 1\n"
