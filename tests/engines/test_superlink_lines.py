"""What the superlink engine makes of a run's log; `test_flwr_run` and the deployment's tests have the real thing."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

from fedloge.engines import superlink
from fedloge.errors import ConfigError, RunError
from fedloge.observer import Event, Observer, RoundDone, RunEnded, RunStarted
from fedloge.server.log_lines import Warned, in_json

STARTED = RunStarted(Path("/srv/runs/run"), "run", 1, 2, 3, "run run: rounds 1 to 2")
ROUND = RoundDone({"round": 1}, {"round": 1}, "round 1")
ENDED = RunEnded(Path("/srv/runs/run"), "run run is complete", complete=True)


class Listener(Observer):
    def __init__(self) -> None:
        self.heard: list[Event] = []

    def on_start(self, event: RunStarted) -> None:
        self.heard.append(event)

    def on_round(self, event: RoundDone) -> None:
        self.heard.append(event)

    def on_end(self, event: RunEnded) -> None:
        self.heard.append(event)


class Server:
    """A SuperLink whose log breaks off and is read again from its beginning."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
        self.log = [
            in_json(STARTED),
            "run run: a line of another version",
            in_json(Warned("one node did not say who it is")),
            in_json(ROUND),
        ]
        self.log.append(in_json(ENDED) if end == "completed" else "{")
        self.read, self.end = 0, end
        self.submitted: list[str] = []
        monkeypatch.setattr(superlink, "_lines", self.lines)
        monkeypatch.setattr(superlink, "_status", self.status)
        monkeypatch.setattr(superlink, "_submit", self.submit)
        monkeypatch.setattr(superlink.time, "sleep", lambda seconds: None)

    def submit(self, config: object, name: str) -> str:
        self.submitted.append(config.log_format)  # type: ignore[attr-defined]
        return "17"

    def lines(self, run_id: str, name: str) -> Iterator[str]:
        self.read = min(len(self.log), self.read + 2)
        yield from self.log[: self.read]

    def status(self, run_id: str, name: str) -> superlink._Status:
        if self.read < len(self.log):
            return superlink._Status("running", "")
        return superlink._Status(f"finished:{self.end}", "no reason given")


def test_observers_hear_the_runs_log_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server, listener = Server(monkeypatch, "completed"), Listener()
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        folder = superlink.run(harness.tiny(tmp_path), "lab", [listener])
    assert listener.heard == [STARTED, ROUND, ENDED]
    assert [record.getMessage() for record in caplog.records] == ["one node did not say who it is"]
    assert (folder, server.submitted) == (tmp_path / "run", ["json"])


def test_a_run_that_fails_there_ends_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, "failed")
    listener = Listener()
    problem = "run 17 on 'lab': finished:failed: no reason given"
    with pytest.raises(RunError, match=problem):
        superlink.run(harness.tiny(tmp_path), "lab", [listener])
    stopped = RunEnded(STARTED.folder, f"run run has stopped: {problem}", complete=False)
    assert listener.heard == [STARTED, ROUND, stopped]


def test_it_needs_a_connection(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--superlink NAME"):
        superlink.run(harness.tiny(tmp_path), "")


def test_flowers_refusal_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(
            [], 1, '{"success": false, "error-message": "no\\nroom"}', ""
        )

    monkeypatch.setattr(superlink.subprocess, "run", refused)
    with pytest.raises(RunError, match="flwr ls: no room"):
        superlink._ask("ls")
