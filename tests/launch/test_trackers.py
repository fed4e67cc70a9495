from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from harness import TINY

from fedloge.config import Config, from_flat
from fedloge.errors import PluginError
from fedloge.launch.run_on_engine import run_on_engine
from fedloge.launch.trackers import find_trackers, tracked
from fedloge.observer import RoundDone, RunStarted

WRITER = """
import json

class Writer:
    def __init__(self, folder, config):
        self.file = (folder / "tracked.jsonl").open("a")
        self.note(event="made", method=config["method"], name=config["name"])

    def note(self, **line):
        self.file.write(json.dumps(line) + "\\n")
        self.file.flush()

    def log(self, round, figures):
        self.note(event="log", round=round, figures=dict(figures))

    def close(self):
        self.note(event="close")

class Unmade(Writer):
    def __init__(self, folder, config):
        raise RuntimeError("no account")

class Fragile(Writer):
    def log(self, round, figures):
        super().log(round, figures)
        raise OSError("network is down")
"""


def config(tmp_path: Path, **changes: Any) -> Config:
    place = {"runs-dir": str(tmp_path / "runs"), "name": "one"}
    return from_flat(TINY | place | {"clients-per-round": 2, "evaluate-every": 2} | changes)


def run_tracked(given: Config, *names: str) -> None:
    with tracked(names, given) as observer:
        run_on_engine(given, "local", [observer])


def recorded(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


@pytest.fixture
def trackers(tmp_path: Path) -> str:
    path = tmp_path / "trackers.py"
    path.write_text(WRITER)
    return str(path)


def test_a_tracker_of_ones_own_gets_every_figure(tmp_path: Path, trackers: str) -> None:
    given = config(tmp_path)
    run_tracked(given, f"{trackers}:Writer")
    folder = tmp_path / "runs" / "one"
    events = recorded(folder, "tracked")
    assert [event["event"] for event in events] == ["made", "log", "log", "log", "close"]
    assert (events[0]["method"], events[0]["name"]) == ("fedloge", "one")
    timing = recorded(folder, "timing")
    for event, row, timed in zip(events[1:4], recorded(folder, "metrics"), timing, strict=True):
        assert event["round"] == row.pop("round")
        for key in [key for key, value in row.items() if isinstance(value, list)]:
            row[f"{key}/low"], row[f"{key}/high"] = row.pop(key)
        assert event["figures"].items() >= row.items()
        assert event["figures"]["time/bytes-up"] == timed["bytes-up"] > 0
    assert "global/realigned/all" in events[2]["figures"]
    assert "global/realigned/all" not in events[1]["figures"]


def test_a_tracker_that_fails_is_dropped_and_the_run_goes_on(
    tmp_path: Path, trackers: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{trackers}:Fragile", f"{trackers}:Writer"]
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        run_tracked(config(tmp_path), *names)
    events = [e["event"] for e in recorded(tmp_path / "runs" / "one", "tracked")]
    assert events.count("log") == 1 + 3 and events.count("close") == 1
    assert "Fragile' failed and is dropped: OSError: network is down" in caplog.text
    assert recorded(tmp_path / "runs" / "one", "metrics")[-1]["round"] == 3


def test_a_tracker_that_cannot_be_had_is_an_error(tmp_path: Path, trackers: str) -> None:
    with pytest.raises(PluginError, match="did you mean 'tensorboard'"):
        find_trackers(["tensorbord"])
    with pytest.raises(PluginError, match="unknown name in"):
        find_trackers([f"{trackers}:Wrter"])
    with pytest.raises(
        PluginError, match="could not be started: RuntimeError: no account; the run is kept"
    ):
        run_tracked(config(tmp_path), f"{trackers}:Unmade")


def test_figures_that_are_not_finite_are_left_out(tmp_path: Path, trackers: str) -> None:
    started = RunStarted(tmp_path, "one", 1, 3, 2, "run one")
    row = {"round": 1, "global/raw/all": float("nan"), "train/loss": 2.0, "note": "text"}
    with tracked([f"{trackers}:Writer"], config(tmp_path)) as observer:
        observer.on_start(started)
        observer.on_round(RoundDone(row, {"round": 1, "seconds": 0.5}, "round 1"))
    (logged,) = [e for e in recorded(tmp_path, "tracked") if e["event"] == "log"]
    assert logged == {
        "event": "log",
        "round": 1,
        "figures": {"train/loss": 2.0, "time/seconds": 0.5},
    }


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="tensorboard is not installed",
    )
    run_tracked(config(tmp_path), "tensorboard")
    # The run goes on: TensorBoard shows one curve, not the rounds twice.
    again = config(tmp_path, rounds=4, resume=True)
    again = again.replace(from_round=2)
    run_tracked(again, "tensorboard")
    folder = tmp_path / "runs" / "one"
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    rows = recorded(folder, "metrics")
    assert [row["round"] for row in rows] == [1, 2, 3, 4]
    logged = [(e.step, e.value) for e in events.Scalars("train/loss")]
    assert [step for step, _ in logged] == [1, 2, 3, 4]
    assert [value for _, value in logged] == pytest.approx([row["train/loss"] for row in rows])
    assert [e.step for e in events.Scalars("global/realigned/all")] == [2, 4]
    text = events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| method | fedloge |" in text
