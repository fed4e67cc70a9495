from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fedloge.errors import GeometryError
from fedloge.methods.fednh import FedNH, class_directions, moved_prototypes
from fedloge.methods.method import Aggregate, Part


def test_class_directions_by_hand() -> None:
    # Lengths do not count: (3, 0) and (0, 5) lie 90 degrees apart, their direction between them.
    features = torch.tensor([[3.0, 0.0], [0.0, 5.0], [0.0, -2.0]])
    got = class_directions(features, torch.tensor([0, 0, 2]), 4)
    half = 0.5**0.5
    expected = torch.tensor([[half, half], [0.0, 0.0], [0.0, -1.0], [0.0, 0.0]])
    torch.testing.assert_close(got, expected)


def test_prototype_update_by_hand() -> None:
    # Class 0: 0.6 (1, 0) + 0.4 (0, 1) = (0.6, 0.4), of norm sqrt(0.52). Class 1: nobody has it.
    prototypes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    directions = torch.tensor([[0.0, 7.0], [0.0, 0.0]])
    got = moved_prototypes(prototypes, directions, rho=0.6)
    expected = torch.tensor([[0.6 / 0.52**0.5, 0.4 / 0.52**0.5], [0.6, 0.8]])
    torch.testing.assert_close(got, expected)
    assert torch.equal(got[1], prototypes[1])
    assert torch.equal(moved_prototypes(prototypes, directions, rho=1.0), prototypes)
    replaced = moved_prototypes(prototypes, directions, rho=0.0)
    torch.testing.assert_close(replaced[0], torch.tensor([0.0, 1.0]))


def test_clients_weigh_by_their_images_of_the_class(task: Callable[..., Any]) -> None:
    # 3 images along (1, 0) on one client and 1 along (0, 1) on another: direction (3, 1).
    made = task(num_classes=2, dim=2)
    method = FedNH(made, FedNH.Options(rho=0.0))
    net = method.build()
    sums = {"directions": torch.tensor([[3.0, 1.0], [0.0, 0.0]])}
    after = method.server_update(net, Aggregate(1, net.state_dict(), sums, {}))
    expected = torch.tensor([3.0, 1.0]) / 10**0.5
    torch.testing.assert_close(after.shared["prototypes.weight"][0], expected)


def test_a_client_sends_directions_times_counts_and_trains_no_prototype(
    task: Callable[..., Any], client: Callable[..., Any]
) -> None:
    made = task(num_classes=2, dim=2, local_epochs=1)
    method = FedNH(made, FedNH.Options())
    net = method.build()
    before = net.prototypes.weight.clone()
    data = client(made, torch.tensor([[4, 0], [9, 0], [0, 2]]), torch.tensor([0, 0, 1]))
    update = method.local_update(net, data)
    assert torch.equal(net.prototypes.weight, before)
    assert [p is net.prototypes.scale for p in method.trainable(net)] == [True]
    torch.testing.assert_close(update.sums["directions"], torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    assert update.sums["directions"].shape == method.uplink(net)["directions"].shape


def test_prototypes_start_as_far_apart_as_can_be(task: Callable[..., Any]) -> None:
    weight = FedNH(task(num_classes=5, dim=8), FedNH.Options()).build().prototypes.weight
    cosines = weight @ weight.T
    torch.testing.assert_close(cosines, 1.25 * torch.eye(5) - 0.25, atol=1e-5, rtol=0)
    with pytest.raises(GeometryError, match="no simplex"):
        FedNH(task(num_classes=5, dim=3), FedNH.Options()).build()


def test_the_scale_can_be_fixed(task: Callable[..., Any]) -> None:
    method = FedNH(task(), FedNH.Options(scale=30.0, learn_scale=False))
    net = method.build()
    assert method.trainable(net) == [] and net.prototypes.scale.item() == 30
    # Logits are cosines times the scale, whatever the features' length.
    h = net.prototypes.weight[:1]
    torch.testing.assert_close(net.prototypes(h)[0, 0].item(), 30.0)
    torch.testing.assert_close(net.prototypes(100 * h), net.prototypes(h))


def test_a_client_s_own_model_is_the_one_it_trained_last(federation: Callable[..., Any]) -> None:
    fed = federation("fednh")
    net, data = fed.net, fed.client_data(0, 1, {})
    before = fed.method.personal_predictors(net, data)["raw"]
    assert before.extractor == "features"
    fed.method.local_update(net, data)
    backbone = {k: t.clone() for k, t in net.backbone.state_dict().items()}
    prototypes = net.prototypes.weight.clone()
    # The next round's shared tensors come; the client's own stay.
    fed.load(fed.initial[Part.SHARED])
    own = fed.method.personal_predictors(net, fed.client_data(0, 2, {}, 1))["raw"]
    assert own.extractor == "own_features"
    assert torch.equal(own.head.weight, prototypes)
    assert all(torch.equal(t, backbone[k]) for k, t in net.own_backbone.state_dict().items())
    x, _ = next(data.plain_batches())
    net.eval()
    assert not torch.equal(fed.method.own_features(net, x), fed.method.features(net, x))


def test_a_run(run_twice: Callable[..., Any]) -> None:
    run = run_twice("fednh", "rho = 0.8")
    assert {"global/raw/all", "personal/raw/mean"} <= run.metrics[-1].keys()
    assert {"directions", "prototypes.weight", "prototypes.scale"} <= run.sent


def test_options_out_of_range_are_refused(refuses: Callable[[str, str], None]) -> None:
    refuses("fednh", "rho = 1.1")
    refuses("fednh", "scale = 0")
