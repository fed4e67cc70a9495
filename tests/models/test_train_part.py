"""What is trained of a backbone, and what stays frozen."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fedloge.errors import ConfigError
from fedloge.models import Network, Part, build_backbone, parted, parts_of_tensors
from fedloge.models.cut import last_stage
from fedloge.models.train_part import TrainPart

SHAPE = (3, 32, 32)
MODELS = {"resnet8": SHAPE, "cnn": SHAPE, "torchvision/mobilenet_v3_small": (3, 64, 64)}


def built(name: str) -> Any:
    return build_backbone(name, MODELS[name], seed=0)


def trained(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("resnet8", "stages.2"),
        ("cnn", "layers.6"),
        ("torchvision/mobilenet_v3_small", "features.11"),
    ],
)
def test_the_two_parts_are_the_whole(name: str, stage: str) -> None:
    whole = built(name)
    assert last_stage(whole.load_target()) == stage
    images = torch.randn(3, *MODELS[name])
    expected = whole.eval()(images)
    halves = parted(built(name), "last-stage", {}, MODELS[name], seed=0)
    assert halves.frozen is not None and halves.cut == stage
    assert torch.equal(halves.trained.eval()(halves.frozen(images)), expected)
    assert 0 < trained(halves.trained) < trained(whole)
    assert trained(halves.frozen) == 0


def test_another_cut_and_one_that_is_not_there() -> None:
    first = parted(built("resnet8"), "last-stage", {"first": "stages.1"}, SHAPE, seed=0)
    assert first.frozen is not None
    assert first.frozen(torch.zeros(1, *SHAPE)).shape == (1, 16, 32, 32)
    with pytest.raises(ConfigError, match=r"no module 'stages.9'; its parts are stem, stages"):
        parted(built("resnet8"), "last-stage", {"first": "stages.9"}, SHAPE, seed=0)


class Skipping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.two(self.one(x)) + x).mean(dim=(2, 3))


def test_a_network_that_cannot_be_cut_is_refused() -> None:
    whole = built("cnn")
    whole.layers = Skipping()
    whole.out_features = 3
    whole.forward = whole.layers.forward
    with pytest.raises(ConfigError, match=r"cannot be cut before 'layers\.two'"):
        parted(whole, "last-stage", {"first": "layers.two"}, SHAPE, seed=0)


@pytest.mark.parametrize("part", ["norm", "low-rank", "last-stage"])
def test_what_is_frozen_never_moves(part: TrainPart) -> None:
    """Steps in training mode change what is trained, and nothing that is fixed: no running statistic."""
    halves = parted(built("resnet8"), part, {}, SHAPE, seed=0)
    net = Network(backbone=halves.trained)
    homes = parts_of_tensors(net, {"backbone": Part.SHARED})
    before = copy.deepcopy(net.state_dict())
    frozen = copy.deepcopy(halves.frozen.state_dict()) if halves.frozen else {}
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        net.train()
        images = 2 + torch.randn(8, *SHAPE)
        kept = halves.frozen(images) if halves.frozen else images
        optimiser.zero_grad()
        net.backbone(kept).square().sum().backward()
        optimiser.step()
    after = net.state_dict()
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    shared = {name for name, home in homes.items() if home is Part.SHARED}
    assert moved == shared
    assert len(shared) == {"norm": 18, "low-rank": 4, "last-stage": 9}[part]
    if halves.frozen:
        now = halves.frozen.state_dict()
        assert all(torch.equal(frozen[name], now[name]) for name in frozen)
    # A fixed tensor stays fixed where the backbone is a client's own.
    own = parts_of_tensors(net, {"backbone": Part.PERSONAL})
    assert {name for name, home in own.items() if home is Part.PERSONAL} == shared


def test_norm_statistics_move_if_asked() -> None:
    halves = parted(built("resnet8"), "norm", {"norm-statistics": "moving"}, SHAPE, seed=0)
    statistics = {n for n in halves.trained.state_dict() if "running" in n}
    assert not statistics & halves.trained.fixed_tensors()
    before = copy.deepcopy(halves.trained.state_dict())
    halves.trained.train()(torch.randn(8, *SHAPE))
    after = halves.trained.state_dict()
    assert statistics == {name for name in after if not torch.equal(before[name], after[name])}


def test_adapters_start_as_what_they_adapt() -> None:
    images = torch.randn(3, *SHAPE)
    expected = built("resnet8").eval()(images)
    low = parted(built("resnet8"), "low-rank", {"rank": 2}, SHAPE, seed=0).trained
    assert torch.equal(low.eval()(images), expected)
    # Two 1x1 convolutions, 16 to 32 and 32 to 64 channels.
    assert trained(low) == 2 * (16 + 32) + 2 * (32 + 64)
    mlp = parted(built("resnet8"), "adapter", {"width": 5}, SHAPE, seed=0)
    assert mlp.frozen is not None
    assert torch.equal(mlp.trained(mlp.frozen(images)), expected)
    assert trained(mlp.trained) == 2 * 64 * 5 + 5 + 64
    none = parted(built("resnet8"), "none", {}, SHAPE, seed=0)
    assert trained(none.trained) == 0


def test_low_rank_by_hand_and_in_attention() -> None:
    from fedloge.models.adapters import add_low_rank

    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data.copy_(torch.eye(2))
    assert add_low_rank(layer, rank=1, alpha=3.0) == 1
    adapter = layer.parametrizations.weight[0]
    adapter.down.data.copy_(torch.tensor([[1.0, 2.0]]))
    adapter.up.data.copy_(torch.tensor([[1.0], [0.0]]))
    # I + 3 [1 0]^T [1 2]
    assert layer.weight.tolist() == [[4.0, 6.0], [0.0, 1.0]]
    attention = nn.MultiheadAttention(4, 2)
    assert add_low_rank(attention, rank=1, alpha=1.0) == 2
    x = torch.randn(3, 1, 4)
    attention(x, x, x)[0].sum().backward()
    assert all(p.grad is not None for p in attention.parameters() if p.requires_grad)


def test_what_a_model_lacks_is_said() -> None:
    with pytest.raises(ConfigError, match=r"'low-rank' adapts .* but the model has none"):
        parted(built("cnn"), "low-rank", {}, SHAPE, seed=0)
    with pytest.raises(ConfigError, match="train-part-options of 'all': there are no options"):
        parted(built("cnn"), "all", {"rank": 2}, SHAPE, seed=0)
    with pytest.raises(
        ConfigError, match="train-part-options of 'low-rank': unknown option 'rnak'"
    ):
        parted(built("cnn"), "low-rank", {"rnak": 2}, SHAPE, seed=0)
