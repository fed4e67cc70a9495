"""Who is who: nodes that claim what is another's, say nothing, or say anything."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from fedloge import messages as wire
from fedloge.engines import own_grid
from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.federation import open_federation
from fedloge.server import roster as rosters
from fedloge.server.roster import Roster

STRANGER = 99


class Strange(LocalGrid):
    """Beside the clients' nodes there is one more, which answers as it likes or not at all."""

    nodes_are_fixed = False

    def __init__(
        self, config: Any, says: Callable[[], RecordDict | None], first: bool = False
    ) -> None:
        super().__init__(config)
        self.says, self.asked = says, 0
        self.gone: set[int] = set()
        self._all = [STRANGER, *self._nodes] if first else [*self._nodes, STRANGER]

    def get_node_ids(self) -> list[int]:
        return [node for node in self._all if node not in self.gone]

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for message in messages:
            if message.metadata.dst_node_id != STRANGER:
                yield from super().carry([message], timeout)
                continue
            self.asked += 1
            if (content := self.says()) is not None:
                reply = Message(content, reply_to=message)
                reply.metadata.__dict__["_src_node_id"] = STRANGER
                yield reply


def claim(fingerprint: str, partition: Any = 1, images: Any = 5) -> RecordDict:
    metrics = {"partition-id": partition, wire.NUM_EXAMPLES: images}
    content = RecordDict({wire.METRICS: MetricRecord(metrics)})
    content["identity"] = ConfigRecord({"fingerprint": fingerprint})
    return content


def roster_with(
    runs_dir: Path, says: Callable[[str], RecordDict | None], **times: float
) -> tuple[Roster, Strange]:
    config = harness.tiny(runs_dir)
    fingerprint = open_federation(config).fingerprint
    grid = Strange(config, lambda: says(fingerprint))
    return Roster(grid, config.num_clients, fingerprint, **times), grid


def test_the_first_claimant_keeps_its_partition_while_it_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    roster, grid = roster_with(tmp_path, claim)
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        roster.wait(10)
        for _ in range(3):
            roster.refresh()
    assert roster.members()[1].node_id == 3 and roster.missing() == []
    (said,) = [r.getMessage() for r in caplog.records if "claims partition" in r.getMessage()]
    assert said.startswith("node 99 claims partition 1, which node 3 holds; refused")
    assert grid.asked == 1
    # The other is asked again once the first has gone, and gets it.
    grid.gone.add(3)
    roster.refresh()
    assert roster.members()[1].node_id == STRANGER and grid.asked == 2
    # Whoever comes back is now the second.
    grid.gone.clear()
    roster.refresh()
    assert roster.members()[1].node_id == STRANGER


def test_a_second_claimant_changes_no_bit_of_a_run(tmp_path: Path) -> None:
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=2))
    config = harness.tiny(tmp_path, "contested", rounds=2)
    fingerprint = open_federation(config).fingerprint
    made = Strange(config, lambda: claim(fingerprint, images=2**20))
    contested = harness.run_local(config, lambda _: made)
    assert harness.differences(plain, contested) == []
    assert not (contested / "failures.jsonl").exists()


def test_a_mute_node_costs_no_time_where_nobody_is_missing(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, rounds=2)
    began = time.monotonic()
    made = Strange(config, lambda: None)
    folder = harness.run_local(config, lambda _: made)
    assert len(harness.lines(folder, "metrics")) == 2
    assert time.monotonic() - began < 25, "whoami-timeout is 30 s"
    assert made.asked == 1


def test_a_mute_node_is_waited_for_once_where_its_partition_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[RecordDict | None] = []
    roster, grid = roster_with(
        tmp_path, lambda f: answers[0] if answers else None, whoami_timeout=0.6, patience=2.0
    )
    roster.wait(10)
    grid.gone.add(3)
    began = time.monotonic()
    while time.monotonic() < began + 0.7:
        roster.refresh()
    assert roster.missing() == [1]
    # It has been waited for already.
    with monkeypatch.context() as patch:
        patch.setattr(rosters.time, "sleep", lambda seconds: pytest.fail("waits again"))
        roster.refresh()
    # It is asked again later, and takes part once it answers.
    answers.append(claim(roster._fingerprint))
    asked = grid.asked
    time.sleep(max(0.0, began + 2.1 - time.monotonic()))
    roster.refresh()
    assert grid.asked == asked + 1 and roster.missing() == []


def test_a_late_answer_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roster, grid = roster_with(tmp_path, claim, whoami_timeout=0.1)
    late: list[Message] = []
    honest = grid.pull_messages

    def slow(ids: Any) -> list[Message]:
        if late:
            return honest(ids)
        return [m for m in honest(ids) if m.metadata.src_node_id != STRANGER or late.append(m)]

    grid.gone.add(3)
    monkeypatch.setattr(grid, "pull_messages", slow)
    with pytest.raises(RunError, match=r"\(partition ids 1\)"):
        roster.wait(0.05)
    (answer,) = late
    grid._replies[answer.metadata.reply_to_message_id] = answer
    roster.refresh()
    assert roster.members()[1].node_id == STRANGER


ANYTHING = {
    "a refusal": lambda f: wire.failure_content("no\x1b[2J\nround 9 " + "x" * 999),
    "nothing": lambda f: RecordDict(),
    "another record": lambda f: RecordDict({**claim(f), "more": ConfigRecord({"x": 1})}),
    "identity of another kind": lambda f: RecordDict({**claim(f), "identity": MetricRecord({"a": 1})}),
    "identity without a fingerprint": lambda f: RecordDict({**claim(f), "identity": ConfigRecord({"a": 1})}),
    "partition 1.0": lambda f: claim(f, partition=1.0),
    "partitions": lambda f: claim(f, partition=[1]),
    "a partition of many digits": lambda f: claim(f, partition=10**5000),
    "images of many digits": lambda f: claim(f, images=10**5000),
    "half an image": lambda f: claim(f, images=0.5),
    "a wrong fingerprint": lambda f: claim("f" * 10**5),
}  # fmt: skip


@pytest.mark.parametrize("name", ANYTHING)
def test_a_stranger_stops_no_start_and_no_run(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = harness.tiny(tmp_path, rounds=1)
    fingerprint = open_federation(config).fingerprint
    made = Strange(config, lambda: ANYTHING[name](fingerprint), first=True)
    with caplog.at_level(logging.WARNING, logger="fedloge"):
        folder = harness.run_local(config, lambda _: made)
    assert len(harness.lines(folder, "metrics")) == 1
    (said,) = [r.getMessage() for r in caplog.records if "node 99 cannot" in r.getMessage()]
    assert said.isprintable() and len(said) < 400


def test_a_stranger_does_not_stop_the_start_before_the_last_node_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster, grid = roster_with(tmp_path, lambda f: RecordDict())
    grid.gone.add(5)
    looked = roster._look

    def look() -> set[int]:
        if time.monotonic() > began + 1:
            grid.gone.clear()
        return looked()

    monkeypatch.setattr(roster, "_look", look)
    began = time.monotonic()
    roster.wait(20)
    assert roster.missing() == []
    # Where nobody else comes, the start is given up, and the reason said.
    monkeypatch.setattr(rosters, "_GRACE_SECONDS", 0.6)
    other, grid = roster_with(tmp_path, lambda f: RecordDict())
    grid.gone.add(5)
    with pytest.raises(RunError, match="a client cannot take part: the reply carries no metrics"):
        other.wait(20)


def test_a_client_that_raises_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = own_grid.client_app, []

    def app(message: Message, context: Any) -> Message:
        if context.node_config["partition-id"] == 2 and not calls:
            calls.append(1)
            raise OSError("the disk is not there yet")
        return honest(message, context)

    monkeypatch.setattr(own_grid, "client_app", app)
    monkeypatch.setattr(rosters, "_AGAIN_SECONDS", 0.2)
    roster, _ = roster_with(tmp_path, claim)
    roster.wait(20)
    assert roster.missing() == []
