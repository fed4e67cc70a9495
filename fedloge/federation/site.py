"""A federation whose images lie with the clients already, so that nothing is split.

Every client opens its own folder, and the server one of its own if it has test images.
No side knows which images the others hold. So the fingerprint leaves the partition out,
and training counts are known only where the clients tell them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64

from fedloge.config import Config
from fedloge.data.examples import DataSet, Examples
from fedloge.data.fitted_images import fit_images
from fedloge.data.image_preparation import ImagePreparation
from fedloge.data.sources import load_own_images
from fedloge.errors import DataError
from fedloge.federation.federation import Federation
from fedloge.learning.metrics import ShotGroups
from fedloge.partition import (
    Partition,
    group_numbers,
    held_out_clients,
    own_held_out,
)

SERVER = -1


class OnNodeFederation(Federation):
    """A federation as one of its sites sees it.

    Parameters
    ----------
    site : the client's partition id, or `SERVER`.
    folder : the site's images, ``train/<class>/*`` and ``test/<class>/*``. The server uses its test
        images only; None: it has none.
    """

    def __init__(self, config: Config, site: int, folder: Path | None) -> None:
        super().__init__(config)
        self.site = site
        self.folder = folder
        self._num_train = 0
        self._told: Int64[np.ndarray, "clients classes"] | None = None

    def tell(self, images: Mapping[int, int], counts: Mapping[int, tuple[int, ...]]) -> None:
        """Give the server what the clients told, by client: their training images and, if shared, per class."""
        for derived in ("partition", "groups"):
            self.__dict__.pop(derived, None)
        self._num_train = sum(images.values())
        if self.config.shares_class_counts:
            shape = (self.config.num_clients, self.data.num_classes)
            self._told = np.zeros(shape, dtype=np.int64)
            for client, told in counts.items():
                self._told[client] = told

    @cached_property
    def images(self) -> DataSet:
        """This site's images; empty without a folder. `DataError`: a client has no training images."""
        if self.folder is None:
            return self._fitted(self._nothing())
        if self.site == SERVER and (self.folder / "test").is_dir():
            return self._fitted(self._servers_own(self.folder / "test"))
        data = self._fitted(load_own_images(self.source_config, self.folder))
        if self.site != SERVER and not len(data.train):
            raise DataError(
                f"client {self.site}: {self.folder} holds no images in train; put some there, "
                "as train/<class>/<image>"
            )
        return data

    def _servers_own(self, folder: Path) -> DataSet:
        # Its test images alone: where all sites are simulated, their folders lie beside.
        found = load_own_images(self.source_config, folder)
        nothing = self._nothing()
        return dataclasses.replace(
            found,
            train=nothing.train,
            test=found.train,
            train_manifest=nothing.train_manifest,
            test_manifest=found.train_manifest,
        )

    @cached_property
    def train(self) -> Examples:
        """This client's training images; the server has none."""
        train = self.data.train
        return (train if self.site != SERVER else train.take(torch.empty(0))).to(self.device)

    @cached_property
    def partition(self) -> Partition:
        """This client's own images; the other clients' entries are empty, or hold the counts they told."""
        clients, classes = self.config.num_clients, self.data.num_classes
        nobody: np.ndarray = np.empty(0, dtype=np.int64)
        train, test = [nobody] * clients, [nobody] * clients
        held_out = held_out_clients(self.config)
        train_counts = np.zeros((clients, classes), dtype=np.int64)
        test_counts = train_counts.copy()
        if self._told is not None:
            train_counts = self._told
        if self.site == SERVER:
            return Partition(
                tuple(train), tuple(test), train_counts, test_counts, held_out=held_out
            )
        rule, own = self._own_test()
        labels, groups = self.data.train.classes.numpy(), group_numbers(self.data.train_manifest)
        train[self.site] = np.setdiff1d(np.arange(len(labels)), own, assume_unique=True)
        num_test = len(self.data.test)
        # By the rule `own` a site is not tested on images that it was given for another purpose.
        test[self.site] = (
            np.arange(num_test, num_test + len(own)) if rule == "own" else np.arange(num_test)
        )
        tested = np.concatenate([self.data.test.classes.numpy(), labels[own]])
        test_counts[self.site] = np.bincount(tested[test[self.site]], minlength=classes)
        validation: list[np.ndarray] = []
        if self.config.validation_share:
            kept, held = own_held_out(
                self.config, "validation", self.site, train[self.site], labels, groups
            )
            train[self.site], validation = kept, [nobody] * clients
            validation[self.site] = held
        train_counts[self.site] = np.bincount(labels[train[self.site]], minlength=classes)
        return Partition(
            tuple(train),
            tuple(test),
            train_counts,
            test_counts,
            tuple(validation),
            own_test=own,
            test_split=rule,
            held_out=held_out,
        )

    def _own_test(self) -> tuple[str, np.ndarray]:
        """By which rule this site is tested, and the training images that it is tested on by the rule ``own``."""
        nothing: np.ndarray = np.empty(0, dtype=np.int64)
        if self.config.test_split == "given" or (
            self.config.test_split == "auto" and len(self.data.test)
        ):
            return "given", nothing
        labels, groups = self.data.train.classes.numpy(), group_numbers(self.data.train_manifest)
        own = own_held_out(
            self.config, "own-test", self.site, np.arange(len(labels)), labels, groups
        )[1]
        return "own", own

    @property
    def num_train(self) -> int:
        """Training images of all clients where they are known (at the server), else this site's own."""
        return self._num_train or sum(map(len, self.partition.train))

    @cached_property
    def groups(self) -> ShotGroups:
        """Shot groups by the counts that the clients told; without them every class counts as many."""
        if self._told is None:
            return ShotGroups(torch.zeros(self.data.num_classes, dtype=torch.int64))
        return super().groups

    @property
    def personal_groups(self) -> None:
        """None: groups are made of all clients' counts, and a client knows only its own."""
        return None

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what all sites know alike of the run: config, fixed classifier and pretrained weights."""
        return self._fingerprint("on-node")

    @property
    def fingerprint_without_data(self) -> str:
        """The same: sites know each other's data by no digest."""
        return self.fingerprint

    def _fitted(self, data: DataSet) -> DataSet:
        return data if self.standard is None else fit_images(data, self.standard)

    def _nothing(self) -> DataSet:
        size = self.config.image_size
        none = Examples(
            torch.empty(0, 3, size, size, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
        )
        middle = (0.5,) * 3
        classes = self.config.class_names
        preparation = ImagePreparation(middle, middle, "none")
        return DataSet(self.config.dataset, none, none, classes, preparation)
