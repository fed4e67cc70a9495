"""The backbone that all start from: its weights, what of it is frozen, and the scale of its features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.errors import ConfigError
from fedloge.federation.kept_inputs import kept_inputs
from fedloge.folders import cache_folder
from fedloge.models import (
    SAMPLE,
    Backbone,
    Keeper,
    Parted,
    Pretrained,
    ResidualAdapter,
    StandardFeatures,
    UnitFeatures,
    build_backbone,
    parted,
    warn_of_small_stem,
)


class StartingBackbone:
    """Builds a config's backbone for inputs of one shape.

    Parameters
    ----------
    shape : of one prepared input.
    weights : that the backbone starts from; None: random ones.
    sample : features of some training examples under a backbone that is not trained yet, for the
        scale ``standard``; None: the scale is loaded later, with a trained network.
    """

    def __init__(
        self,
        config: Config,
        shape: tuple[int, ...],
        weights: Pretrained | None = None,
        sample: Callable[[Backbone], Tensor] | None = None,
    ) -> None:
        self.config, self.shape, self.weights = config, shape, weights
        self._sample = sample

    @property
    def frozen(self) -> nn.Module | None:
        """From prepared inputs to what is kept of them, in evaluation mode; None: nothing is kept."""
        return self.parted.frozen if self.config.keeps_outputs else None

    @cached_property
    def trained_shape(self) -> tuple[int, ...]:
        """Shape of what the trained part takes."""
        if self.frozen is None:
            return self.shape
        with torch.no_grad():
            device = next(iter(self.frozen.parameters())).device
            return tuple(self.frozen(torch.zeros(1, *self.shape, device=device)).shape[1:])

    def new(self) -> Backbone:
        """What is trained, with what is frozen inside it; the same initial weights on every call."""
        if self.config.train_part == "all" and self._scale == "none":
            return self._whole()
        return copy.deepcopy(self._scaled)

    @cached_property
    def parted(self) -> Parted:
        """What is frozen and what is trained."""
        c = self.config
        return parted(self._whole(), c.train_part, c.train_part_options, self.shape, seed=c.seed)

    def _whole(self) -> Backbone:
        c = self.config
        warn_of_small_stem(c.model, self.shape)
        return build_backbone(
            c.model, self.shape, c.norm, c.model_options, seed=c.seed, weights=self.weights
        )

    @property
    def _scale(self) -> str:
        c = self.config
        if c.feature_scale == "standard" and c.on_node:
            raise ConfigError(
                "feature-scale: 'standard' needs statistics over the examples of all sites, which stay where "
                "they are; use l2"
            )
        if c.feature_scale != "auto":
            return c.feature_scale
        if not c.weights:
            return "none"
        return "l2" if c.on_node else "standard"

    @cached_property
    def _scaled(self) -> Backbone:
        trained = self.parted.trained
        if self._scale == "none":
            return trained
        if isinstance(trained, ResidualAdapter):
            # Before what is trained: behind it, the scale would multiply the adapter's steps.
            trained.net = self._scaling(trained.net)
            trained.feature_length = trained.net.feature_length
            return trained
        return self._scaling(trained)

    def _scaling(self, net: Backbone) -> Backbone:
        if self._scale == "l2":
            return UnitFeatures(net)
        nothing = torch.empty(0, net.out_features)
        return StandardFeatures(net, self._sample(net) if self._sample else nothing)


class StartOnData:
    """What a config's starting backbone makes of a data set.

    Parameters
    ----------
    images : the training examples in the long tail, and the test examples, as the source has them.
    weights : that the backbone starts from; None: random ones.
    device : on which outputs to be kept are computed.
    """

    def __init__(
        self, config: Config, images: DataSet, weights: Pretrained | None, device: torch.device
    ) -> None:
        self.config, self.images, self.device = config, images, device
        self.backbone = StartingBackbone(config, images.network_shape, weights, self._sample)

    @cached_property
    def data(self) -> DataSet:
        """What the trained part takes: the images, or the kept outputs of the frozen part."""
        frozen = self.backbone.frozen
        if frozen is None:
            return self.images
        views = self.config.feature_views
        return kept_inputs(self.images, self._keeper(frozen, self.backbone.parted.cut, views))

    def _sample(self, trained: Backbone) -> Tensor:
        inputs = self.data.train.inputs
        count = min(SAMPLE, len(inputs))
        chosen = torch.from_numpy(np.linspace(0, len(inputs) - 1, count).round().astype(np.int64))
        if self.backbone.frozen is None:
            initial = copy.deepcopy(trained).requires_grad_(False)
            return self._keeper(initial, "the end", 1).outputs(inputs[chosen])[:, 0].float()
        trained.eval()
        with torch.no_grad():
            parts = [
                trained(self.data.preparation.prepare(inputs[part])) for part in chosen.split(256)
            ]
        trained.train()
        return torch.cat(parts)

    def _keeper(self, frozen: nn.Module, cut: str, views: int) -> Keeper:
        frozen.to(self.device).to(memory_format=torch.channels_last).eval()
        return Keeper(
            frozen,
            f"{self.config.model} up to {cut}",
            self.images.preparation,
            views,
            cache_folder(self.config.cache_dir),
            self.device,
        )
