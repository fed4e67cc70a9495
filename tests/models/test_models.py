from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from fedloge.errors import ConfigError, PluginError
from fedloge.models import (
    LinearHead,
    build_backbone,
    linear,
    norm_parameters,
    norm_statistics,
)

DIGIT, COLOUR = (1, 8, 8), (3, 32, 32)
# One of each way in which torchvision names its classifier or takes its size.
TORCHVISION = {
    "resnet50": ((3, 64, 64), 2048),
    "mobilenet_v3_small": ((1, 32, 32), 1024),
    "densenet121": ((3, 32, 32), 1024),
    "squeezenet1_1": ((3, 32, 32), 512),
    "shufflenet_v2_x0_5": ((3, 32, 32), 1024),
    "googlenet": ((3, 32, 32), 1024),
    "vit_b_32": ((3, 32, 32), 768),
    "swin_t": ((3, 32, 32), 768),
}


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize(
    ("name", "shape", "width"),
    [("cnn", DIGIT, 128), ("cnn", COLOUR, 128), ("resnet8", DIGIT, 64), ("resnet8", COLOUR, 64)],
)
def test_features_and_gradients(
    name: str, shape: tuple[int, int, int], width: int, norm: str
) -> None:
    net = build_backbone(name, shape, norm, seed=0)  # type: ignore[arg-type]
    assert net.training
    features = net(torch.randn(4, *shape))
    assert features.shape == (4, width) == (4, net.out_features)
    features.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == (norm == "batch")


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_168_832), ("resnet34", 21_276_992)]
)
def test_cifar_resnets_have_the_known_size(name: str, parameters: int) -> None:
    """torchvision's, less its classifier, with a 3x3 stem in the place of the 7x7 one."""
    net = build_backbone(name, COLOUR, seed=0)
    theirs = torchvision.models.get_model(name)
    stem = 64 * 3 * (7 * 7 - 3 * 3)
    assert count(net) == count(theirs) - count(theirs.fc) - stem == parameters
    # Three of the four stages halve the image, and nothing else does.
    assert net.stages(net.stem(torch.zeros(2, *COLOUR))).shape == (2, 512, 4, 4)


def test_resnet8_is_small() -> None:
    assert count(build_backbone("resnet8", COLOUR, seed=0)) == 77_392


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_give_features(name: str) -> None:
    shape, width = TORCHVISION[name]
    net = build_backbone(name, shape, seed=0)
    assert net.out_features == width
    features = net(torch.randn(2, *shape))
    assert features.shape == (2, width)
    assert features.requires_grad


def test_grey_images_are_shown_as_rgb() -> None:
    grey = build_backbone("mobilenet_v3_small", (1, 32, 32), seed=0).eval()
    rgb = build_backbone("mobilenet_v3_small", (3, 32, 32), seed=0).eval()
    image = torch.randn(2, 1, 32, 32)
    assert torch.equal(grey(image), rgb(image.repeat(1, 3, 1, 1)))


def test_group_norm_replaces_batch_norm_in_torchvision_models() -> None:
    net = build_backbone("mobilenet_v3_small", COLOUR, "group", seed=0)
    assert norm_statistics(net) == set()
    layers = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert layers
    assert all(m.num_channels >= 4 * m.num_groups for m in layers)
    # Without batch statistics a sample's features do not hang on its neighbours.
    net.eval()
    images = torch.randn(3, *COLOUR)
    torch.testing.assert_close(net(images)[:1], net(images[:1]))


def test_wrong_models_are_refused_in_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown model 'resnet19' \(did you mean 'resnet1?[018]"
    ):
        build_backbone("resnet19", COLOUR, seed=0)
    # Each finds out in its own way: in its first forward, or when it is built.
    for name, size in (("alexnet", (8, 8)), ("vit_b_32", (40, 40)), ("vit_b_32", (32, 64))):
        with pytest.raises(ConfigError, match=f"'{name}' cannot take {size[0]}x{size[1]} images"):
            build_backbone(name, (3, *size), seed=0)
    with pytest.raises(ConfigError, match="grey or RGB"):
        build_backbone("mobilenet_v3_small", (2, 32, 32), seed=0)
    with pytest.raises(ConfigError, match="'squeezenet1_1' has none"):
        build_backbone("squeezenet1_1", COLOUR, "group", seed=0)


def test_a_built_in_model_has_no_options_and_takes_images() -> None:
    with pytest.raises(ConfigError, match="model-options: model 'cnn' has none, got 'width'"):
        build_backbone("cnn", DIGIT, options={"width": 3}, seed=0)
    with pytest.raises(ConfigError, match=r"'cnn' takes images .* have the shape \(7,\)"):
        build_backbone("cnn", (7,), seed=0)


PLUGIN = """
import torch
from torch import nn
from fedloge.models import Backbone

class Wide(Backbone):
    def __init__(self, input_shape, *, width: int = 4, bias: bool = True):
        super().__init__()
        self.out_features = width
        self.layer = nn.Linear(torch.Size(input_shape).numel(), width, bias)

    def forward(self, inputs):
        return self.layer(inputs.flatten(1))

class Normed(Wide):
    def __init__(self, input_shape):
        super().__init__(input_shape)
        self.norm = nn.BatchNorm2d(3)

class Widthless(Backbone):
    def __init__(self, input_shape):
        super().__init__()

class Plain(nn.Module):
    out_features = 3

    def __init__(self, input_shape):
        super().__init__()

def function(input_shape):
    return Wide(input_shape)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    file = tmp_path / "mine.py"
    file.write_text(PLUGIN)
    return str(file)


def test_a_model_of_ones_own(plugin: str) -> None:
    net = build_backbone(f"{plugin}:Wide", (5,), options={"width": 6, "bias": False}, seed=1)
    assert net.out_features == 6 and net.layer.bias is None
    assert net(torch.randn(2, 5)).shape == (2, 6)
    assert build_backbone(f"{plugin}:Wide", (2, 3), seed=1).layer.weight.shape == (4, 6)
    again = build_backbone(f"{plugin}:Wide", (5,), options={"width": 6, "bias": False}, seed=1)
    other = build_backbone(f"{plugin}:Wide", (5,), options={"width": 6, "bias": False}, seed=2)
    assert torch.equal(net.layer.weight, again.layer.weight)
    assert not torch.equal(net.layer.weight, other.layer.weight)


def test_its_norm_layers_are_as_any_others(plugin: str) -> None:
    own = build_backbone(f"{plugin}:Normed", (5,), seed=0)
    assert norm_statistics(own) == {"norm.running_mean", "norm.running_var"}
    assert "norm.num_batches_tracked" not in own.state_dict()
    grouped = build_backbone(f"{plugin}:Normed", (5,), "group", seed=0)
    assert isinstance(grouped.norm, nn.GroupNorm)
    with pytest.raises(ConfigError, match="norm 'group' replaces batch norm layers, but model"):
        build_backbone(f"{plugin}:Wide", (5,), "group", seed=0)


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("Wide", {"widht": 3}, ConfigError, "model-options of .*'widht' .did you mean 'width'"),
        ("Wide", {"width": "3"}, ConfigError, "width: .*integer, got '3'"),
        ("Normed", {"width": 3}, ConfigError, "there are no options, got 'width'"),
        ("Widthless", {}, PluginError, "Backbone with out_features, got Widthless"),
        ("Plain", {}, PluginError, "Backbone with out_features, got Plain"),
        ("function", {}, PluginError, "function': expected a class, got <function"),
        ("Wied", {}, PluginError, "unknown name in .*did you mean 'Wide'"),
    ],
)
def test_what_is_no_model_is_refused_in_one_line(
    plugin: str, name: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        build_backbone(f"{plugin}:{name}", (5,), options=options, seed=0)
    assert "\n" not in str(caught.value)


def test_initialisation_hangs_on_the_seed_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one = build_backbone("cnn", DIGIT, seed=3)
    layer = linear(4, 3, seed=3, purpose="init/head")
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(5)
    two = build_backbone("cnn", DIGIT, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert torch.equal(linear(4, 3, seed=3, purpose="init/head").weight, layer.weight)
    other = build_backbone("cnn", DIGIT, seed=4)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert not torch.equal(linear(4, 3, seed=3, purpose="init/other").weight, layer.weight)
    assert linear(4, 3, bias=False, seed=3, purpose="init/head").bias is None


@pytest.mark.parametrize(
    ("name", "shape"), [("cnn", DIGIT), ("mobilenet_v3_small", COLOUR), ("swin_t", COLOUR)]
)
def test_state_is_floating_point_and_round_trips(name: str, shape: tuple[int, int, int]) -> None:
    net = build_backbone(name, shape, seed=0)
    net(torch.randn(4, *shape))
    state = dict(net.state_dict())
    assert all(tensor.is_floating_point() for tensor in state.values())
    # A plain dict, as read from safetensors, carries no version; copies must load it too.
    for target in (build_backbone(name, shape, seed=1), copy.deepcopy(net)):
        target.load_state_dict(state, strict=True)
        assert all(torch.equal(state[k], v) for k, v in target.state_dict().items())
    # Weights saved with counters load as well.
    counters = {
        k.replace("running_mean", "num_batches_tracked"): torch.tensor(5)
        for k in state
        if k.endswith("running_mean")
    }
    net.load_state_dict({**state, **counters}, strict=True)
    assert set(net.state_dict()) == set(state)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        net.load_state_dict({**state, "nonsense": torch.zeros(1)}, strict=True)


def test_running_statistics_move_with_momentum() -> None:
    net = build_backbone("cnn", DIGIT, seed=0)
    batch = torch.randn(16, *DIGIT)
    conv, norm = net.layers[0], net.layers[1]
    expected = 0.1 * conv(batch).mean(dim=(0, 2, 3))
    net(batch)
    torch.testing.assert_close(norm.running_mean, expected)


def test_norm_tensors_are_told_apart() -> None:
    net = build_backbone("resnet8", COLOUR, seed=0)
    affine, statistics = norm_parameters(net), norm_statistics(net)
    names = set(net.state_dict())
    assert affine | statistics <= names
    assert {"stem.1.weight", "stages.0.0.norm1.bias", "stages.1.0.shortcut.1.weight"} <= affine
    assert "stages.0.0.norm2.running_var" in statistics
    assert not affine & statistics
    # What is left are the convolutions.
    rest = {n: t for n, t in net.state_dict().items() if n not in affine | statistics}
    assert rest
    assert all(t.ndim == 4 for t in rest.values())
    grouped = build_backbone("resnet8", COLOUR, "group", seed=0)
    assert norm_parameters(grouped) == affine
    assert norm_statistics(grouped) == set()


def test_head_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    plain = LinearHead(weight)
    assert plain.logits(features).tolist() == [[1, 0, 1], [0, 2, 2]]
    biased = LinearHead(weight, bias=torch.tensor([0.0, 0.0, 0.5]))
    assert biased.predict(features).tolist() == [2, 2]
    masked = LinearHead(weight, biased.bias, mask=torch.tensor([0.0, 0.0, -torch.inf]))
    assert masked.logits(features).tolist() == [[1, 0, -torch.inf], [0, 2, -torch.inf]]
    assert masked.predict(features).tolist() == [0, 1]


def test_head_of_a_layer() -> None:
    layer = linear(5, 3, seed=0, purpose="init/head")
    features = torch.randn(4, 5)
    taken = LinearHead.of(layer)
    torch.testing.assert_close(taken.logits(features), layer(features))
    assert not taken.weight.requires_grad
    assert LinearHead.of(nn.Linear(5, 3, bias=False)).bias is None
