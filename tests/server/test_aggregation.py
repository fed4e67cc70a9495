from __future__ import annotations

from pathlib import Path

import pytest
import torch
from flwr.app import Message, RecordDict
from safetensors.torch import load_file

from fedloge import messages as wire
from fedloge.config import Config
from fedloge.engines import local
from fedloge.engines.own_grid import take_identity
from fedloge.errors import ConfigError, UpdateError
from fedloge.server.aggregation import combination

TEMPLATE = {"w": torch.zeros(3)}
STAMP = wire.Stamp("r", "r", "f", (0,), 1, 0)


def reply(values: list[float], weight: int = 1) -> Message:
    take_identity()
    question = Message(RecordDict(), dst_node_id=5, message_type="train")
    question.metadata.__dict__["_message_id"] = "1"
    content = wire.reply_content(STAMP, {wire.NUM_EXAMPLES: weight}, {"w": torch.tensor(values)})
    return Message(content, reply_to=question)


def combined(
    config: Config, updates: dict[int, list[float]], weights: dict[int, int] | None = None
) -> list[float]:
    weights = weights or dict.fromkeys(updates, 1)
    rule = combination(config, TEMPLATE, sum(weights.values()), before=TEMPLATE)
    for client, values in updates.items():
        rule.add(client, reply(values, weights[client]), weights[client])
    return rule.result(1)["w"].tolist()


HONEST = {0: [1.0, 2.0, 3.0], 1: [1.5, 2.5, 3.5], 2: [2.0, 3.0, 4.0]}
LIAR = {3: [1000.0, -1000.0, 1000.0]}


def test_the_mean_follows_the_weights() -> None:
    assert combined(Config(), {0: [0.0] * 3, 1: [4.0] * 3}, {0: 3, 1: 1}) == [1.0] * 3


def test_the_median_ignores_a_liar() -> None:
    assert combined(Config(aggregation="median"), HONEST) == [1.5, 2.5, 3.5]
    found = combined(Config(aggregation="median"), HONEST | LIAR)
    assert all(low <= x <= high for x, low, high in zip(found, (1, 2, 3), (2, 3, 4), strict=True))


def test_the_trimmed_mean_drops_both_ends() -> None:
    config = Config(aggregation="trimmed-mean", byzantine_clients=1, clients_per_round=4)
    assert combined(config, HONEST | LIAR) == [1.75, 2.25, 3.75]


def test_krum_picks_one_honest_update() -> None:
    config = Config(aggregation="krum", byzantine_clients=1, clients_per_round=5)
    honest = HONEST | {4: [2.0, 3.0, 3.0]}
    assert combined(config, honest | LIAR) in honest.values()


@pytest.mark.parametrize("rule", ["mean", "median", "trimmed-mean", "krum"])
def test_an_update_that_is_not_finite_is_refused_by_every_rule(rule: str) -> None:
    chosen = combination(Config(aggregation=rule), TEMPLATE, 1, before=TEMPLATE)
    with pytest.raises(UpdateError, match="not finite"):
        chosen.add(0, reply([float("nan"), 0.0, 0.0]), 1)


def test_too_many_liars_are_refused() -> None:
    with pytest.raises(ConfigError, match="trimmed-mean needs 9 or more, less than half"):
        Config().replace(aggregation="trimmed-mean", byzantine_clients=4)
    assert Config().replace(aggregation="trimmed-mean", byzantine_clients=3)


def test_krum_asks_for_enough_clients_that_two_equal_liars_do_not_win() -> None:
    with pytest.raises(
        ConfigError, match=r"2 of 5 clients-per-round; krum needs 7 or more \(2f \+ 3\)"
    ):
        Config(aggregation="krum", byzantine_clients=2, clients_per_round=7).replace(
            clients_per_round=5
        )
    spread = {k: [float(k), float(k * k), 1.0] for k in range(5)}
    liars = {5: [9.0, 9.0, 9.0], 6: [9.0, 9.0, 9.0]}
    config = Config(aggregation="krum", byzantine_clients=2, clients_per_round=7)
    assert combined(config, spread | liars) in spread.values()


def test_a_robust_run_through_the_real_round(tmp_path: Path) -> None:
    base = Config(num_clients=5, clients_per_round=5, rounds=2, local_epochs=1)
    base = base.replace(partitioner_options={"alpha": 5.0})
    config = base.replace(aggregation="median", runs_dir=str(tmp_path), name="a", evaluate_every=2)
    local.run(config)
    local.run(config.replace(name="b"))
    a, b = (load_file(tmp_path / name / "checkpoint/round-000002.safetensors") for name in "ab")
    assert all(a[key].equal(b[key]) for key in a)
