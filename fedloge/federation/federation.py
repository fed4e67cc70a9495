"""Everything both sides derive from a config: data, partition, network, fingerprint.

Built lazily and kept in the process: a client that is asked again, and a server
that shares its process with clients, find the data decoded and the network built.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property, lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from fedloge.config import Config, digest
from fedloge.data.images import DataSet, Images
from fedloge.data.longtail import long_tail_indices
from fedloge.data.sources import load_dataset
from fedloge.errors import ConfigError
from fedloge.federation.evaluation import FeatureBank
from fedloge.federation.memory import keep_freed_memory
from fedloge.geometry.prototypes import Prototypes, prototypes
from fedloge.learning.fast.stacked import StackedClients
from fedloge.learning.loop import warn_once
from fedloge.learning.metrics import ShotGroups, shot_groups
from fedloge.methods import make_method
from fedloge.methods.method import LocalData, Method, Network, Part, Task
from fedloge.models import Backbone, build_backbone
from fedloge.models.norm import norm_parameters, norm_statistics
from fedloge.partition import Partition, make_partition


def resolve_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one; `ConfigError` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {name!r} asked for, but {torch.cuda.device_count()} CUDA devices are visible; use device=cpu"
        )
    return device


def set_precision(device: torch.device, precision: str) -> None:
    """Let a GPU's products of float32 be TF32's, or not; left to torch, convolutions would be.

    Raises `ConfigError` for tf32 on another device.
    """
    narrow = precision == "tf32"
    if narrow and device.type != "cuda":
        raise ConfigError(
            f"precision: 'tf32' is for GPUs, but this run is on {device}; use float32 or bf16"
        )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if narrow else "highest")
        torch.backends.cudnn.allow_tf32 = narrow


class Federation:
    """A configured federation as one process sees it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = resolve_device(config.device)
        set_precision(self.device, config.precision)
        self._fixed: Prototypes | None = None

    @cached_property
    def data(self) -> DataSet:
        """The data set before the long tail."""
        return load_dataset(self.config)

    @cached_property
    def train(self) -> Images:
        """The long-tailed training images, on the device."""
        kept = long_tail_indices(
            self.data.train.labels.numpy(), self.config.imbalance_factor, self.config.long_tail
        )
        return self.data.train.take(torch.from_numpy(kept)).to(self.device)

    @cached_property
    def test(self) -> Images:
        """The balanced test images, on the device."""
        return self.data.test.to(self.device)

    @cached_property
    def partition(self) -> Partition:
        """Which client holds which training and test images."""
        return make_partition(
            self.config,
            self.train.labels.cpu().numpy(),
            self.test.labels.cpu().numpy(),
            self.data.num_classes,
        )

    @cached_property
    def train_counts(self) -> Int[Tensor, " classes"]:
        """Training images of each class over all clients."""
        return torch.from_numpy(self.partition.train_counts.sum(axis=0))

    @cached_property
    def groups(self) -> ShotGroups:
        """Many, medium and few, from the global training counts."""
        return shot_groups(self.train_counts, self.config.shot_groups)

    @property
    def personal_groups(self) -> ShotGroups | None:
        """The groups by which a client's own figures are split; None: they are not."""
        return self.groups

    @property
    def num_train(self) -> int:
        """Training images of all clients."""
        return len(self.train)

    @cached_property
    def method(self) -> Method:
        """The configured method."""

        def backbone() -> Backbone:
            c = self.config
            return build_backbone(c.model, self.data.image_shape, c.norm, seed=c.seed)

        return make_method(
            Task(self.config, self.data.num_classes, backbone, self.fixed_classifier)
        )

    def fixed_classifier(self, dim: int) -> Prototypes:
        """The configured fixed classifier for features of width `dim`."""
        c = self.config
        kind = "sparse-etf" if c.prototypes == "none" else c.prototypes
        self._fixed = prototypes(
            self.data.num_classes, dim, kind, sparsity=c.sparsity, gamma=c.gamma, seed=c.seed
        )
        return self._fixed

    @property
    def fixed(self) -> Prototypes | None:
        """The fixed classifier of the network; None for a method without one."""
        return self._fixed if self.prototypes_digest else None

    @cached_property
    def net(self) -> Network:
        """The method's network on the device; whoever uses it loads its tensors first."""
        net = self.method.build().to(self.device).to(memory_format=torch.channels_last)
        self._check_trainable(net)
        return net

    @cached_property
    def stacked(self) -> StackedClients | None:
        """Places for the clients that train at once; None: they train one by one."""
        if self.config.clients_at_once < 2:
            return None
        method = self.method
        plain = type(method).local_update is Method.local_update
        if not (plain and method.constant_loss):
            warn_once(
                self.net,
                "clients-at-once: this method's step differs from client to client; one by one",
            )
            return None
        return self.stack(min(self.config.clients_at_once, self.config.clients_per_round))

    def stack(self, places: int) -> StackedClients:
        """Places for so many clients, each with the network's present tensors."""
        method = self.method
        return StackedClients(self.net, method.trainable(self.net), method.loss, places)

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Each tensor of the network by name, and where it lives."""
        parts: dict[str, Part] = {}
        for child, part in self.method.parts.items():
            module = self.net.get_submodule(child)
            names = list(module.state_dict())
            local: set[str] = set()
            if part is Part.SHARED and self.method.norm_sharing != "all":
                local |= norm_statistics(module)
                if self.method.norm_sharing == "none":
                    local |= norm_parameters(module)
            parts |= {f"{child}.{n}": Part.PERSONAL if n in local else part for n in names}
        return parts

    @cached_property
    def backbone_is_shared(self) -> bool:
        """Whether all clients' features come from the same tensors, so that they are computed once."""
        return all(
            p is not Part.PERSONAL for n, p in self.parts.items() if n.startswith("backbone.")
        )

    @cached_property
    def _homes(self) -> dict[str, tuple[dict, str]]:
        # Where each tensor of the state dict hangs: a state dict made anew for every message
        # would be a good part of a small client's time.
        homes = {}
        for name in self.parts:
            module, _, key = name.rpartition(".")
            owner = self.net.get_submodule(module)
            kind = owner._parameters if key in owner._parameters else owner._buffers
            homes[name] = (kind, key)
        return homes

    def tensors(self, part: Part) -> dict[str, Tensor]:
        """The network's live tensors of one part."""
        return {n: self._live(n) for n, p in self.parts.items() if p is part}

    def part_of(self, state: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
        """Those of a network's tensors that belong to one part."""
        return {n: state[n] for n, p in self.parts.items() if p is part}

    def _live(self, name: str) -> Tensor:
        kind, key = self._homes[name]
        return kind[key].detach()

    @cached_property
    def initial(self) -> dict[Part, dict[str, Tensor]]:
        """The tensors every client and the server start from."""
        state = self.method.build().state_dict()
        return {part: self.part_of(state, part) for part in Part}

    def load(self, *groups: Mapping[str, Tensor]) -> Network:
        """Copy tensors into the network, by name."""
        for tensors in groups:
            for name, value in tensors.items():
                self._live(name).copy_(value)
        return self.net

    @cached_property
    def bank(self) -> FeatureBank:
        """Features of the balanced test images."""
        return FeatureBank(self.test, self.local_data(-1, 0, {}).prepare)

    def local_data(
        self, client: int, round: int, received: Mapping[str, Tensor], rounds_trained: int = 0
    ) -> LocalData:
        """Client `client` (a partition id; -1: nobody's, no images) in one round."""
        if client >= 0:
            indices = torch.from_numpy(self.partition.train[client]).to(self.device)
            counts = torch.from_numpy(self.partition.train_counts[client]).to(self.device)
        else:
            indices = torch.empty(0, dtype=torch.int64, device=self.device)
            counts = torch.zeros(self.data.num_classes, dtype=torch.int64, device=self.device)
        return LocalData(
            client=client,
            round=round,
            config=self.config,
            train=self.train.take(indices),
            counts=counts,
            mean=self.data.mean,
            std=self.data.std,
            augmentation=self.data.augment,
            received=received,
            rounds_trained=rounds_trained,
        )

    @cached_property
    def prototypes_digest(self) -> str:
        """Content hash of the fixed tensors; empty for a method that has none."""
        fixed = self.tensors(Part.FIXED)
        return digest(*(t.cpu().numpy().tobytes() for t in fixed.values())) if fixed else ""

    @cached_property
    def fingerprint(self) -> str:
        """What the run computes: config, partition and fixed classifier."""
        names = json.dumps(
            [self.config.fingerprint(), self.partition.digest(), self.prototypes_digest]
        )
        return digest(names.encode())

    def _check_trainable(self, net: Network) -> None:
        # A batch of one image whose map has shrunk to 1x1 leaves batch norm nothing to
        # normalise; better said here than by a client that holds one image too many.
        shape = (1, *self.data.image_shape)
        net.train()
        saved = {name: t.clone() for name, t in net.state_dict().items()}
        try:
            with torch.no_grad():
                self.method.features(net, torch.zeros(shape, device=self.device))
        except (ValueError, RuntimeError) as exc:
            raise ConfigError(
                f"model: {self.config.model!r} cannot train on images of {shape[2]}x{shape[3]} "
                f"({str(exc).splitlines()[0]}); use norm=group, a smaller model or a larger image-size"
            ) from None
        finally:
            net.load_state_dict(saved)


@lru_cache(maxsize=2)
def _open(config: Config, _process: int) -> Federation:
    keep_freed_memory()
    return Federation(config)


def open_federation(config: Config, data: DataSet | None = None) -> Federation:
    """The federation of a config, kept in this process; `data` spares it the loading.

    Where the images lie on the nodes, it is the server's view (`fedloge.federation.site`).
    """
    if config.on_node:
        from fedloge.federation.site import open_site

        return open_site(config)
    torch.set_num_threads(config.threads)
    # The process id keeps a forked worker from sharing its parent's network.
    federation = _open(config, os.getpid())
    if data is not None:
        federation.__dict__.setdefault("data", data)
    return federation
