from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedloge.methods.method import Aggregate
from fedloge.methods.rucr import RUCR, Unified, class_means, feature_loss, mixtures
from fedloge.rng import rng


def unified(prototypes: list[list[float]], counts: list[float]) -> Unified:
    made = Unified(len(prototypes), len(prototypes[0]))
    made.prototypes.copy_(torch.tensor(prototypes))
    made.counts.copy_(torch.tensor(counts))
    return made


def test_class_means_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 5.0]])
    got = class_means(features, torch.tensor([2, 2, 0]), 3)
    assert got.tolist() == [[5, 5], [0, 0], [2, 1]]


def test_feature_loss_by_hand() -> None:
    # h along class 0's prototype: cosines (1, 0), over t = 0.5: (2, 0). Class 0 has 3/4 of the
    # images, so its logit is 2 + log(3/4). Lengths do not count.
    prototypes = unified([[5.0, 0.0], [0.0, 2.0]], [3.0, 1.0])
    counts = torch.tensor([1, 1])
    h, label = torch.tensor([[7.0, 0.0]]), torch.tensor([0])
    own = 2 + math.log(3 / 4)
    expected = math.log(math.exp(own) + 1) - own
    got = feature_loss(h, label, prototypes, counts, temperature=0.5)
    assert got.item() == pytest.approx(expected, rel=1e-5)
    # The rarer class needs more.
    rare = feature_loss(torch.tensor([[0.0, 7.0]]), torch.tensor([1]), prototypes, counts, 0.5)
    own = 2 + math.log(1 / 4)
    assert rare.item() == pytest.approx(math.log(math.exp(own) + 1) - own, rel=1e-5)
    # A class that this client does not hold counts with cosine 0, wherever its prototype lies.
    near = unified([[5.0, 0.0], [5.0, 0.1]], [3.0, 1.0])
    got = feature_loss(h, label, near, torch.tensor([4, 0]), temperature=0.5)
    assert got.item() == pytest.approx(expected, rel=1e-5)


def test_images_of_a_class_without_a_prototype_are_left_out() -> None:
    nothing = unified([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0])
    h = torch.tensor([[7.0, 0.0], [0.0, 1.0]], requires_grad=True)
    labels, counts = torch.tensor([0, 1]), torch.tensor([1, 1])
    loss = feature_loss(h, labels, nothing, counts, temperature=0.9)
    loss.backward()
    assert loss == 0 and not h.grad.any()
    half = unified([[1.0, 0.0], [0.0, 0.0]], [4.0, 0.0])
    both = feature_loss(h, labels, half, counts, temperature=0.9)
    torch.testing.assert_close(both, feature_loss(h[:1], labels[:1], half, counts, 0.9))


def test_the_loss_pulls_a_feature_to_its_own_prototype() -> None:
    prototypes = unified([[1.0, 0.0], [0.0, 1.0]], [1.0, 1.0])
    h = torch.tensor([[1.0, 1.0]], requires_grad=True)
    loss = feature_loss(h, torch.tensor([0]), prototypes, torch.tensor([1, 1]), 0.9)
    loss.backward()
    assert h.grad[0, 0] < 0 < h.grad[0, 1]


def test_mixtures_lie_between_prototype_and_unit_features() -> None:
    # One feature (0, 4), unit (0, 1); prototype (1, 0): every mixture is (s, 1 - s).
    got = mixtures(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.0, 4.0]]),
        each=500,
        low=0.35,
        high=0.95,
        generator=rng(0, "test"),
    )[0]
    torch.testing.assert_close(got.sum(dim=1), torch.ones(500))
    share = got[:, 0]
    assert 0.35 <= share.min() < 0.37 and 0.93 < share.max() <= 0.95


def test_prototypes_are_means_over_images_and_outlast_a_round_without_their_class(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=3, dim=2, local_epochs=1)
    method = RUCR(made, RUCR.Options(rectify_epochs=1))
    net = method.build()
    net.unified.prototypes[2] = torch.tensor([8.0, 9.0])
    net.unified.counts[2] = 5.0
    start = {name: t.clone() for name, t in net.state_dict().items()}
    clients = [
        client(made, torch.tensor([[1, 0], [3, 0], [0, 4]]), torch.tensor([0, 0, 1])),
        client(made, torch.tensor([[0, 5]]), torch.tensor([0]), client=1),
    ]
    totals = method.uplink(net)
    for data in clients:
        net.load_state_dict(start)
        sums = method.local_update(net, data).sums
        totals = {name: totals[name] + sums[name] for name in totals}
    after = method.server_update(net, Aggregate(1, start, totals, {})).shared
    # Class 0: images (1, 0), (3, 0), (0, 5); directions (1, 0) twice and (0, 1) once.
    third = 1 / 3
    expected = torch.tensor([[4 * third, 5 * third], [0.0, 4.0], [8.0, 9.0]])
    torch.testing.assert_close(after["unified.prototypes"], expected)
    torch.testing.assert_close(
        after["unified.directions"], torch.tensor([[2 * third, third], [0.0, 1.0], [0.0, 0.0]])
    )
    assert after["unified.counts"].tolist() == [3, 1, 5]


def test_rectification_balances_a_biased_head(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    # A client with class 0 alone, whose head prefers class 0 for everything: on mixtures with
    # the prototypes of both classes it learns to tell them apart.
    made = task(num_classes=2, dim=2, local_epochs=1, lr=1e-6)
    method = RUCR(made, RUCR.Options(rectify_epochs=50, rectify_lr=0.5))
    net = method.build()
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.copy_(torch.tensor([1.0, 0.0]))
    net.unified.directions.copy_(torch.eye(2))
    net.unified.counts.fill_(10.0)
    method.local_update(net, client(made, torch.tensor([[3, 1], [2, 1]]), torch.tensor([0, 0])))
    predictors = method.global_predictors(net)
    assert predictors["raw"].head.predict(torch.eye(2)).tolist() == [0, 0]
    assert predictors["rectified"].head.predict(torch.eye(2)).tolist() == [0, 1]


def test_before_there_are_prototypes_the_rectified_head_is_the_head(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=2, dim=2, local_epochs=1)
    method = RUCR(made, RUCR.Options())
    net = method.build()
    method.local_update(net, client(made, torch.tensor([[3, 1], [2, 5]]), torch.tensor([0, 1])))
    assert torch.equal(net.rectified.weight, net.head.weight)
    assert all(
        not name.startswith("rectified") for name, p in net.named_parameters() if p.requires_grad
    )


def test_a_run(run_twice: Callable[..., Any]) -> None:
    run = run_twice("rucr", "rectify-epochs = 5")
    last = run.metrics[-1]
    assert {"global/raw/all", "global/rectified/all", "train/loss-feature"} <= last.keys()
    assert last["train/loss-feature"] > run.metrics[0]["train/loss-feature"] == 0
    assert {"means", "directions", "counts", "unified.prototypes", "rectified.weight"} <= run.sent


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("rucr", "temperature = 0")
    refuses("rucr", "mix-high = 1.5")
    refuses("rucr", "mix-high = 0.2")  # under mix-low
