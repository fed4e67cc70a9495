"""DP-SGD: single gradients against autograd, clipping, noise, batches."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from fedloge.errors import ConfigError, UpdateError
from fedloge.federation import open_federation
from fedloge.federation.federation import Federation
from fedloge.learning.client_data import ClientData
from fedloge.learning.local_privacy import LocalPrivacy
from fedloge.learning.loop import sgd
from fedloge.learning.privacy_accountant import Spending
from fedloge.learning.private_draws import Draws, SeededDraws, SystemDraws
from fedloge.learning.private_steps import ExampleGradients, private_sgd
from fedloge.methods.method import Part


def federation(tmp_path: Path, **changes: Any) -> Federation:
    fed = open_federation(harness.tiny(tmp_path, norm="group", **changes))
    fed.load(fed.initial[Part.SHARED], fed.initial[Part.PERSONAL])
    return fed


def data(fed: Federation, privacy: LocalPrivacy | None = None) -> ClientData:
    return replace(fed.client_data(0, 1, fed.initial[Part.SHARED]), privacy=privacy)


def privacy(clip: float, noise: float, draws: Any = None) -> LocalPrivacy:
    seeded = partial(SeededDraws, 0, round=1, client=0)
    return LocalPrivacy(clip, noise, draws or seeded, lambda steps: None)


@pytest.mark.parametrize("model", ["cnn", "resnet8"])
def test_single_gradients_are_those_of_autograd(model: str, tmp_path: Path) -> None:
    fed = federation(tmp_path, model=model)
    net, client = fed.net.train(), data(fed)
    parameters = fed.method.trainable(net)
    inputs, labels = (part[:6] for part in next(client.batches(1)))
    single = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        terms = fed.method.loss(net, x, y, client)
        single.append(torch.autograd.grad(torch.stack([*terms.values()]).sum(), parameters))
    norms = [math.sqrt(sum(float(g.square().sum()) for g in row)) for row in single]
    clip = sorted(norms)[3]  # some are clipped, some not
    made = ExampleGradients(net, parameters, fed.method.loss, client, contextlib.nullcontext())
    found, losses = made.clipped_sum(inputs, labels, clip)
    assert losses.shape == (6, 3) and made.terms == ("fixed", "global", "local")
    for place, summed in enumerate(found.values()):
        factors = [min(1.0, clip / norm) for norm in norms]
        expected = sum(f * row[place] for f, row in zip(factors, single, strict=True))
        torch.testing.assert_close(summed, expected, rtol=1e-4, atol=1e-5)


def test_pieces_give_the_sum_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = federation(tmp_path)
    client, parameters = data(fed), fed.method.trainable(fed.net)
    inputs, labels = next(client.batches(1))
    made = ExampleGradients(fed.net, parameters, fed.method.loss, client, contextlib.nullcontext())
    whole, losses = made.clipped_sum(inputs, labels, 0.5)
    monkeypatch.setattr("fedloge.learning.private_steps._MOST_NUMBERS", 1)
    parts, same = made.clipped_sum(inputs, labels, 0.5)
    torch.testing.assert_close(losses, same)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, parts[name])


class Line(nn.Module):
    """w x, with a weight that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(3))


def pull(net: Line, inputs: Tensor, labels: Tensor, client: ClientData) -> dict[str, Tensor]:
    """Its gradient at each example is the example."""
    return {"local": (inputs.flatten(1)[:, :2] @ net.w).mean()}


def test_clipping_by_hand(tmp_path: Path) -> None:
    net, client = Line(), data(federation(tmp_path))
    made = ExampleGradients(net, [net.w], pull, client, contextlib.nullcontext())
    inputs = torch.tensor([[3.0, 4.0], [0.3, 0.0], [0.0, 0.0], [math.inf, 1.0]])
    found, _ = made.clipped_sum(inputs, torch.zeros(4, dtype=torch.int64), 1.0)
    # (3, 4) has norm 5 and becomes (.6, .8); (.3, 0) is short enough; what is not finite adds nothing.
    assert found["net.w"].tolist() == pytest.approx([0.9, 0.8])


class AllOf(Draws):
    """Every example, and noise of ones: what a step does, without chance."""

    augmentation = np.random.default_rng(0)

    def uniform(self, count: int) -> np.ndarray:
        return np.zeros(count)

    def normal(self, count: int) -> np.ndarray:
        return np.ones(count)


def test_a_step_by_hand(tmp_path: Path) -> None:
    # lr (sum of clipped gradients + clip noise) / batch-size, and what nothing reads stays.
    fed = federation(tmp_path, batch_size=10**6, lr=0.5, momentum=0.0, augment="none")
    client = data(fed)
    count = len(client.train)
    net, spent = Line(), privacy(0.25, 2.0, lambda purpose: AllOf())
    ready = client.preparation.prepare(client.train.inputs).flatten(1)[:, :2]
    clipped = ready * (0.25 / ready.norm(dim=1)).clamp(max=1)[:, None]
    figures = sgd(net, [net.w, net.idle], pull, replace(client, privacy=spent), epochs=1)  # type: ignore[arg-type, type-var]
    expected = -0.5 * (clipped.sum(dim=0) + 0.25 * 2) / count
    torch.testing.assert_close(net.w.detach(), expected)
    assert torch.equal(net.idle.detach(), torch.ones(3)) and figures == {"loss": 0.0}
    assert spent.spent == [Spending(1.0, 2.0, 1)]


def test_without_clipping_and_noise_a_full_batch_is_the_plain_step(tmp_path: Path) -> None:
    plain = federation(tmp_path, batch_size=10**6, augment="none")
    client = data(plain)
    plain.method.local_update(plain.net, client)
    before = {name: t.clone() for name, t in plain.net.state_dict().items()}
    plain.load(plain.initial[Part.SHARED], plain.initial[Part.PERSONAL])
    plain.method.local_update(plain.net, replace(client, privacy=privacy(1e9, 0.0)))
    for name, tensor in plain.net.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=1e-4, atol=1e-5)


def test_the_noise_has_the_size_that_is_accounted_for(tmp_path: Path) -> None:
    # Clipped to (almost) nothing, what is left of a step is the noise: lr z clip / batch-size.
    fed = federation(tmp_path, lr=1.0, momentum=0.0, batch_size=16)
    client, clip = data(fed), 1e-3
    steps = -(-len(client.train) // 16)
    given = privacy(clip, 300.0, lambda purpose: SystemDraws())
    before = {name: p.detach().clone() for name, p in fed.net.named_parameters()}
    fed.method.local_update(fed.net, replace(client, privacy=given))
    moved = [p.detach() - before[n] for n, p in fed.net.named_parameters() if p.requires_grad]
    found = torch.cat([m.flatten() for m in moved])
    assert float(found.std()) == pytest.approx(300 * clip / 16 * math.sqrt(steps), rel=0.03)
    assert given.spent == [Spending(16 / len(client.train), 300.0, steps)]


def test_steps_that_are_refused_are_not_taken(tmp_path: Path) -> None:
    fed = federation(tmp_path)

    def refuse(steps: Spending) -> None:
        raise UpdateError("spent")

    before = {name: t.clone() for name, t in fed.net.state_dict().items()}
    client = data(fed, LocalPrivacy(1.0, 1.0, lambda purpose: AllOf(), refuse))
    with pytest.raises(UpdateError, match="spent"):
        fed.method.local_update(fed.net, client)
    assert harness.same_tensors(before, fed.net.state_dict())


def test_batch_norm_is_refused(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    net = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(ConfigError, match="batch norm mixes the examples"):
        private_sgd(
            net, pull, data(fed), privacy(1.0, 1.0), None, epochs=1, purpose="", autocast=contextlib.nullcontext()  # type: ignore[arg-type]
        )  # fmt: skip


@pytest.mark.parametrize(
    "draws", [SystemDraws(), SeededDraws(0, "noise", 1, 0)], ids=["system", "seed"]
)
def test_noise_is_normal_and_batches_are_of_independent_draws(draws: Draws) -> None:
    assert kstest(draws.normal(20_001), "norm").pvalue > 1e-6
    assert kstest(draws.uniform(20_000), "uniform").pvalue > 1e-6
    sizes = [len(draws.batch(200, 0.1)) for _ in range(500)]
    # Binomial: mean 20, variance 18; six deviations of each.
    assert abs(np.mean(sizes) - 20) < 6 * math.sqrt(18 / 500)
    assert 18 * 0.6 < np.var(sizes) < 18 * 1.5
    assert not np.array_equal(draws.normal(5), draws.normal(5))


def test_only_the_seeds_draws_can_be_made_again() -> None:
    one, same = (SeededDraws(3, "noise", 1, 2).normal(9) for _ in range(2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, SeededDraws(3, "noise", 2, 2).normal(9))
    assert not np.array_equal(SystemDraws().normal(9), SystemDraws().normal(9))
