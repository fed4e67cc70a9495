"""FedLoGe's step and the methods it stands on, held to what can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import harness
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.config import Config
from fedloge.data import Examples, ImagePreparation
from fedloge.errors import UpdateError
from fedloge.federation import Federation
from fedloge.geometry.realignment import global_realign, local_realign, local_realign_sum
from fedloge.learning.client_data import ClientData
from fedloge.learning.loop import sgd
from fedloge.methods import METHODS
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.method import Method, MethodOptions, Network, Part, Task


def federation(tmp_path: Path, **changes: Any) -> Federation:
    return Federation(harness.tiny(tmp_path, **changes))


def client(fed: Federation, index: int = 0, rounds_trained: int = 0) -> ClientData:
    return fed.client_data(index, 1, fed.initial[Part.SHARED], rounds_trained)


def gradients(net: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    net.zero_grad()
    loss.backward(retain_graph=True)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


# The three losses


def test_each_loss_moves_its_own_part_only(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    net, data = fed.net.train(), client(fed)
    images, labels = next(data.batches(1))
    losses = fed.method.loss(net, images, labels, data)
    moved = {
        name: {n.split(".")[0] for n, g in gradients(net, term).items() if g.any()}
        for name, term in losses.items()
    }
    assert moved == {"fixed": {"backbone"}, "global": {"global_head"}, "local": {"local_head"}}
    # Together they give each part exactly what its own loss gives it.
    apart: dict[str, Tensor] = {}
    for term in losses.values():
        apart |= {name: g for name, g in gradients(net, term).items() if g.any()}
    together = gradients(net, sum(losses.values(), torch.zeros(())))
    for name, gradient in apart.items():
        assert torch.allclose(together[name], gradient, atol=1e-7, rtol=1e-5), name


def test_the_losses_by_hand(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    net, data = fed.net.eval(), client(fed)
    images, labels = next(data.batches(1))
    losses = fed.method.loss(net, images, labels, data)
    h = net.backbone(images).detach()
    for name, weight, bias in (
        ("fixed", net.classifier.weight, 0.0),
        ("global", net.global_head.weight, net.global_head.bias),
        ("local", net.local_head.weight, net.local_head.bias),
    ):
        logits = (h @ weight.T + bias).detach().double()
        expected = -(logits.log_softmax(1)[range(len(labels)), labels]).mean()
        assert losses[name].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("prototypes", ["sparse-etf", "etf"])
def test_the_fixed_classifier_never_moves(tmp_path: Path, prototypes: str) -> None:
    fed = federation(tmp_path, method_options={"prototypes": prototypes})
    before = fed.net.classifier.weight.clone()
    changed = {name: t.clone() for name, t in fed.net.state_dict().items()}
    fed.method.local_update(fed.net, client(fed))
    after = fed.net.state_dict()
    assert torch.equal(fed.net.classifier.weight, before)
    still = {name.split(".")[0] for name, t in changed.items() if torch.equal(t, after[name])}
    assert still == {"classifier"}
    assert "classifier.weight" not in fed.tensors(Part.SHARED) | fed.tensors(Part.PERSONAL)


def test_both_heads_start_as_linear_layers_start_and_apart(tmp_path: Path) -> None:
    net = federation(tmp_path).net
    bound = 1 / math.sqrt(128)
    for head in (net.global_head, net.local_head):
        assert head.weight.abs().max() <= bound and head.weight.std() > bound / 2
    assert not torch.equal(net.global_head.weight, net.local_head.weight)


# How they predict


def test_predictors_are_the_papers(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    net = fed.net
    psi, phi = net.global_head.weight.detach(), net.local_head.weight.detach()
    found = fed.method.global_predictors(net)
    assert torch.equal(found["fixed"].head.weight, net.classifier.weight)
    assert torch.equal(found["realigned"].head.weight, global_realign(psi))
    assert found["realigned"].head.bias is None
    data = client(fed, rounds_trained=1)
    personal = fed.method.personal_predictors(net, data)
    assert torch.equal(personal["realigned"].head.weight, local_realign(psi, phi))
    assert personal["realigned"].head.bias is None
    assert torch.equal(personal["raw"].head.weight, phi)
    summed = federation(tmp_path, method_options={"personal-realignment": "sum"})
    both = summed.method.personal_predictors(summed.load(fed.net.state_dict()), data)["realigned"]
    assert torch.equal(both.head.weight, local_realign_sum(psi, phi))


def test_a_client_that_never_trained_predicts_with_the_global_head(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    psi = fed.net.global_head.weight.detach()
    found = fed.method.personal_predictors(fed.net, client(fed, rounds_trained=0))
    assert torch.equal(found["realigned"].head.weight, psi)
    assert found["realigned"].head.bias is None
    assert torch.equal(found["raw"].head.weight, psi)


@pytest.mark.parametrize("rounds_trained", [0, 3])
def test_absent_classes_are_never_predicted(tmp_path: Path, rounds_trained: int) -> None:
    fed = federation(tmp_path, partitioner_options={"alpha": 0.3}, imbalance_factor=0.02)
    seen_one = False
    for index in range(4):
        data = client(fed, index, rounds_trained)
        absent = data.counts == 0
        seen_one |= bool(absent.any())
        head = fed.method.personal_predictors(fed.net, data)["realigned"].head
        features = torch.randn(500, 128) * 100
        assert not absent[head.predict(features)].any()
        assert bool(head.logits(features)[:, absent].isneginf().all())
    assert seen_one


# FedAvg and FedPer


def test_fedavgs_raw_personal_model_is_the_global_one(tmp_path: Path) -> None:
    fed = federation(tmp_path, method="fedavg")
    assert not fed.tensors(Part.PERSONAL)
    together = fed.method.global_predictors(fed.net)["raw"].head
    found = fed.method.personal_predictors(fed.net, client(fed))
    assert torch.equal(found["raw"].head.weight, together.weight)
    assert torch.equal(found["raw"].head.bias, together.bias)
    assert not torch.equal(found["tuned"].head.weight, together.weight)
    # Tuning is on a copy.
    assert torch.equal(fed.net.head.weight, together.weight)


def test_no_tuning_is_the_global_model(tmp_path: Path) -> None:
    fed = federation(tmp_path, method="fedavg", method_options={"tune-epochs": 0})
    found = fed.method.personal_predictors(fed.net, client(fed))
    assert torch.equal(found["tuned"].head.weight, found["raw"].head.weight)


def test_fedper_shares_the_backbone_alone(tmp_path: Path) -> None:
    fed = federation(tmp_path, method="fedper")
    assert {name.split(".")[0] for name in fed.tensors(Part.SHARED)} == {"backbone"}
    assert set(fed.tensors(Part.PERSONAL)) == {"head.weight", "head.bias"}
    assert fed.method.global_predictors(fed.net) == {}


# One SGD loop, by hand


class Dot(Network):
    """A weight for each pixel: the loss and its gradient fit on one line."""

    backbone: nn.Linear


class Quadratic(Method[Dot]):
    """Minimise (w x - y)^2 / 2."""

    name = "quadratic"
    parts = {"backbone": Part.SHARED}  # noqa: RUF012

    def build(self) -> Dot:
        layer = nn.Linear(1, 1, bias=False)
        nn.init.constant_(layer.weight, 2.0)
        return Dot(backbone=layer)

    def loss(
        self, net: Dot, images: Tensor, labels: Tensor, client: ClientData
    ) -> dict[str, Tensor]:
        prediction = net.backbone(images.flatten(1)).squeeze(1)
        return {"square": ((prediction - labels) ** 2).mean() / 2}


def quadratic(**changes: Any) -> tuple[Dot, ClientData, Quadratic]:
    config = Config(lr=0.5, momentum=0.5, batch_size=1, **changes)
    method = Quadratic(Task(config, 2, None), MethodOptions())  # type: ignore[arg-type]
    images = Examples(torch.full((1, 1, 1, 1), 255, dtype=torch.uint8), torch.tensor([1]))
    data = ClientData(
        client=0,
        round=1,
        config=config,
        train=images,
        counts=torch.tensor([0, 1]),
        preparation=ImagePreparation((0.0,), (1.0,), "none"),
        received={},
    )
    return method.build(), data, method


def test_sgd_by_hand() -> None:
    """x = 1, y = 1, w = 2: gradient w - 1, velocity v <- v / 2 + gradient, w <- w - v / 2."""
    net, data, method = quadratic()
    metrics = sgd(net, list(net.parameters()), method.loss, data, epochs=2)
    # v = 1, w = 1.5; then v = 0.5 + 0.5, w = 1.
    assert net.backbone.weight.item() == 1.0
    # Losses 0.5 and 0.125.
    assert metrics == {"loss": pytest.approx(0.3125)}


def test_momentum_does_not_outlive_a_round() -> None:
    net, data, method = quadratic()
    for _ in range(2):
        sgd(net, list(net.parameters()), method.loss, data, epochs=1)
    # v = 1, w = 1.5; afresh v = 0.5, w = 1.25.
    assert net.backbone.weight.item() == 1.25


def test_weight_decay_by_hand() -> None:
    net, data, method = quadratic(weight_decay=0.1)
    sgd(net, list(net.parameters()), method.loss, data, epochs=1)
    assert net.backbone.weight.item() == pytest.approx(2 - 0.5 * (1 + 0.2))


def test_a_diverging_client_says_so() -> None:
    net, data, method = quadratic()
    nn.init.constant_(net.backbone.weight, 1e30)
    with pytest.raises(UpdateError, match=r"client 0, round 1: the loss is inf.*lower lr"):
        sgd(net, list(net.parameters()), method.loss, data, epochs=1)


def test_nothing_to_train_on_is_said(tmp_path: Path) -> None:
    fed = federation(tmp_path)
    data = client(fed)
    nobody = replace(data, train=data.train.take(torch.empty(0)))
    with pytest.raises(UpdateError, match="nothing to train on, 0 examples for 1 epochs"):
        fed.method.local_update(fed.net, nobody)


def test_one_fedavg_step_is_plain_sgd(tmp_path: Path) -> None:
    """One batch of all images: the averaged model after a round is w - lr * gradient."""
    fed = federation(tmp_path, method="fedavg", batch_size=4096)
    net, data = fed.net, client(fed)
    net.load_state_dict(fed.method.build().state_dict())
    net.train()
    images, labels = next(data.batches(1))
    cross_entropy(net.head(net.backbone(images)), labels).backward()
    expected = {n: p.detach() - 0.03 * p.grad for n, p in net.named_parameters()}
    fed.load(fed.method.build().state_dict())
    fed.method.local_update(net, data)
    for name, parameter in net.named_parameters():
        assert torch.allclose(parameter, expected[name], atol=1e-6), name


# Batches


def test_an_epoch_is_every_image_once_and_rounds_differ(tmp_path: Path) -> None:
    fed = federation(tmp_path, augment="none")
    data = client(fed)

    def order(local: ClientData, purpose: str = "train") -> list[int]:
        return torch.cat([y for _, y in local.batches(2, purpose)]).tolist()

    labels = sorted(data.train.labels.tolist())
    both = order(data)
    half = len(both) // 2
    assert sorted(both[:half]) == labels == sorted(both[half:])
    assert both[:half] != both[half:]
    assert order(data) == both
    assert order(fed.client_data(0, 2, {})) != both
    assert order(data, "another purpose") != both


# What a class says of itself


class Inherits(FedAvg):
    name = "inherits"


class OwnLoss(FedAvg):
    name = "own-loss"

    def loss(self, net: Any, inputs: Tensor, labels: Tensor, client: ClientData) -> Any:
        return super().loss(net, inputs, labels, client)


class Declares(OwnLoss):
    name = "declares"
    uniform_step = True  # type: ignore[assignment]


class OfDeclares(Declares):
    name = "of-declares"


def test_a_uniform_step_is_declared_by_each_class_for_itself() -> None:
    task = Task(Config(), 2, None)  # type: ignore[arg-type]

    def uniform(cls: type[Method], **options: Any) -> bool:
        return cls(task, cls.Options(**options)).uniform_step

    assert uniform(FedAvg) and not uniform(FedAvg, loss="balanced-softmax")
    assert not uniform(Inherits) and not uniform(OwnLoss)
    assert uniform(Declares) and not uniform(OfDeclares)
    says = {name for name, cls in METHODS.items() if uniform(cls)}
    assert says == {
        "fedloge",
        "fedavg",
        "fedper",
        "fedbn",
        "fedbabu",
        "ccvr",
        "ebv",
        "local-only",
        "centralised",
    }
