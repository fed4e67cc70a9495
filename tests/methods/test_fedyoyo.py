from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div

from fedloge.methods.fedyoyo import (
    FedYoYo,
    blended,
    distillation,
    logit_adjustment,
    strong_view,
)
from fedloge.methods.method import Aggregate
from fedloge.rng import rng


def test_logit_adjustment_by_hand() -> None:
    # Federation 3 : 1, client 0 : 1, blended half and half: 0.375 and 0.625, squared.
    federation, client = torch.tensor([30.0, 10.0]), torch.tensor([0, 4])
    prior = blended(federation, client, 0.5)
    torch.testing.assert_close(prior, torch.tensor([0.375, 0.625]))
    expected = torch.tensor([2 * math.log(0.375), 2 * math.log(0.625)])
    torch.testing.assert_close(logit_adjustment(prior, 2.0), expected)
    # Not known yet: the client's own shares; what it lacks stays finite.
    alone = logit_adjustment(blended(torch.zeros(2), client, 0.5), 1.0)
    torch.testing.assert_close(alone, torch.tensor([math.log(1e-9), 0.0]))
    assert not logit_adjustment(prior, 0.0).abs().max() > 1e-6


def test_blended_again_at_every_batch_the_prior_becomes_the_clients() -> None:
    prior, client = torch.tensor([30.0, 10.0]), torch.tensor([0, 4])
    distances = []
    for _ in range(50):
        prior = blended(prior, client, 0.1)
        distances.append(prior[0].item())
    # Each time nine tenths of the distance to (0, 1) are left.
    assert distances == pytest.approx([0.75 * 0.9 ** (n + 1) for n in range(50)], rel=1e-4)


def test_reblending_changes_the_run(
    run_once: Callable[..., Path], trained: Callable[[Path], dict[str, Tensor]]
) -> None:
    once = trained(run_once("fedyoyo"))
    again = trained(run_once("fedyoyo", "reblend = true", name="reblended"))
    assert not torch.equal(once["head.weight"], again["head.weight"])


def test_distillation_is_kl_where_the_teacher_is_right() -> None:
    g = torch.Generator().manual_seed(0)
    weak = torch.randn(6, 3, generator=g).requires_grad_()
    strong = torch.randn(6, 3, generator=g).requires_grad_()
    labels = weak.argmax(dim=1)
    labels[:2] = (labels[:2] + 1) % 3
    got = distillation(weak, strong, labels, temperature=1.5)
    p, log_q = (weak / 1.5).softmax(dim=1), (strong / 1.5).log_softmax(dim=1)
    torch.testing.assert_close(got, kl_div(log_q[2:], p[2:], reduction="batchmean"))
    got.backward()
    assert weak.grad is None and not strong.grad[:2].any() and strong.grad[2:].any()
    assert distillation(weak, weak, weak.argmax(dim=1), 1.5).abs() < 1e-6
    assert distillation(weak[:2], strong[:2], labels[:2], 1.5) == 0


def test_the_strong_view_cuts_a_square_and_moves_the_rest() -> None:
    images = torch.ones(50, 2, 16, 16)
    views = strong_view(images, rng(0, "test"))
    assert views.shape == images.shape
    # Every view has lost a part (the square, and what was turned out), alike in all channels.
    lost = views == 0
    assert torch.equal(lost[:, 0], lost[:, 1])
    share = lost[:, 0].double().mean(dim=(1, 2))
    assert share.min() > 0 and share.max() < 0.6
    assert not torch.equal(views[0], views[1])
    assert torch.equal(views, strong_view(images, rng(0, "test")))
    assert not torch.equal(views, strong_view(images, rng(1, "test")))
    assert torch.equal(images, torch.ones_like(images))


def test_counts_are_kept_as_a_running_mean(task: Callable[..., Any]) -> None:
    method = FedYoYo(task(num_classes=2), FedYoYo.Options(keep=0.75))
    shared = dict(method.build().state_dict())
    for round, counts in ((1, [8.0, 4.0]), (2, [0.0, 8.0])):
        sums = {"counts": torch.tensor(counts)}
        shared = method.server_update(method.build(), Aggregate(round, shared, sums, {})).shared
        if round == 1:
            assert shared["federation.counts"].tolist() == [8, 4]
    assert shared["federation.counts"].tolist() == [6, 5]


def test_distillation_warms_up(task: Callable[..., Any], client: Callable[..., Any]) -> None:
    # In round 5 a warm-up of 20 rounds has come a quarter of the way, one of 5 or less all of it.
    made = task(num_classes=2, dim=4, local_epochs=1, lr=1e-9)
    pixels, labels = torch.randint(0, 9, (6, 4)), torch.tensor([0, 1, 0, 1, 1, 1])
    found = {}
    for warmup in (20, 5, 1):
        method = FedYoYo(made, FedYoYo.Options(warmup=warmup))
        net = method.build()
        torch.nn.init.eye_(net.head.weight)
        update = method.local_update(net, client(made, pixels, labels, round=5))
        found[warmup] = update.metrics["loss-distillation"]
    assert found[5] > 0
    assert found[20] == pytest.approx(found[5] / 4, rel=1e-5)
    assert found[1] == pytest.approx(found[5], rel=1e-5)


def test_a_run(run_twice: Callable[..., Any]) -> None:
    run = run_twice("fedyoyo", "warmup = 2")
    last = run.metrics[-1]
    assert {"global/raw/all", "personal/tuned/mean", "train/loss-distillation"} <= last.keys()
    assert {"counts", "federation.counts"} <= run.sent


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fedyoyo", "local-share = 2")
    refuses("fedyoyo", "warmup = 0")


@pytest.mark.parametrize("side", [8, 32])
def test_strong_views_keep_the_size(side: int) -> None:
    assert strong_view(torch.zeros(3, 1, side, side), rng(0, "test")).shape == (3, 1, side, side)
