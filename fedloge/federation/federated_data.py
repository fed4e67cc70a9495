"""What a federation's clients hold: the data set, its long tail, and who has which examples."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fedloge.config import Config
from fedloge.data.content import Content, content_of
from fedloge.data.examples import DataSet, Examples, Preparation
from fedloge.data.fitted_images import ImageStandard, decoded_for, fit_images
from fedloge.data.longtail import long_tail_indices, said_of_tail
from fedloge.data.manifest import Manifest
from fedloge.data.sources import load_dataset
from fedloge.federation.device import resolve_device, set_precision
from fedloge.federation.kept_inputs import ThroughFrozen
from fedloge.federation.starting_backbone import StartOnData
from fedloge.learning.metrics import ShotGroups, shot_groups
from fedloge.models import Pretrained, pretrained
from fedloge.partition import Partition, make_partition

log = logging.getLogger(__name__)


class FederatedData:
    """The data side of a configured federation, as one process sees it.

    Parameters
    ----------
    data : the data set, if it is loaded already; None: loaded as the config says, when first needed.

    Raises
    ------
    ConfigError
        The config's device is not there, or cannot compute in its precision.
    """

    def __init__(self, config: Config, data: DataSet | None = None) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        set_precision(self.device, config.precision)
        self._loaded = data

    @cached_property
    def data(self) -> DataSet:
        """What the network takes: the data set, or what a frozen part of the backbone makes of it.

        It is the data set before the long tail, unless outputs are kept: they are the tail's alone.
        """
        return self.start.data if self.config.keeps_outputs else self.images

    @cached_property
    def images(self) -> DataSet:
        """The data set as its source has it, before the long tail, prepared as the weights expect it."""
        data = self._loaded or load_dataset(self.source_config)
        return data if self.standard is None else fit_images(data, self.standard)

    @cached_property
    def content(self) -> Content:
        """What the data set is, by digests of its examples as they were decoded."""
        return content_of(self.images)

    @property
    def source_config(self) -> Config:
        """The config by which images are loaded, at the size that suits the weights."""
        return self.config if self.standard is None else decoded_for(self.standard, self.config)

    @property
    def whole_preparation(self) -> Preparation:
        """How the network's inputs become of raw ones, what is frozen included."""
        frozen = self.start.backbone.frozen
        if frozen is None:
            return self.data.preparation
        return ThroughFrozen(self.images.preparation, frozen)

    @cached_property
    def start(self) -> StartOnData:
        """The backbone that all start from."""
        return StartOnData(self.config, self._tail, self.pretrained, self.device)

    @cached_property
    def _tail(self) -> DataSet:
        """The images, of those for training only the long tail; without a copy where it keeps all in their order."""
        images = self.images
        train = images.train.take(torch.from_numpy(self.kept))
        if train is images.train:
            return images
        return replace(images, train=train, train_manifest=self.train_manifest)

    @cached_property
    def pretrained(self) -> Pretrained | None:
        """The weights that the backbone starts from; None: random ones."""
        c = self.config
        return pretrained(c.model, c.weights) if c.weights else None

    @property
    def standard(self) -> ImageStandard | None:
        """What the weights expect of images; None: images are prepared as the data set's own."""
        if self.pretrained is None or self.config.preprocessing == "data-set":
            return None
        standard = self.pretrained.standard
        return standard and standard.at(self.config.image_size)

    @cached_property
    def kept(self) -> Int[np.ndarray, " kept"]:
        """Which examples the long tail keeps, by their positions in the training examples of `images`."""
        c, labels = self.config, self.images.train.classes.numpy()
        kept = long_tail_indices(labels, c.imbalance_factor, c.tail, c.long_tail_options)
        if len(kept) < len(labels):
            # Of a benchmark it is expected; of someone's own data it may be a surprise.
            level = logging.INFO if c.is_benchmark else logging.WARNING
            log.log(level, "%s", said_of_tail(c.tail, len(kept), len(labels)))
        return kept

    @cached_property
    def train(self) -> Examples:
        """The long-tailed training examples, on the device; also those on which clients only test."""
        return (self.data if self.config.keeps_outputs else self._tail).train.to(self.device)

    @cached_property
    def test(self) -> Examples:
        """The test set's examples, and behind them the clients' own on which they test; on the device."""
        own = self.partition.own_test
        if not len(own):
            return self.data.test.to(self.device)
        held = self.train.take(torch.from_numpy(own).to(self.device))
        given = self.data.test.to(self.device)
        if not len(given):
            return held
        return Examples(
            torch.cat([given.inputs, held.inputs]), torch.cat([given.labels, held.labels])
        )

    def raw_test_input(self, place: int) -> Tensor:
        """The input of one of `test` as its source has it, before anything frozen, on the CPU."""
        given = len(self.images.test)
        if place < given:
            return self.images.test.inputs[place]
        own: int = self.partition.own_test[place - given]
        return self._tail.train.inputs[own]

    @property
    def global_test(self) -> Int[Tensor, " tested"]:
        """The positions in `test` that global models are tested on.

        The test set's own; where there is none, all images on which clients test.
        """
        return torch.arange(len(self.data.test) or len(self.test), device=self.device)

    @cached_property
    def partition(self) -> Partition:
        """Which client holds which training and test examples."""
        return make_partition(
            self.config,
            self.train_labels,
            self.images.test.classes.numpy(),
            self.images.num_classes,
            self.train_manifest,
            self.images.test_manifest,
        )

    @property
    def train_labels(self) -> Int[np.ndarray, " examples"]:
        """The classes of `train`, which needs no copy of its inputs."""
        return self.images.train.classes.numpy()[self.kept]

    @property
    def train_manifest(self) -> Manifest | None:
        """What the data say of each example of `train` besides."""
        manifest = self.images.train_manifest
        return manifest.take(self.kept) if manifest is not None else None

    @property
    def train_counts(self) -> Int[Tensor, " classes"]:
        """Training examples of each class over all clients that train."""
        return torch.from_numpy(self.partition.training_counts)

    @cached_property
    def groups(self) -> ShotGroups:
        """Many, medium and few, from the global training counts."""
        return shot_groups(self.train_counts, self.config.shot_groups)

    @property
    def personal_groups(self) -> ShotGroups | None:
        """The shot groups into which a client's own figures are split; None: they are not split."""
        return self.groups

    @property
    def num_train(self) -> int:
        """Training examples of all clients that train."""
        return int(self.partition.training_counts.sum())
