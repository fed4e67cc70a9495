"""Rounds that do not wait for the slowest: who is taken, and that the same answers give the same bits."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import harness
import pytest
from harness import arrivals, model
from late_answers import LateAnswers

from fedloge.config import Config
from fedloge.errors import ConfigError, RunDirError
from fedloge.server import deliveries
from fedloge.server.arrival_record import ArrivalRecord, Arrivals
from fedloge.server.virtual_clock import VirtualClock

SIX: dict[str, Any] = {"num_clients": 6, "clients_per_round": 2, "clients_drawn": 5}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.01)


# The simulated clock


def test_speeds_lie_between_one_and_the_spread_log_uniformly(tmp_path: Path) -> None:
    clock = VirtualClock(harness.tiny(tmp_path, num_clients=400, speed_spread=20.0), {})
    slow = [clock.slowness(client) for client in range(400)]
    assert 1 <= min(slow) < 1.05 and 19 < max(slow) <= 20
    assert sum(math.log(s, 20) for s in slow) / 400 == pytest.approx(0.5, abs=0.05)


def test_a_client_that_is_busy_begins_later(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, speed_spread=1.0, local_epochs=2, example_seconds=0.5)
    clock = VirtualClock(config, {})
    assert clock.answered(0, 10) == 10.0  # 10 examples, twice, half a second each
    clock.now = 4.0
    assert clock.answered(0, 10) == 20.0 and clock.answered(1, 10) == 14.0
    again = VirtualClock(config, clock.state())
    assert again.now == 4.0 and again.answered(0, 1) == 21.0


def test_without_over_sampling_the_clock_only_tells_the_time(tmp_path: Path) -> None:
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=2))
    timed = harness.run_local(harness.tiny(tmp_path, "timed", rounds=2, speed_spread=20.0))
    (only,) = harness.differences(plain, timed, ("clients.jsonl", "classes.jsonl"))
    assert only == "checkpoint", "it holds the clock beside the same model"
    assert harness.same_tensors(model(plain), model(timed))
    rows = harness.lines(timed, "metrics")
    times = [row.pop("clock/seconds") for row in rows]
    assert rows == harness.lines(plain, "metrics") and 0 < times[0] < times[1]


# Who is taken


def expected(config: Config, folder: Path) -> list[tuple[float, int]]:
    """When each client of round 1 answers, if nobody is busy yet."""
    counts = json.loads((folder / "run.json").read_text())["train-counts"]
    assert sum(counts) > 0
    sizes = {row["client"]: row["num-train"] for row in harness.lines(folder, "clients")}
    clock = VirtualClock(config, {})
    return sorted((clock.answered(k, sizes[k]), k) for k in sizes)


def test_without_a_deadline_the_fastest_count(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=1, speed_spread=20.0, **SIX)
    folder = harness.run_local(config)
    (line,) = arrivals(folder)
    (row,) = harness.lines(folder, "metrics")
    asked = expected(config, folder)
    came = [(seconds, client) for kind, client, seconds in line["events"]]
    # Of six, five were drawn.
    assert came == [pair for pair in asked if pair in came][:2] and len(came) == 2
    assert line["taken"] == sorted(client for _, client in came)
    assert (row["clients"], row["failed"], row["drawn"]) == (2, 0, 5)
    assert row["clock/seconds"] == line["seconds"] == came[-1][0]


def test_a_deadline_for_all_makes_speed_worthless(tmp_path: Path) -> None:
    """Everybody is in time, so who is taken is the draw's, whatever the speeds."""
    taken = []
    for name, spread in (("slow", 20.0), ("alike", 1.0)):
        changes = SIX | {"speed_spread": spread, "round_deadline": 1e6, "rounds": 2}
        taken.append(
            [
                x["taken"]
                for x in arrivals(harness.run_local(harness.tiny(tmp_path, name, **changes)))
            ]
        )
    assert taken[0] == taken[1]


def test_a_simulation_without_speeds_has_clients_of_one_speed(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1, **SIX))
    events = arrivals(folder)[0]["events"]
    sizes = {row["client"]: row["num-train"] for row in harness.lines(folder, "clients")}
    assert [seconds for _, _, seconds in events] == pytest.approx(
        [0.01 * sizes[client] for _, client, _ in events]
    )


# The same bits


def test_interrupted_and_resumed_is_never_interrupted(tmp_path: Path) -> None:
    changes: dict[str, Any] = SIX | {
        "speed_spread": 20.0,
        "round_deadline": 30.0,
        "evaluate_every": 2,
    }
    whole = harness.run_local(harness.tiny(tmp_path, "whole", rounds=4, **changes))
    parts = harness.run_local(harness.tiny(tmp_path, "parts", rounds=3, **changes))
    harness.resume_local(parts, rounds=4, from_round=2)
    assert harness.differences(whole, parts) == []
    assert (whole / "arrivals.jsonl").read_bytes() == (parts / "arrivals.jsonl").read_bytes()


def test_answers_of_the_real_clock_are_replayed_whoever_is_fast_then(tmp_path: Path) -> None:
    delays = {client: 0.05 * client for client in range(6)}
    rarely = {"rounds": 3, "evaluate_every": 3, "checkpoint_every": 3}
    config = harness.tiny(tmp_path, "real", **rarely, **SIX)
    grids: list[LateAnswers] = []

    def slow_last(config: Config) -> LateAnswers:
        return LateAnswers(config, {k: delays[5 - k] for k in delays})

    folder = harness.run_local(config, lambda c: grids.append(LateAnswers(c, delays)) or grids[-1])
    recorded = [line["taken"] for line in arrivals(folder)]
    first = model(folder)
    assert all(client < 5 for taken in recorded for client in taken)
    metrics = (folder / "metrics.jsonl").read_bytes()
    # Done again from the beginning, with those slow that were fast, and again in the local engine.
    harness.resume_local(folder, slow_last, from_round=0)
    assert harness.same_tensors(first, model(folder))
    harness.resume_local(folder, from_round=0)
    assert harness.same_tensors(first, model(folder))
    assert [line["taken"] for line in arrivals(folder)] == recorded
    assert len(metrics.splitlines()) == 3 and not (folder / "failures.jsonl").exists()


def test_a_slow_client_holds_up_no_round(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=2, **SIX | {"clients_drawn": 6})
    folder = harness.run_local(config, lambda c: LateAnswers(c, mute={0, 3}))
    assert [row["clients"] for row in harness.lines(folder, "metrics")] == [2, 2]
    assert not {0, 3} & {client for line in arrivals(folder) for client in line["taken"]}
    assert not (folder / "failures.jsonl").exists(), "nobody failed; two were not needed"


def test_one_that_is_gone_at_a_replay_is_replaced_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = harness.tiny(tmp_path, rounds=2, round_timeout=0.5, **SIX | {"clients_drawn": 6})
    folder = harness.run_local(config, LateAnswers)
    gone = arrivals(folder)[1]["taken"][0]
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        harness.resume_local(folder, lambda c: LateAnswers(c, mute={gone}), from_round=1)
    said = [r.getMessage() for r in caplog.records if "cannot be repeated" in r.getMessage()]
    why = "no answer within 0.5 s, or its node has gone"
    assert said == [
        f"round 2 cannot be repeated with the answers that it had: client {gone}: {why}"
    ]
    assert gone not in arrivals(folder)[1]["taken"]


# The record


def test_a_line_that_differs_takes_the_place_of_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    record = ArrivalRecord(path)
    lines = [Arrivals(n, (n, 7), (("came", n, 0.1), ("came", 7, 0.3)), 0.3) for n in (1, 2, 3)]
    for line in lines:
        record.write(line)
    before = path.read_bytes()
    ArrivalRecord(path).write(lines[1])
    assert path.read_bytes() == before
    other = Arrivals(2, (5,), (("failed", 2, 0.2), ("came", 5, 0.25)), 0.25)
    ArrivalRecord(path).write(other)
    again = ArrivalRecord(path)
    assert [again.of(n) for n in (1, 2, 3)] == [lines[0], other, None]
    # Half a line, left by a kill, counts as none, and is not continued.
    path.write_bytes(path.read_bytes()[:-9])
    torn = ArrivalRecord(path)
    assert torn.of(2) is None
    torn.write(other)
    assert ArrivalRecord(path).of(2) == other and len(path.read_text().splitlines()) == 2


def test_a_damaged_line_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.jsonl"
    path.write_text('{"round": 1, "taken": ["x"], "events": [], "seconds": 1}\n')
    with pytest.raises(RunDirError, match=r"arrivals\.jsonl: line 1 is damaged; restore"):
        ArrivalRecord(path)


# What is refused


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clients_drawn": 3}, "clients-drawn is 3; expected more than clients-per-round, 3"),
        ({"clients_drawn": 5}, "clients-drawn is 5, but 4 clients train"),
        ({"round_deadline": 2.0}, "round-deadline is not read here"),
        ({"example_seconds": 2.0}, "example-seconds is not read here"),
        ({"speed_spread": 0.5}, "expected 0, or 1 and more, got 0.5"),
        ({"clients_drawn": 4, "secure_aggregation": True}, "leave secure-aggregation out"),
        ({"clients_drawn": 4, "dp_clip": 1.0}, "leave dp-clip out"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        harness.tiny(tmp_path, **changes)


def test_a_method_that_asks_no_client_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'centralised' trains at one place"):
        harness.run_local(harness.tiny(tmp_path, method="centralised", speed_spread=2.0))
