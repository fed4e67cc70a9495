from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

import fedloge
from fedloge.methods.fedgrab import Balancer, FedGraB, norm_prior, tail_classes, weight_of
from fedloge.methods.method import Aggregate

ALL = torch.ones(3)


def test_weight_of_at_its_limits() -> None:
    u = torch.tensor([-1e9, 0.0, 1e9, 20 * torch.log(torch.tensor(9.0))])
    got = weight_of(u, ceiling=10.0, steepness=0.05)
    torch.testing.assert_close(got, torch.tensor([0.0, 1.0, 10.0, 5.0]))
    assert (weight_of(u, ceiling=1.0, steepness=0.05)[1:] == 1).all()


def test_the_controller_by_hand() -> None:
    options = FedGraB.Options(kp=10, ki=0.01, kd=0.1)
    balancer = Balancer(3, options)
    targets = one_hot(torch.tensor([0]), 3).float()
    assert (balancer.weights(targets, ALL) == 1).all()  # no gradient yet: u = 0
    # Class 0: negative 2, positive 0, so error 2: u = 10 * 2 + 0.01 * 2 + 0.1 * (2 - 0) = 20.22.
    balancer.negative[0] = 2.0
    first = balancer.weights(targets, ALL)
    assert first[0, 0].item() == pytest.approx(10 / (1 + 9 * torch.e ** (-0.05 * 20.22)), rel=1e-5)
    assert (first[0, 1:] == 1).all()
    # Again: integral 4, no change of error: u = 20 + 0.04 + 0.
    second = balancer.weights(targets, ALL)
    assert second[0, 0].item() == pytest.approx(10 / (1 + 9 * torch.e ** (-0.05 * 20.04)), rel=1e-5)
    # Too many positives: the weight falls under 1, and to 0 in the limit.
    balancer.positive[0] = 1e6
    assert balancer.weights(targets, ALL)[0, 0] == pytest.approx(0, abs=1e-6)
    # A class outside the mask is left alone, whatever its accounts say.
    assert (balancer.weights(targets, torch.zeros(3)) == 1).all()


def test_negatives_are_weighted_only_on_request() -> None:
    targets = one_hot(torch.tensor([1]), 3).float()
    for wanted in (False, True):
        balancer = Balancer(3, FedGraB.Options(balance_negatives=wanted, ki=0, kd=0))
        balancer.negative[0] = 1.0
        weight = balancer.weights(targets, ALL)[0, 0].item()
        expected = 10 / (1 + 9 * torch.e ** (0.05 * 10)) if wanted else 1
        assert weight == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("withhold", [True, False])
def test_accounts_are_the_gradients_that_the_logits_get(
    task: Callable[..., Any], client: Callable[..., Any], withhold: bool
) -> None:
    made = task(num_classes=3, dim=4)
    method = FedGraB(made, FedGraB.Options(balance="all", withhold=withhold))
    net = method.build()
    net.balancer.negative[2] = 3.0
    before = {name: t.clone() for name, t in net.balancer.named_buffers()}
    labels = torch.tensor([0, 2, 2, 1])
    data = client(made, torch.randint(0, 9, (4, 4)), labels)
    images, _ = next(data.plain_batches())
    seen: list[torch.Tensor] = []
    net.head.register_forward_hook(lambda *a: a[2].register_hook(seen.append) and None)
    method.loss(net, images, labels, data)["bce"].backward()
    (gradient,) = seen
    targets = one_hot(labels, 3).float()
    grown = {n: t - before[n] for n, t in net.balancer.named_buffers()}
    torch.testing.assert_close(grown["positive"], (gradient.abs() * targets).sum(dim=0))
    torch.testing.assert_close(grown["negative"], (gradient.abs() * (1 - targets)).sum(dim=0))


def test_a_class_gets_no_gradient_until_one_of_its_images_was_seen(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=3, dim=4)
    method = FedGraB(made, FedGraB.Options())
    net = method.build()

    def row_gradients(labels: list[int]) -> list[bool]:
        data = client(made, torch.randint(0, 9, (2, 4)), torch.tensor(labels))
        images, _ = next(data.plain_batches())
        net.zero_grad()
        method.loss(net, images, torch.tensor(labels), data)["bce"].backward()
        return (net.head.weight.grad != 0).any(dim=1).tolist()

    assert row_gradients([1, 1]) == [False, True, False]
    # Class 2 comes in; class 1 was seen before, so that these images are its negatives.
    assert row_gradients([2, 2]) == [False, True, True]
    assert row_gradients([1, 2]) == [False, True, True]
    assert row_gradients([0, 0]) == [True, True, True]


@pytest.mark.slow
def test_the_analyzer_finds_the_rarest_classes_of_the_digits(tmp_path: Path) -> None:
    """Without withholding it marks the third most frequent class instead."""
    run = fedloge.run(
        method="fedgrab", rounds=20, evaluate_every=20, runs_dir=str(tmp_path), name="grab"
    )
    assert run.last_class_line["method/balanced"] == [0] * 8 + [1, 1]


def test_before_the_first_analysis_it_is_plain_binary_cross_entropy(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=3, dim=4)
    method = FedGraB(made, FedGraB.Options())
    net = method.build()
    net.balancer.negative.fill_(50.0)
    labels = torch.tensor([0, 1, 2])
    data = client(made, torch.randint(0, 9, (3, 4)), labels)
    images, _ = next(data.plain_batches())
    got = method.loss(net, images, labels, data)["bce"]
    logits = net.head(net.backbone(images))
    plain = binary_cross_entropy_with_logits(logits, one_hot(labels, 3).float(), reduction="sum")
    torch.testing.assert_close(got, plain / 3)


def test_the_loop_closes() -> None:
    # One positive among 20 images of a class, the same predictions at every step: unbalanced, its
    # negative gradients run away; balanced, the weight rises to what evens them out.
    targets = torch.zeros(20, 1)
    targets[0] = 1
    raw = 0.5 - targets  # sigmoid 0.5 everywhere: 19 * 0.5 against 1 * 0.5 in a step
    gap = {}
    for name, mask in (("free", torch.zeros(1)), ("balanced", torch.ones(1))):
        balancer = Balancer(1, FedGraB.Options(ceiling=100.0))
        for _ in range(400):
            weights = balancer.weights(targets, mask)
            balancer.record(weights * raw, targets)
        gap[name] = (balancer.negative - balancer.positive).item()
    assert gap["free"] == pytest.approx(400 * 18 * 0.5 / 20, rel=1e-4)
    assert abs(gap["balanced"]) < 10
    assert weights[0].item() == pytest.approx(19, rel=0.05)


def test_the_analyzer_by_hand() -> None:
    # Norms 5, 3, 2, 1: less the least 4, 2, 1, 0, of 7.
    weight = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0]))
    prior = norm_prior(weight)
    torch.testing.assert_close(prior, torch.tensor([4.0, 2.0, 1.0, 0.0]) / 7)
    # Before class 2 lie 6/7 < 95 %; before class 3 all of it.
    assert tail_classes(prior).tolist() == [0, 0, 0, 1]
    assert norm_prior(torch.eye(4)).tolist() == [0.25] * 4
    # The authors' way: z-scores, shifted by the least, scaled to sum 1.
    norms = torch.randn(9, generator=torch.Generator().manual_seed(0)).abs()
    scores = (norms - norms.mean()) / norms.std(correction=0)
    scores = scores - scores.min()
    torch.testing.assert_close(norm_prior(norms[:, None]), scores / scores.sum())


def test_the_prior_is_a_mean_over_rounds(task: Callable[..., Any]) -> None:
    method = FedGraB(task(num_classes=3, dim=3), FedGraB.Options())
    net = method.build()
    shared = {name: t.clone() for name, t in net.state_dict().items()}
    state = method.server_state(net)
    for round, norms in ((1, [9.0, 1.0, 5.0]), (2, [1.0, 2.0, 9.0]), (3, [2.0, 1.0, 9.0])):
        shared["head.weight"] = torch.diag(torch.tensor(norms))
        after = method.server_update(net, Aggregate(round, shared, {}, state))
        state = after.state
        if round == 1:  # shares 2/3, 0, 1/3: class 1 comes last
            assert after.shared["tail.mask"].tolist() == [0, 1, 0]
    expected = torch.tensor([8 / 12, 0, 4 / 12]) + torch.tensor([0, 1 / 9, 8 / 9])
    torch.testing.assert_close(state["prior"], expected + torch.tensor([1 / 9, 0, 8 / 9]))
    assert after.shared["head.weight"] is shared["head.weight"]


def test_a_run_keeps_the_accounts_at_home(run_twice: Callable[..., Any]) -> None:
    run = run_twice("fedgrab")
    assert {"global/raw/all", "personal/tuned/mean"} <= run.metrics[-1].keys()
    assert "tail.mask" in run.sent
    assert not any(name.startswith("balancer") for name in run.sent)
    assert list((run.folder / "heads").glob("client-*/round-*.safetensors"))


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fedgrab", "kp = -1")
    refuses("fedgrab", "balance = few")
