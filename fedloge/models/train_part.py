"""What of a backbone is trained (``train-part``), and what is frozen.

======================  ==============================================  =============================
train-part              trained                                         kept of every example
======================  ==============================================  =============================
``all``                 the whole backbone                              –
``norm``                the affine parameters of its norm layers        –
``low-rank``            low-rank adapters of its weights                –
``last-stage``          the last stage and what comes after it          the input of the last stage
``adapter``             a residual MLP on its features                  the features
``none``                nothing                                         the features
======================  ==============================================  =============================

What is frozen is fixed: never sent, and always in evaluation mode, or batch norm's running statistics
would move its features with every batch.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedloge.errors import ConfigError
from fedloge.models.adapters import ResidualAdapter, add_low_rank
from fedloge.models.backbone import Backbone
from fedloge.models.build import IdentityBackbone
from fedloge.models.cut import Prefix, cut_before, last_stage
from fedloge.models.norm import norm_parameters
from fedloge.options import Options, checked_options
from fedloge.rng import torch_seeded

TrainPart = Literal["all", "last-stage", "norm", "adapter", "low-rank", "none"]
KEPT = ("last-stage", "adapter", "none")
"""The parts under which the output of what is frozen is kept."""


class _NormOptions(Options):
    """`norm_statistics`: whether batch norm's running statistics stay the weights' own, or move."""

    norm_statistics: Literal["kept", "moving"] = "kept"


class _StageOptions(_NormOptions):
    """`first`: the first module that is trained; empty: that of the last stage."""

    first: str = ""


class _AdapterOptions(Options):
    """`width`: hidden units of the residual MLP."""

    width: int = Field(128, ge=1)


class _LowRankOptions(Options):
    """`rank` and `alpha` of the adapters; what they add is scaled by alpha / rank."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(16.0, gt=0)


OPTIONS: Mapping[str, type[Options]] = {
    "all": Options,
    "last-stage": _StageOptions,
    "norm": _NormOptions,
    "adapter": _AdapterOptions,
    "low-rank": _LowRankOptions,
    "none": Options,
}
"""The options of each part, ``[train-part-options]`` in a config."""


@dataclass(frozen=True)
class Parted:
    """A backbone in two parts.

    Attributes
    ----------
    frozen : from prepared inputs to what is kept of them, in evaluation mode; None: nothing is kept.
    trained : from what is kept, or from prepared inputs, to features.
    cut : names where the two meet.
    """

    frozen: nn.Module | None
    trained: Backbone
    cut: str = ""


class PartlyTrained(Backbone):
    """A backbone of which only some tensors are trained; the others are fixed.

    Parameters
    ----------
    trained : names of the parameters that are trained.
    moving : names of the modules that are in training mode when the network is.
    """

    def __init__(self, net: Backbone, trained: Iterable[str], moving: Iterable[str]) -> None:
        super().__init__()
        self.net, self.out_features = net, net.out_features
        self._trained, self._moving = frozenset(trained), frozenset(moving)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in self._trained)
        self.train()

    def forward(self, inputs: Tensor) -> Tensor:
        """Features."""
        features: Tensor = self.net(inputs)
        return features

    def train(self, mode: bool = True) -> PartlyTrained:
        """Training mode for the trained part alone."""
        self.training = mode
        for name, module in self.net.named_modules():
            module.training = mode and name in self._moving
        return self

    def fixed_tensors(self) -> set[str]:
        """What is neither trained nor a statistic that moves."""
        moving = {
            f"{name}.{key}"
            for name, module in self.net.named_modules()
            if name in self._moving
            for key, _ in module.named_buffers(recurse=False)
        }
        return {f"net.{key}" for key in self.net.state_dict() if key not in self._trained | moving}


def parted(
    backbone: Backbone,
    part: TrainPart,
    options: Mapping[str, Any],
    input_shape: tuple[int, ...],
    *,
    seed: int,
) -> Parted:
    """Part a backbone into what is frozen and what is trained.

    Parameters
    ----------
    backbone : with its initial weights; it becomes part of the result.
    options : of this part, see `OPTIONS`.
    input_shape : of one prepared input.
    seed : >= 0; the initial weights of adapters depend on it.

    Raises
    ------
    ConfigError
        An option is wrong, or the model cannot be parted so.
    """
    given: Any = checked_options(OPTIONS[part], options, f"train-part-options of {part!r}")
    if part == "all":
        return Parted(None, backbone)
    with torch_seeded(seed, f"init/{part}"):
        match part:
            case "norm":
                return Parted(None, _norm_layers(backbone, given))
            case "low-rank":
                return Parted(None, _low_rank(backbone, given))
            case "last-stage":
                return _last_stage(backbone, given, input_shape)
            case "adapter":
                adapter = ResidualAdapter(IdentityBackbone(backbone.out_features), given.width)
                return Parted(_frozen(backbone), adapter, "features")
    return Parted(_frozen(backbone), IdentityBackbone(backbone.out_features), "features")


def _norm_layers(backbone: Backbone, options: _NormOptions) -> Backbone:
    trained = norm_parameters(backbone)
    if not trained:
        raise ConfigError("train-part: 'norm' trains norm layers, but the model has none")
    return PartlyTrained(backbone, trained, _moving_norms(backbone, options))


def _low_rank(backbone: Backbone, options: _LowRankOptions) -> Backbone:
    if not add_low_rank(backbone, options.rank, options.alpha):
        raise ConfigError(
            "train-part: 'low-rank' adapts linear layers, 1x1 convolutions and attention, but the model has none"
        )
    added = [name for name, p in backbone.named_parameters() if p.requires_grad]
    return PartlyTrained(backbone, added, ())


def _last_stage(backbone: Backbone, options: _StageOptions, input_shape: tuple[int, ...]) -> Parted:
    first = options.first or last_stage(backbone.load_target())
    suffix = cut_before(backbone, first, input_shape)
    # Copied, since training must not change what has been kept of the frozen part.
    trained = copy.deepcopy(suffix)
    norms = {name for name, module in trained.named_modules() if isinstance(module, _BatchNorm)}
    moving = {name for name, _ in trained.named_modules()} - norms
    if options.norm_statistics == "moving":
        moving |= norms
    names = [name for name, _ in trained.named_parameters()]
    part = PartlyTrained(trained, names, moving)
    return Parted(_frozen(Prefix(backbone, first)), part, first)


def _moving_norms(net: nn.Module, options: _NormOptions) -> set[str]:
    if options.norm_statistics == "kept":
        return set()
    return {name for name, module in net.named_modules() if isinstance(module, _BatchNorm)}


def _frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False).eval()
