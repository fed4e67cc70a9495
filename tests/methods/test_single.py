"""The local loss by config, and heads rescaled after training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedloge.config.tables import table_of
from fedloge.errors import ConfigError
from fedloge.learning import losses
from fedloge.methods.post_hoc import post_hoc
from fedloge.methods.single_head import LossOptions
from fedloge.options import checked_options

COUNTS = torch.tensor([8, 2, 0])
LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
LABELS = torch.tensor([0, 1])


def loss(name: str, options: str = "", round: int = 1) -> float:
    table = {"loss": name, "loss-options": table_of(options, "here")}
    checked = checked_options(LossOptions, table, "here")
    bound = losses.local_loss(checked.loss, COUNTS, checked.loss_options, round=round)
    return bound(LOGITS, LABELS).item()


def test_balanced_softmax_is_logit_adjustment_with_tau_1_end_to_end(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    balanced = run_once("fedavg", "loss = balanced-softmax")
    adjusted = run_once(
        "fedavg", "loss = 'logit-adjusted', loss-options = {tau = 1}", name="adjusted"
    )
    plain = run_once("fedavg", name="plain")
    one, other, third = trained(balanced), trained(adjusted), trained(plain)
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert max(float((one[n] - third[n]).abs().max()) for n in one) > 1e-2


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_that_the_config_offers_trains(
    federation: Callable[..., Any], name: str
) -> None:
    fed = federation("fedper", f"loss = {name}")
    metrics = fed.method.local_update(fed.net, fed.client_data(0, 1, {})).metrics
    assert metrics.keys() == {"loss"} and metrics["loss"] > 0


def test_the_options_offer_every_loss_once() -> None:
    assert get_args(get_type_hints(LossOptions)["loss"]) == losses.LOSSES
    assert len(set(losses.LOSSES)) == len(losses.LOSSES)


def test_options_reach_the_loss() -> None:
    plain = cross_entropy(LOGITS, LABELS).item()
    assert loss("cross-entropy") == pytest.approx(plain)
    assert loss("logit-adjusted", "tau = 0") == pytest.approx(plain)
    assert loss("focal", "gamma = 0") == pytest.approx(plain)
    assert loss("ratio", "alpha = 2, beta = 0") == pytest.approx(2 * plain)


def test_ldam_reweights_from_a_round_on() -> None:
    options = "max-margin = 0, scale = 1, drw-from = 3, drw-beta = 0.5"
    plain = cross_entropy(LOGITS, LABELS).item()
    assert loss("ldam", options, round=2) == pytest.approx(plain)
    # (1 - b) / (1 - b^n) is 0.5 / (255/256) for 8 images and 0.5 / (3/4) for 2.
    weights = torch.tensor([256 / 255, 4 / 3, 0.0])
    expected = cross_entropy(LOGITS, LABELS, weight=weights).item()
    assert loss("ldam", options, round=3) == pytest.approx(expected)
    assert abs(expected - plain) > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("focal", "gama = 1", "unknown option 'gama' .did you mean 'gamma'"),
        ("focal", "gamma = -1", "gamma: .*greater than or equal to 0, got -1"),
        ("fedlc", "drw-from = 3", "unknown option 'drw-from'"),
        ("ldam", "drw-from = 0", "drw-from: .*greater than or equal to 1, got 0"),
        ("ldam", "drw-from = 2.5", "drw-from: .*integer.*, got 2.5"),
        ("ldam", "drw-beta = 1", "drw-beta: .*less than 1, got 1"),
        ("ldam", "weights = 1", "unknown option 'weights'"),
        ("cross-entropy", "tau = 1", "loss-options of 'cross-entropy': there are no options"),
    ],
)
def test_wrong_options_are_one_clear_line_before_any_client_trains(
    federation: Callable[..., Any], name: str, options: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        _ = federation("fedavg", f"loss = '{name}', loss-options = {{{options}}}").method
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("loss = focl", "method-options of 'fedavg': loss: .*'focal'.*, got 'focl'"),
        ("loss-options = 2", "method-options of 'fedavg': loss-options: .*dictionary, got 2"),
    ],
)
def test_a_wrong_loss_is_one_clear_line(
    federation: Callable[..., Any], options: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        _ = federation("fedavg", options).method
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["fedavg", "fedprox", "fedrod"])
def test_heads_rescaled_after_training(run_once: Callable[..., Path], method: str) -> None:
    folder = run_once(method, 'post-hoc = "ga-fr, tau-norm"')
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    for name in ("raw", "tau-norm", "realigned"):
        assert 0 < last[f"global/{name}/all"] <= 1


def test_post_hoc_by_hand() -> None:
    weight = torch.tensor([[3.0, 4.0], [0.0, 16.0], [0.0, 0.0]])
    found = post_hoc("tau-norm = 0.5, ga-fr", weight)
    assert found.keys() == {"tau-norm", "realigned"}
    half = weight / torch.tensor([[5.0], [16.0], [1.0]]).sqrt()
    torch.testing.assert_close(found["tau-norm"].head.weight, half)
    unit = torch.tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
    torch.testing.assert_close(found["realigned"].head.weight, unit)
    assert all(model.head.bias is None for model in found.values())
    assert torch.equal(post_hoc("tau-norm=0", weight)["tau-norm"].head.weight, weight)
    assert post_hoc("", weight) == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tau", "unknown model 'tau' .did you mean 'tau-norm'"),
        ("tau-norm = 2", "from 0 to 1, got '2'"),
        ("tau-norm = x", "from 0 to 1, got 'x'"),
        ("ga-fr = 1", "unknown model 'ga-fr = 1'"),
    ],
)
def test_wrong_post_hoc_is_refused(federation: Callable[..., Any], text: str, words: str) -> None:
    for method in ("fedavg", "fedloge"):
        with pytest.raises(ConfigError, match=words):
            _ = federation(method, f"post-hoc = '{text}'").method


def test_an_option_that_the_method_does_not_read_is_refused(
    has_no_option: Callable[[str, str], None],
) -> None:
    has_no_option("fedper", "post-hoc = ga-fr")
    has_no_option("fedbabu", "post-hoc = ga-fr")
    has_no_option("fedloge", "loss-options = {tau = 1}")
