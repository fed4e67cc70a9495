"""How far a client may move the model: no further than a multiple of what the others do."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
import wrong_answers
from flwr.app import RecordDict
from hypothesis import given
from hypothesis import strategies as st

from fedloge import messages as wire
from fedloge.errors import RunError
from fedloge.server.update_sizes import UpdateSizes

BEFORE = {"w": torch.zeros(2)}


def lengths(factor: float, *given: float) -> UpdateSizes:
    sizes = UpdateSizes(BEFORE, factor)
    for client, length in enumerate(given):
        sizes.power(client, {"w": torch.tensor([length, 0.0])})
    return sizes


def test_an_update_is_compared_with_the_median_in_powers_of_two() -> None:
    # Median 1.5; 127 lies within 2^7 of it, as does 255.9, 256 does not.
    assert lengths(128, 1, 1.5, 127).refused() == {}
    assert lengths(128, 1, 1.5, 1.5, 255.9).refused() == {}
    (said,) = lengths(128, 1, 1.5, 1.5, 256).refused().values()
    assert said == "its update has length 256, the median of the round is 1.5 (max-update-norm)"
    # Two liars of five cannot raise the median; of two answers, and of clients that stand still, it says nothing.
    assert lengths(128, 1, 1, 1, 1e4, 1e4).refused().keys() == {3, 4}
    assert lengths(128, 1, 1e4).refused() == {}
    assert lengths(128, 0, 0, 0, 1).refused() == {}
    assert lengths(0, 1, 1, 1, 1e4).refused() == {}


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_who_is_refused_does_not_depend_on_the_order(given: list[float], random: Any) -> None:
    order = list(enumerate(given))
    expected = lengths(128, *given).refused()
    random.shuffle(order)
    sizes = UpdateSizes(BEFORE, 128)
    for client, length in order:
        sizes.power(client, {"w": torch.tensor([length, 0.0])})
    assert sizes.refused() == expected


def _everywhere(value: float) -> wrong_answers.Change:
    def change(content: RecordDict) -> None:
        tensors = wire.decode(content[wire.ARRAYS])
        content[wire.ARRAYS] = wire.encode({k: torch.full_like(t, value) for k, t in tensors.items()})  # fmt: skip

    return change


@pytest.mark.parametrize("method", ["fedavg", "rucr"])
def test_one_client_that_sends_30000_everywhere_costs_itself_the_turn(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = harness.tiny(tmp_path, method=method, rounds=2, clients_per_round=4, min_fraction=0.6)
    wrong_answers.change_answers(monkeypatch, _everywhere(3e4), {2})
    folder = harness.run_local(config)
    assert [row["failed"] for row in harness.lines(folder, "metrics")] == [1, 1]
    assert {f["client"] for f in harness.lines(folder, "failures")} == {2}
    assert "max-update-norm" in harness.lines(folder, "failures")[0]["reason"]

    # The same as if it had not answered: neither its tensors nor its sums are in.
    def mute(content: RecordDict) -> None:
        content.clear()
        content.update(wire.failure_content("no"))

    with monkeypatch.context() as patch:
        patch.undo()
        wrong_answers.change_answers(patch, mute, {2})
        other = harness.run_local(config.replace(name="mute"))
    same = harness.newest_checkpoint(folder), harness.newest_checkpoint(other)
    assert harness.same_tensors(*same)


def test_what_is_out_of_bounds_after_averaging_is_not_kept(tmp_path: Path) -> None:
    plugin = tmp_path / "blows.py"
    plugin.write_text(
        "from fedloge.methods.fedavg import FedAvg\n"
        "class Blows(FedAvg):\n"
        "    name = 'blows'\n"
        "    def server_update(self, net, aggregate):\n"
        "        if aggregate.round < 3:\n"
        "            return aggregate\n"
        "        return aggregate.with_shared({k: t * 1e9 for k, t in aggregate.shared.items()})\n"
    )
    with pytest.raises(RunError, match=r"round 3: no model came of its answers: .* --from-round 1"):
        harness.run_local(harness.tiny(tmp_path, method=f"{plugin}:Blows"))
    folder = tmp_path / "run"
    assert [row["round"] for row in harness.lines(folder, "metrics")] == [1, 2]
    assert all(t.isfinite().all() for t in harness.newest_checkpoint(folder).values())


def test_a_lost_quorum_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_answers.change_answers(monkeypatch, _everywhere(math.inf), set(range(4)), rounds={3})
    with pytest.raises(RunError, match="the quorum is 2") as stopped:
        harness.run_local(harness.tiny(tmp_path))
    assert "--from-round 1" in str(stopped.value) and "aggregation=median" in str(stopped.value)


def test_groups_summed_apart_make_the_bits_of_one_sum() -> None:
    template = {"w": torch.zeros(50)}
    values = [torch.randn(50, generator=torch.Generator().manual_seed(k)) for k in range(6)]
    plain = wire.WeightedSum(template, 21)
    for weight, value in enumerate(values, start=1):
        plain.add({"w": value}, weight)
    for cut in itertools.pairwise([0, 2, 5]):
        parts = [wire.WeightedSum(template, 21) for _ in range(2)]
        for weight, value in enumerate(values, start=1):
            parts[weight in range(*cut)].add({"w": value}, weight)
        parts[0].merge_partial(parts[1].partial(), parts[1].weight)
        assert parts[0].mean()["w"].equal(plain.mean()["w"])
