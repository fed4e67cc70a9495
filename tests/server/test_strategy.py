from __future__ import annotations

from collections import Counter
from pathlib import Path

import harness
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedloge import messages as wire
from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.federation import open_federation
from fedloge.messages import Stamp
from fedloge.methods.method import Part
from fedloge.server.roster import Roster
from fedloge.server.strategy import RoundStrategy


def strategy(runs_dir: Path, **changes: object) -> tuple[RoundStrategy, LocalGrid]:
    config = harness.tiny(runs_dir, **changes)
    federation = open_federation(config)
    grid = LocalGrid(config)
    roster = Roster(grid, config.num_clients, federation.fingerprint)
    roster.wait(10)
    stamp = Stamp("run-1", "run", federation.fingerprint, (0,), 0, 0)
    nothing = {"train": {}, "evaluate": {}}
    return RoundStrategy(config, roster, federation.tensors(Part.SHARED), stamp, nothing), grid


def test_sampling_hangs_on_seed_and_round_alone(tmp_path: Path) -> None:
    one, _ = strategy(tmp_path, lr=0.01)
    two, _ = strategy(tmp_path / "b", lr=0.02, name="other")
    rounds = range(1, 40)
    assert [one.sample(r) for r in rounds] == [two.sample(r) for r in reversed(rounds)][::-1]
    other, _ = strategy(tmp_path, seed=1)
    assert [one.sample(r) for r in rounds] != [other.sample(r) for r in rounds]
    for drawn in map(one.sample, rounds):
        assert len(set(drawn)) == 3 and drawn == sorted(drawn) and set(drawn) <= set(range(4))
    counts = Counter(client for r in range(1, 400) for client in one.sample(r))
    assert all(abs(n / 399 - 0.75) < 0.1 for n in counts.values())  # nobody is forgotten


def test_evaluation_asks_everybody(tmp_path: Path) -> None:
    made, grid = strategy(tmp_path)
    arrays = wire.encode(made.template)
    messages = list(made.configure_evaluate(5, arrays, ConfigRecord(), grid))
    assert len(messages) == 4
    assert {Stamp.from_content(m.content).round for m in messages} == {5}


def test_a_message_names_run_attempt_and_round(tmp_path: Path) -> None:
    made, grid = strategy(tmp_path)
    (first, *_) = made.configure_train(7, wire.encode(made.template), ConfigRecord(), grid)
    stamp = Stamp.from_content(first.content)
    assert (stamp.run_id, stamp.attempt, stamp.round) == ("run-1", 1, 7)
    assert first.metadata.ttl == made.config.round_timeout


class Silent(LocalGrid):
    """Some nodes never register, or say something else."""

    def __init__(self, config, silent=(), says=None) -> None:
        super().__init__(config)
        self.silent, self.says = set(silent), says

    def carry(self, messages, timeout):
        for reply in super().carry(messages, timeout):
            if reply.metadata.src_node_id - 2 not in self.silent:
                if self.says is not None:
                    reply = Message(self.says(reply.content), reply_to=reply_to(messages, reply))
                yield reply


def reply_to(messages: list[Message], reply: Message) -> Message:
    wanted = reply.metadata.reply_to_message_id
    return next(m for m in messages if m.metadata.message_id == wanted)


def test_missing_nodes_are_named_after_the_deadline(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    roster = Roster(Silent(config, silent={1, 3}), 4, open_federation(config).fingerprint)
    with pytest.raises(RunError, match=r"2 of 4 clients did not register .*\(partition ids 1, 3\)"):
        roster.wait(0.01)


def changed(**metrics: int) -> object:
    def says(content: RecordDict) -> RecordDict:
        content[wire.METRICS] = MetricRecord({**content[wire.METRICS], **metrics})
        return content

    return says


@pytest.mark.parametrize(
    ("says", "words"),
    [
        (lambda content: wire.failure_content("no data here"), "no data here"),
        (lambda content: RecordDict(), "carries no metrics"),
        (changed(**{"partition-id": 9}), "says it holds partition 9, expected 0 to 3"),
        (changed(**{wire.NUM_EXAMPLES: -1}), "it says it holds -1 images"),
        (changed(**{wire.NUM_EXAMPLES: 2**40}), "it says it holds 1099511627776 images"),
        (
            lambda content: RecordDict({wire.METRICS: content[wire.METRICS]}),
            "its fingerprint is missing",
        ),
    ],
)
def test_who_cannot_take_part_is_said(tmp_path: Path, says, words: str) -> None:
    config = harness.tiny(tmp_path)
    roster = Roster(Silent(config, says=says), 4, open_federation(config).fingerprint)
    with pytest.raises(RunError, match=f"a client cannot take part: .*{words}"):
        roster.wait(5)


def test_another_fingerprint_cannot_take_part(tmp_path: Path) -> None:
    roster = Roster(LocalGrid(harness.tiny(tmp_path)), 4, "0" * 16)
    with pytest.raises(RunError, match="this run's is 0000000000000000"):
        roster.wait(5)
