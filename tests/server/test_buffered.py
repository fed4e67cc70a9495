"""Training without rounds: what a step is made of, and that the same arrivals give the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from harness import arrivals, model
from late_answers import LateAnswers

from fedloge.engines import own_grid
from fedloge.errors import ConfigError, RunError
from fedloge.server import deliveries
from fedloge.server.flights import FLIGHTS

EIGHT: dict[str, Any] = {"num_clients": 8, "clients_per_round": 4, "buffer_size": 2}
SPREAD: dict[str, Any] = EIGHT | {"speed_spread": 20.0}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.01)


def replayed(folder: Path) -> tuple[dict[int, tuple[int, int]], int]:
    """Checks the record of a run by itself; each client's newest (asked, base), and how many answers came."""
    at_work: dict[int, int] = {}
    came, newest = 0, dict[int, tuple[int, int]]()
    for line in arrivals(folder):
        step, answered = line["round"], set()
        for kind, client, _ in line["events"]:
            if kind == "asked":
                assert client not in at_work and client not in answered
                at_work[client] = step - 1
                newest[client] = (step, step - 1)
            else:
                del at_work[client]
                answered.add(client)
                came += kind == "came"
            assert len(at_work) <= 4
        assert line["taken"] == sorted(answered) and len(answered) == 2
    return newest, came


def test_slow_clients_hold_up_nobody_and_count_less(tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path, rounds=8, evaluate_every=8, **SPREAD))
    rows = harness.lines(folder, "metrics")
    _, came = replayed(folder)
    assert came == 16 and [row["clients"] for row in rows] == [2] * 8
    times = [row["clock/seconds"] for row in rows]
    assert times == sorted(times) and times[-1] == arrivals(folder)[-1]["seconds"]
    assert rows[0]["staleness/most"] == 0 and max(row["staleness/most"] for row in rows) >= 2
    # Between two steps nobody answers twice, and answers come in the order of the clock.
    for line in arrivals(folder):
        seconds = [at for _, _, at in line["events"]]
        assert seconds == sorted(seconds)


def test_a_buffer_of_everybody_is_a_round_to_the_bit(tmp_path: Path) -> None:
    everybody: dict[str, Any] = {"num_clients": 4, "clients_per_round": 4}
    rounds = harness.run_local(harness.tiny(tmp_path, "rounds", **everybody))
    changes = everybody | {"buffer_size": 4, "speed_spread": 20.0}
    buffered = harness.run_local(harness.tiny(tmp_path, "buffered", **changes))
    assert harness.same_tensors(model(rounds), model(buffered))
    assert harness.heads(rounds).keys() == harness.heads(buffered).keys()
    ours, theirs = harness.lines(rounds, "metrics"), harness.lines(buffered, "metrics")
    assert all(theirs[n][key] == value for n, row in enumerate(ours) for key, value in row.items())
    assert (rounds / "clients.jsonl").read_bytes() == (buffered / "clients.jsonl").read_bytes()


@pytest.mark.parametrize("further", [{}, {"wire_dtype": "float16", "server_optimiser": "fedavgm"}])
def test_interrupted_and_resumed_is_never_interrupted(tmp_path: Path, further: Any) -> None:
    changes = SPREAD | {"evaluate_every": 2} | further
    whole = harness.run_local(harness.tiny(tmp_path, "whole", rounds=6, **changes))
    parts = harness.run_local(harness.tiny(tmp_path, "parts", rounds=4, **changes))
    kept = harness.newest_checkpoint(parts)
    flights = kept[f"server.{FLIGHTS}flights"]
    assert len(flights) >= 2 and int(flights[:, 1].min()) < 3, "some are behind by more than a step"
    harness.resume_local(parts, rounds=6, from_round=3)
    harness.resume_local(parts, from_round=5)
    assert harness.differences(whole, parts) == []
    assert (whole / "arrivals.jsonl").read_bytes() == (parts / "arrivals.jsonl").read_bytes()


def test_arrivals_of_the_real_clock_are_replayed_whoever_is_fast_then(tmp_path: Path) -> None:
    delays = {client: 0.04 * client for client in range(8)}
    config = harness.tiny(tmp_path, rounds=4, evaluate_every=4, checkpoint_every=4, **EIGHT)
    folder = harness.run_local(config, lambda c: LateAnswers(c, delays))
    replayed(folder)
    first, before = model(folder), harness.heads(folder)
    record = (folder / "arrivals.jsonl").read_bytes()
    turned = {client: delays[7 - client] for client in delays}
    harness.resume_local(folder, lambda c: LateAnswers(c, turned), from_round=0)
    assert harness.same_tensors(first, model(folder)) and _same_heads(before, folder)
    # The local engine repeats what a deployment recorded.
    harness.resume_local(folder, from_round=0)
    assert harness.same_tensors(first, model(folder)) and _same_heads(before, folder)
    assert (folder / "arrivals.jsonl").read_bytes() == record


def _same_heads(before: dict[str, Any], folder: Path) -> bool:
    now = harness.heads(folder)
    return now.keys() == before.keys() and all(
        harness.same_tensors(before[client], now[client]) for client in now
    )


def test_a_client_that_raises_costs_its_own_place_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = own_grid.client_app

    def app(message: Any, context: Any) -> Any:
        if (
            context.node_config["partition-id"] in (1, 5)
            and message.metadata.message_type == "train"
        ):
            raise OSError("no disk")
        return honest(message, context)

    monkeypatch.setattr(own_grid, "client_app", app)
    folder = harness.run_local(harness.tiny(tmp_path, rounds=5, evaluate_every=5, **SPREAD))
    assert [row["clients"] for row in harness.lines(folder, "metrics")] == [2] * 5
    failed = {
        (row["client"], row["reason"].split(":")[0]) for row in harness.lines(folder, "failures")
    }
    assert failed and failed <= {(1, "error 2"), (5, "error 2")}


def test_where_nobody_answers_the_run_stops_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path, rounds=2, round_timeout=0.2, **EIGHT)
    with pytest.raises(
        RunError, match=r"step 1: 0 clients gave .*the quorum is 1 .*no answer within 0\.2 s"
    ):
        harness.run_local(config, lambda c: LateAnswers(c, mute=range(8)))


def test_a_mute_client_holds_up_no_step(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=3, evaluate_every=3, **EIGHT)
    folder = harness.run_local(config, lambda c: LateAnswers(c, mute={0, 1, 2}))
    assert len(harness.lines(folder, "metrics")) == 3
    assert not {0, 1, 2} & {client for line in arrivals(folder) for client in line["taken"]}


def test_a_personal_model_is_the_one_of_the_clients_newest_answer(tmp_path: Path) -> None:
    """Each client trains on from its own last state, however far behind; nobody's is overwritten by an older one."""
    folder = harness.run_local(harness.tiny(tmp_path, rounds=8, evaluate_every=8, **SPREAD))
    newest, _ = replayed(folder)
    for client, (step, _) in newest.items():
        versions = sorted((folder / f"heads/client-{client:05d}").glob("round-*.safetensors"))
        assert versions[-1].name == f"round-{step:06d}.safetensors"
        with versions[-1].open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            said = json.loads(json.loads(file.read(length))["__metadata__"]["fedloge"])
        asked = sum(
            event[:2] == ["asked", client] for line in arrivals(folder) for event in line["events"]
        )
        assert said["rounds-trained"] == asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"buffer_size": 4}, "buffer-size is 4, more than the 3 clients"),
        ({"buffer_size": 2, "clients_drawn": 4}, "set one of them"),
        ({"buffer_size": 2, "secure_aggregation": True}, "leave secure-aggregation out"),
        ({"buffer_size": 2, "dp_clip": 1.0}, "leave dp-clip out"),
        ({"buffer_size": 2, "aggregation": "median"}, "set aggregation=mean"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        harness.tiny(tmp_path, **changes)


@pytest.mark.parametrize("method", ["creff", "fedgrab", "fednh", "rucr", "fed3r", "fedyoyo"])
def test_a_method_that_needs_a_whole_round_is_refused(tmp_path: Path, method: str) -> None:
    with pytest.raises(ConfigError, match=f"buffer-size: method '{method}' needs the answers"):
        harness.run_local(harness.tiny(tmp_path, method=method, buffer_size=2))
    assert not (tmp_path / "run").exists()


def test_a_model_that_diverges_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"of 8192 or more|not finite"):
        harness.run_local(harness.tiny(tmp_path, rounds=3, method="fedavg", lr=1e4, **EIGHT))
    assert torch.isfinite(torch.cat([t.flatten() for t in model(tmp_path / "run").values()])).all()
