"""Runs with secure aggregation leave, byte for byte, the record of plain runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import Message, RecordDict
from wrong_answers import change_answers, drawn

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines.local import LocalGrid
from fedloge.errors import ConfigError, RunError
from fedloge.messages.cohort import MASKED

FIVE = {"num_clients": 6, "clients_per_round": 5}


def config(folder: Path, name: str, **changes: Any) -> Config:
    return harness.tiny(folder, name, **(FIVE | changes))


class Listening(LocalGrid):
    """Keeps what clients answered, as it came to the server."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.heard: list[Message] = []

    def carry(self, messages, timeout):
        for reply in super().carry(messages, timeout):
            self.heard.append(reply)
            yield reply


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"method": "fednh", "rounds": 2},
        {"fast": True, "clients_at_once": 3, "rounds": 2},
        {"method": "fedavg", "validation_share": 0.2, "norm": "group"},
        {"probes": "collapse", "rounds": 1},
        {"average_bits": 32, "norm": "group", "secure_update_norm": 100.0},
    ],
    ids=[
        "fedloge",
        "method-with-sums",
        "clients-at-once",
        "probe-with-sums",
        "second-pass",
        "32-bits",
    ],
)
def test_the_record_is_that_of_the_plain_run(tmp_path: Path, changes: dict[str, Any]) -> None:
    open_too = {key: value for key, value in changes.items() if key != "secure_update_norm"}
    plain = harness.run_local(config(tmp_path, "plain", **open_too))
    grids: list[Listening] = []

    def listening(config: Config) -> Listening:
        grids.append(Listening(config))
        return grids[-1]

    secure = harness.run_local(
        config(tmp_path, "secure", secure_aggregation=True, **changes), listening
    )
    assert harness.differences(plain, secure) == []
    assert not harness.lines(secure, "failures")
    trained = [r for r in grids[0].heard if r.metadata.message_type == "train"]
    assert len(trained) == 5 * len(harness.lines(secure, "metrics"))
    for reply in trained:
        assert MASKED in reply.content
        assert not {wire.ARRAYS, wire.SUMS} & set(reply.content)
        assert set(reply.content[wire.METRICS]) == {wire.NUM_EXAMPLES, "images"}
    measured = [r for r in grids[0].heard if r.metadata.message_type.startswith("evaluate")]
    assert all(wire.SUMS not in reply.content for reply in measured)


def without_answer(content: RecordDict) -> None:
    del content[wire.METRICS]


def test_drop_outs_are_taken_out_of_the_sum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = drawn(config(tmp_path, "x"), 2)[3]
    change_answers(monkeypatch, without_answer, {one}, rounds={2})
    folders = [
        harness.run_local(config(tmp_path, str(on), secure_aggregation=on)) for on in (True, False)
    ]
    assert harness.differences(*folders) == []
    failures = [harness.lines(folder, "failures") for folder in folders]
    assert failures[0] == failures[1] and [row["client"] for row in failures[0]] == [one]


def test_a_round_whose_masks_stay_on_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = drawn(config(tmp_path, "x"), 2)[:2]
    change_answers(monkeypatch, RecordDict.clear, two, kind="query.unmask", rounds={2})
    folder = harness.run_local(config(tmp_path, "lost", secure_aggregation=True))
    rows = harness.lines(folder, "metrics")
    assert [row["clients"] for row in rows] == [5, 0, 5]
    assert "train/loss" not in rows[1] and rows[1]["failed"] == 5
    failures = harness.lines(folder, "failures")
    assert {row["client"] for row in failures} == set(drawn(config(tmp_path, "x"), 2))
    assert all("the sum was lost: 3 shares of client" in row["reason"] for row in failures)
    # The model is that of round 1.
    assert rows[1]["global/realigned/all"] == rows[0]["global/realigned/all"]
    assert rows[2]["global/realigned/all"] != rows[0]["global/realigned/all"]


def test_three_lost_rounds_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change_answers(monkeypatch, RecordDict.clear, range(6), kind="query.unmask")
    with pytest.raises(RunError, match="3 rounds in a row were lost"):
        harness.run_local(config(tmp_path, "lost", secure_aggregation=True))


def test_probes_whose_masks_stay_on_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"method": "fedavg", "validation_share": 0.2, "norm": "group", "rounds": 1}
    honest = Listening.carry

    def only_in_training(self, messages, timeout):
        asked = {str(m.content["unmask"]["kind"]) for m in messages if "unmask" in m.content}
        return iter(()) if asked == {"evaluate"} else honest(self, messages, timeout)

    monkeypatch.setattr(Listening, "carry", only_in_training)
    made = config(tmp_path, "lost", secure_aggregation=True, **changes)
    (row,) = harness.lines(harness.run_local(made, Listening), "metrics")
    assert row["clients"] == 5 and "global/raw/all" in row
    assert not any(key.startswith("probe/") for key in row)


def test_resumed_equals_never_interrupted(tmp_path: Path) -> None:
    whole = harness.run_local(config(tmp_path, "whole", secure_aggregation=True))
    part = harness.run_local(config(tmp_path, "part", secure_aggregation=True, rounds=2))
    harness.resume_local(part, rounds=3, from_round=1)  # round 2 is repeated, over the same clients
    assert harness.differences(whole, part) == []


def test_a_resumed_round_over_other_clients_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would learn the difference of two sums; the clients refuse, and the run goes on."""
    one = drawn(config(tmp_path, "x"), 2)[0]
    folder = harness.run_local(config(tmp_path, "part", secure_aggregation=True, rounds=2))
    change_answers(monkeypatch, without_answer, {one}, rounds={2})
    harness.resume_local(folder, rounds=3, from_round=1)
    assert [row["clients"] for row in harness.lines(folder, "metrics")] == [5, 0, 5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"aggregation": "median"}, "compares single updates"),
        ({"aggregation": "krum", "byzantine_clients": 1}, "compares single updates"),
        ({"dp_clip": 1.0}, "dp-clip clips single updates"),
        ({"wire_dtype": "float16"}, "saves nothing"),
        ({"clients_per_round": 2}, "says too much of each"),
        ({"num_clients": 3000}, "2000 clients at most"),
        ({"secure_neighbours": 3}, "multiple of 2"),
    ],
)
def test_what_it_excludes_is_refused_when_the_config_is_built(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, "x", secure_aggregation=True, **changes)


def test_its_settings_are_not_read_without_it(tmp_path: Path) -> None:
    for key, value in (("secure_neighbours", 4), ("secure_threshold", "half")):
        with pytest.raises(ConfigError, match="set secure-aggregation=true"):
            config(tmp_path, "x", **{key: value})


def test_a_plain_answer_is_refused_by_a_server_that_asked_for_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plain(content: RecordDict) -> None:
        content[wire.ARRAYS] = content[MASKED]
        del content[MASKED]

    change_answers(monkeypatch, plain, {0, 1}, rounds={1})
    folder = harness.run_local(
        config(tmp_path, "x", secure_aggregation=True, num_clients=7, clients_per_round=7, rounds=1)
    )
    reasons = [row["reason"] for row in harness.lines(folder, "failures")]
    assert len(reasons) == 2 and all("'arrays', which is not known" in text for text in reasons)


def test_32_bits_halve_what_is_sent_and_hardly_move_the_mean(tmp_path: Path) -> None:
    both = {"secure_aggregation": True, "norm": "group", "rounds": 1}
    wide = harness.run_local(config(tmp_path, "wide", **both))
    narrow = harness.run_local(config(tmp_path, "narrow", average_bits=32, **both))
    up = [harness.lines(folder, "timing")[0]["bytes-up"] for folder in (wide, narrow)]
    assert 0.5 < up[1] / up[0] < 0.53
    one, other = harness.newest_checkpoint(wide), harness.newest_checkpoint(narrow)
    off = max(float((one[name] - other[name]).abs().max()) for name in one)
    assert 0 < off < 1e-6


def test_a_client_keeps_an_update_that_is_too_long_to_itself(tmp_path: Path) -> None:
    long = config(tmp_path, "long", secure_aggregation=True, secure_update_norm=1e-6)
    with pytest.raises(RunError, match="secure-update-norm allows 1e-06; it is not sent"):
        harness.run_local(long)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"secure_update_norm": 1.0}, "secure-update-norm is not read here"),
        ({"average_bits": 32, "aggregation": "median"}, "average-bits is not read here"),
        ({"average_bits": 16}, "average-bits"),
    ],
)
def test_what_is_not_read_is_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, "x", **changes)
