from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fedloge import messages as wire
from fedloge.engines import own_grid as grid
from fedloge.engines.local import LocalGrid
from fedloge.errors import RunError
from fedloge.federation import open_federation
from fedloge.methods.method import Part

ClientApp = Callable[[Message, Context], Message]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return harness.run_local(harness.tiny(tmp_path_factory.mktemp("runs"), "reference"))


# One seed, one result


def test_a_seed_gives_one_result_wherever_and_under_whatever_name(
    reference: Path, tmp_path: Path
) -> None:
    again = harness.run_local(harness.tiny(tmp_path / "elsewhere", "another-name"))
    assert harness.differences(reference, again) == []
    assert (reference / "checkpoint/round-000003.safetensors").read_bytes() == (
        again / "checkpoint/round-000003.safetensors"
    ).read_bytes()


def test_random_state_of_the_process_is_neither_read_nor_moved(
    reference: Path, tmp_path: Path
) -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = harness.run_local(harness.tiny(tmp_path))
    assert torch.equal(before, torch.get_rng_state())
    assert harness.differences(reference, again) == []


def test_another_seed_gives_another_result(reference: Path, tmp_path: Path) -> None:
    other = harness.run_local(harness.tiny(tmp_path, seed=1))
    assert {"checkpoint", *harness.RECORDS} <= set(harness.differences(reference, other))


def test_rounds_asked_for_later_do_not_change_earlier_ones(reference: Path, tmp_path: Path) -> None:
    longer = harness.run_local(harness.tiny(tmp_path, rounds=4))
    assert harness.lines(longer, "metrics")[:3] == harness.lines(reference, "metrics")


class Backwards(LocalGrid):
    """Replies arrive in the opposite order."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        yield from reversed(list(super().carry(messages, timeout)))


class BackwardsWork(LocalGrid):
    """Clients work in the opposite order."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        return super().carry(messages[::-1], timeout)


@pytest.mark.parametrize("grid", [Backwards, BackwardsWork])
@pytest.mark.parametrize("method", ["fedloge", "fedavg"])
def test_order_does_not_change_a_bit(grid: type[LocalGrid], method: str, tmp_path: Path) -> None:
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=2, method=method))
    turned = harness.run_local(harness.tiny(tmp_path, "turned", rounds=2, method=method), grid)
    records = harness.RECORDS
    if method == "fedavg":  # nothing personal is kept
        for folder in (plain, turned):
            (folder / "heads").mkdir(exist_ok=True)
    assert harness.differences(plain, turned, records) == []


# What leaves a client


@pytest.mark.parametrize("method", ["fedloge", "fedper"])
def test_no_personal_tensor_ever_leaves_its_client(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    app = grid.client_app

    def watched(message: Message, context: Context) -> Message:
        reply = app(message, context)
        for content in (message.content, reply.content):
            for record in content.array_records.values():
                seen.update(record)
        return reply

    monkeypatch.setattr(grid, "client_app", watched)
    config = harness.tiny(tmp_path, rounds=2, method=method)
    harness.run_local(config)
    federation = open_federation(config)
    assert seen == set(federation.tensors(Part.SHARED))
    personal = set(federation.tensors(Part.PERSONAL))
    assert personal and not seen & personal
    stored = harness.heads(tmp_path / "run")
    assert all(state.keys() == personal for state in stored.values())


# Clients that misbehave

Fault = Callable[[RecordDict], None]


def _arrays(content: RecordDict, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = wire.received_tensors(content, wire.ARRAYS)
    change(tensors)
    content[wire.ARRAYS] = wire.encode(tensors)


def _first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors))


def _stamp(content: RecordDict, **changes: Any) -> None:
    content[wire.STAMP] = ConfigRecord({**content.config_records[wire.STAMP], **changes})


def _damage(content: RecordDict) -> None:
    name = next(iter(content.array_records[wire.ARRAYS]))
    arrays = dict(content.array_records[wire.ARRAYS])
    old = arrays[name]
    arrays[name] = Array(old.dtype, tuple(old.shape), old.stype, old.data[:-5])
    content[wire.ARRAYS] = ArrayRecord(arrays)


def _raise(content: RecordDict) -> None:
    raise ZeroDivisionError("a defect")


FAULTS: dict[str, tuple[Fault, str]] = {
    "raises": (_raise, "ZeroDivisionError: a defect"),
    "nan": (lambda c: _arrays(c, lambda t: t[_first(t)].fill_(float("nan"))), "not finite"),
    "inf": (
        lambda c: _arrays(c, lambda t: t[_first(t)].view(-1)[:1].fill_(float("inf"))),
        "not finite",
    ),
    "huge": (lambda c: _arrays(c, lambda t: t[_first(t)].fill_(1e6)), "32768 or more"),
    "shape": (
        lambda c: _arrays(c, lambda t: t.update({_first(t): torch.zeros(2, 2)})),
        r"has shape (2, 2), expected",
    ),
    "dtype": (
        lambda c: _arrays(c, lambda t: t.update({_first(t): t[_first(t)].double()})),
        "dtype torch.float64",
    ),
    "missing": (lambda c: _arrays(c, lambda t: t.pop(_first(t))), "is missing (1 of"),
    "unknown": (lambda c: _arrays(c, lambda t: t.update(x=torch.zeros(1))), "'x' is not part"),
    "no tensors": (lambda c: c.pop(wire.ARRAYS) and None, "carries no 'arrays'"),
    "damaged tensors": (_damage, "tensors cannot be read"),
    "zero weight": (lambda c: c[wire.METRICS].update({wire.NUM_EXAMPLES: 0}), "weight 0, expected"),
    "wrong weight": (
        lambda c: c[wire.METRICS].update({wire.NUM_EXAMPLES: 10**9}),
        "weight 1000000000, expected",
    ),
    "negative weight": (
        lambda c: c[wire.METRICS].update({wire.NUM_EXAMPLES: -7}),
        "weight -7, expected",
    ),
    "no weight": (lambda c: c[wire.METRICS].pop(wire.NUM_EXAMPLES) and None, "weight None"),
    "figure not finite": (
        lambda c: c[wire.METRICS].update({"train/loss": float("nan")}),
        "'train/loss' is nan",
    ),
    "no figures": (lambda c: c.pop(wire.METRICS) and None, "carries no metrics"),
    "older round": (lambda c: _stamp(c, round=0), "belongs to round 0, attempt 1"),
    "older attempt": (lambda c: _stamp(c, bases=[0, 0]), "round 1, attempt 2"),
    "another fingerprint": (lambda c: _stamp(c, fingerprint="f" * 16), "ffffffffffffffff"),
    "another run": (lambda c: _stamp(c, **{"run-id": "other-run"}), "other-run"),
    "no stamp": (lambda c: c.pop(wire.STAMP) and None, "has no 'stamp' record"),
    "malformed stamp": (lambda c: _stamp(c, round="one"), "lacks a valid 'round'"),
    "a partial sum": (
        lambda c: c.update({wire.PARTIAL: ConfigRecord({"weight": 3})}),
        "only workers of the Ray engine may send",
    ),
    "refusal": (
        lambda c: (c.clear(), c.update(wire.failure_content("out of memory")))[1],
        "out of memory",
    ),
}


def misbehaving(app: ClientApp, clients: set[int], fault: Fault, rounds: set[int]) -> ClientApp:
    """The client app, but for what these clients answer to train messages of these rounds."""

    def wrapped(message: Message, context: Context) -> Message:
        reply = app(message, context)
        if message.metadata.message_type == "train":
            round = message.content.config_records[wire.STAMP]["round"]
            if context.node_config["partition-id"] in clients and round in rounds:
                fault(reply.content)
        return reply

    return wrapped


def sampled(config: Any, round: int) -> list[int]:
    from fedloge.rng import rng

    drawn = rng(config.seed, "sample-clients", round).choice(
        config.num_clients, size=config.clients_per_round, replace=False
    )
    return sorted(drawn.tolist())


class Loses(LocalGrid):
    """The first client of every training message batch never answers."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        training = messages[0].metadata.message_type == "train"
        return super().carry(messages[1:] if training else messages, timeout)


@pytest.fixture(scope="module")
def without_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A round to which one of three clients gave no answer."""
    folder = tmp_path_factory.mktemp("without")
    return harness.run_local(harness.tiny(folder, rounds=1), Loses)


def test_a_silent_client_is_named(without_one: Path) -> None:
    (failure,) = harness.lines(without_one, "failures")
    assert failure["client"] == sampled(harness.tiny(without_one), 1)[0]
    assert "no answer within 3600 s" in failure["reason"]
    assert harness.lines(without_one, "metrics")[0]["failed"] == 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_answer_counts_as_none(
    name: str, without_one: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, words = FAULTS[name]
    config = harness.tiny(tmp_path, rounds=1)
    bad = sampled(config, 1)[0]
    monkeypatch.setattr(grid, "client_app", misbehaving(grid.client_app, {bad}, fault, {1}))
    folder = harness.run_local(config)
    (failure,) = harness.lines(folder, "failures")
    assert (failure["round"], failure["client"]) == (1, bad)
    assert words in failure["reason"] and "\n" not in failure["reason"]
    assert harness.same_tensors(
        harness.newest_checkpoint(folder), harness.newest_checkpoint(without_one)
    )


@pytest.mark.parametrize("name", ["raises", "nan", "older round"])
def test_below_the_quorum_the_run_stops_and_can_go_on(
    name: str, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, words = FAULTS[name]
    config = harness.tiny(tmp_path)
    folder = tmp_path / "run"
    bad = set(sampled(config, 2)[:2])
    with monkeypatch.context() as patch:
        patch.setattr(grid, "client_app", misbehaving(grid.client_app, bad, fault, {2}))
        with pytest.raises(
            RunError, match="round 2: 1 of 3 clients gave a usable answer, the quorum is 2"
        ) as stop:
            harness.run_local(config)
    assert words in str(stop.value)
    assert sorted(p.name for p in (folder / "checkpoint").iterdir()) == [
        "manifest.json",
        "round-000000.safetensors",
        "round-000001.safetensors",
    ]
    assert [line["round"] for line in harness.lines(folder, "metrics")] == [1]
    # Round 1's heads are still there for every client that trained in it.
    for client in sampled(config, 1):
        assert (folder / f"heads/client-{client:05d}/round-000001.safetensors").exists()
    harness.resume_local(folder)
    assert harness.differences(reference, folder) == []


class Twice(LocalGrid):
    """The first client answers each message twice, the second time with something else."""

    def carry(self, messages: list[Message], timeout: float | None) -> Iterator[Message]:
        for number, reply in enumerate(super().carry(messages, timeout)):
            yield reply
            if number == 0:
                second = copy.deepcopy(reply)
                if wire.ARRAYS in second.content.array_records:
                    _arrays(second.content, lambda t: t[_first(t)].zero_())
                yield second


def test_a_second_answer_does_not_count(reference: Path, tmp_path: Path) -> None:
    folder = harness.run_local(harness.tiny(tmp_path), Twice)
    assert harness.differences(reference, folder) == []
    assert not (folder / "failures.jsonl").exists()


def test_a_client_that_cannot_be_measured_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = grid.client_app

    def wrapped(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "evaluate" and context.node_config["partition-id"] == 2:
            raise MemoryError("no room")
        return app(message, context)

    monkeypatch.setattr(grid, "client_app", wrapped)
    folder = harness.run_local(harness.tiny(tmp_path, rounds=1))
    (row,) = harness.lines(folder, "metrics")
    assert (row["evaluated-clients"], row["failed"]) == (3, 0)
    assert [line["client"] for line in harness.lines(folder, "clients")] == [0, 1, 3]
    (failure,) = harness.lines(folder, "failures")
    assert (failure["client"], failure["reason"]) == (2, "error 2: MemoryError: no room")


def test_the_grid_keeps_replies_until_they_are_pulled(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path)
    grid = LocalGrid(config)
    nodes = list(grid.get_node_ids())
    questions = [grid.create_message(RecordDict(), "query.whoami", node, "0") for node in nodes]
    ids = list(grid.push_messages(questions))
    assert len(set(ids)) == config.num_clients
    answers = list(grid.pull_messages(ids[:2]))
    assert [a.content[wire.METRICS]["partition-id"] for a in answers] == [0, 1]
    assert list(grid.pull_messages(ids[:2])) == []
    assert len(list(grid.pull_messages(ids))) == 2


# What goes over the wire


def test_bytes_are_those_of_the_shared_tensors_a_client(reference: Path) -> None:
    shared = harness.newest_checkpoint(reference)
    header = 128  # of each tensor, in NumPy's format
    once = sum(header + t.numel() * t.element_size() for t in shared.values())
    for row in harness.lines(reference, "timing"):
        asked = harness.TINY["clients-per-round"]
        assert row["bytes-down"] == row["bytes-up"] == asked * once
        assert row["evaluate-bytes-down"] == harness.TINY["num-clients"] * once
        assert row["evaluate-bytes-up"] == 0


def test_float16_on_the_wire_halves_the_bytes_and_is_the_model(
    reference: Path, tmp_path: Path
) -> None:
    narrow = harness.run_local(harness.tiny(tmp_path, "narrow", wire_dtype="float16"))
    rows = harness.lines(reference, "timing"), harness.lines(narrow, "timing")
    values = [
        row["bytes-up"] - 3 * 128 * len(harness.newest_checkpoint(narrow)) for (row, *_) in rows
    ]
    assert values[0] == 2 * values[1]
    before, after = harness.newest_checkpoint(reference), harness.newest_checkpoint(narrow)
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, tensor.half().float())
        torch.testing.assert_close(tensor, before[name], rtol=0.1, atol=0.05)


def test_float16_on_the_wire_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = harness.run_local(harness.tiny(tmp_path, "whole", wire_dtype="float16"))
    part = harness.run_local(harness.tiny(tmp_path, "part", wire_dtype="float16", rounds=2))
    harness.resume_local(part, rounds=3)
    assert not harness.differences(whole, part)


def test_bf16_trains_nearly_the_same_model(reference: Path, tmp_path: Path) -> None:
    other = harness.run_local(harness.tiny(tmp_path, "bf16", precision="bf16"))
    before, after = harness.newest_checkpoint(reference), harness.newest_checkpoint(other)
    assert not harness.same_tensors(before, after)
    for name, tensor in after.items():
        assert tensor.dtype == before[name].dtype
    losses = [harness.lines(run, "metrics")[-1]["train/loss"] for run in (reference, other)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
