"""Everything that server and clients derive from a config: data, partition, network, fingerprint.

Each part is built when first used and then kept in the process. A client that is asked again,
and a server that shares its process with clients, find the data decoded and the network built.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fedloge.config import Config
from fedloge.data.examples import DataSet, Examples
from fedloge.data.longtail import long_tail_indices, said_of_tail
from fedloge.data.manifest import Manifest
from fedloge.data.sources import load_dataset
from fedloge.digest import digest
from fedloge.errors import ConfigError
from fedloge.federation.device import resolve_device, set_precision
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.personal_models import PersonalModels
from fedloge.federation.run_probes import probes_of
from fedloge.geometry.prototypes import Prototypes
from fedloge.learning.client_data import ClientData
from fedloge.learning.fast.graphs import StepRecorder, cuda_graph
from fedloge.learning.fast.stacked import StackedClients
from fedloge.learning.metrics import ShotGroups, shot_groups
from fedloge.learning.mixup import Mixer
from fedloge.learning.pooled_data import PooledData
from fedloge.learning.probes import Probe, ProbeTask, TwoPassProbe
from fedloge.methods import make_method
from fedloge.methods.method import Method, Task
from fedloge.models import Backbone, FixedHead, Network, Part, build_backbone, parts_of_tensors
from fedloge.partition import Partition, make_partition

log = logging.getLogger(__name__)


class Federation:
    """A configured federation as one process sees it.

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
        self._one_by_one = False
        self.personal_models = PersonalModels()

    @cached_property
    def data(self) -> DataSet:
        """The data set before the long tail."""
        return self._loaded or load_dataset(self.config)

    @cached_property
    def kept(self) -> Int[np.ndarray, " kept"]:
        """Which examples the long tail keeps, by their positions in the data set's training examples."""
        c, labels = self.config, self.data.train.classes.numpy()
        kept = long_tail_indices(labels, c.imbalance_factor, c.tail, c.long_tail_options)
        if len(kept) < len(labels):
            # Of a benchmark it is expected; of someone's own data it may be a surprise.
            level = logging.INFO if c.is_benchmark else logging.WARNING
            log.log(level, "%s", said_of_tail(c.tail, len(kept), len(labels)))
        return kept

    @cached_property
    def train(self) -> Examples:
        """The long-tailed training examples, on the device; also those on which clients only test."""
        return self.data.train.take(torch.from_numpy(self.kept)).to(self.device)

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
            self.data.test.classes.numpy(),
            self.data.num_classes,
            self.train_manifest,
            self.data.test_manifest,
        )

    @property
    def train_labels(self) -> Int[np.ndarray, " examples"]:
        """The classes of `train`, which needs no copy of its inputs."""
        return self.data.train.classes.numpy()[self.kept]

    @property
    def train_manifest(self) -> Manifest | None:
        """What the data say of each example of `train` besides."""
        manifest = self.data.train_manifest
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

    @cached_property
    def method(self) -> Method:
        """The configured method."""
        return make_method(
            Task(
                self.config,
                self.data.num_classes,
                self._backbone,
                self.data.input_shape,
                None if self.config.on_node else lambda: self.train_counts,
            )
        )

    def _backbone(self) -> Backbone:
        c = self.config
        return build_backbone(c.model, self.data.input_shape, c.norm, c.model_options, seed=c.seed)

    @cached_property
    def net(self) -> Network:
        """The one network of this process, on the device; load its tensors (`load`) before each use.

        `ConfigError`: it cannot train on inputs of this shape.
        """
        net = self.method.build().to(self.device).to(memory_format=torch.channels_last)
        self._check_trainable(net)
        return net

    @property
    def fixed(self) -> Prototypes | None:
        """The fixed classifier of the network; None for a method without one."""
        heads = [m for m in self.net.children() if isinstance(m, FixedHead)]
        return heads[0].prototypes if heads else None

    @cached_property
    def probes(self) -> list[Probe]:
        """What is measured over clients: the method's own probes, and those that the config names.

        Where no global network exists (norm layers stay with the clients), only those of the clients'
        own models: other sums would leave the clients for nothing.

        Raises `PluginError` for one that is unknown or no probe, or if two have one name.
        """
        whole = self.has_global_network
        task = ProbeTask(
            self.config, self.data.num_classes, self.method, whole, lambda: self.groups
        )
        return probes_of(task, self.method.probes() if whole else [])

    @cached_property
    def two_pass_probes(self) -> list[TwoPassProbe]:
        """Those of the probes that ask every client twice."""
        return [probe for probe in self.probes if isinstance(probe, TwoPassProbe)]

    @cached_property
    def parts(self) -> dict[str, Part]:
        """Each tensor of the network by name, and where it lives."""
        return parts_of_tensors(self.net, self.method.parts, self.config.norm_sharing)

    @cached_property
    def has_global_network(self) -> bool:
        """Whether the shared tensors make a whole network.

        They do not where some tensors of a shared part, such as norm layers, stay with the clients, or
        where nothing is shared.
        """
        shared = {child for child, part in self.method.parts.items() if part is Part.SHARED}
        return bool(shared) and all(
            part is not Part.PERSONAL
            for name, part in self.parts.items()
            if name.partition(".")[0] in shared
        )

    @cached_property
    def backbone_is_shared(self) -> bool:
        """Whether all clients use the same backbone, so that features need to be computed only once."""
        return all(
            p is not Part.PERSONAL for n, p in self.parts.items() if n.startswith("backbone.")
        )

    @cached_property
    def _homes(self) -> dict[str, tuple[dict, str]]:
        # The dict that holds each tensor of the network, and its key there. Making a state dict for
        # every message would be a good part of a small client's time.
        homes = {}
        for name in self.parts:
            module, _, key = name.rpartition(".")
            owner = self.net.get_submodule(module)
            kind = owner._parameters if key in owner._parameters else owner._buffers
            homes[name] = (kind, key)
        return homes

    def tensors(self, part: Part) -> dict[str, Tensor]:
        """The network's own tensors of one part: not copies, so training and `load` change them."""
        return {n: self._live(n) for n, p in self.parts.items() if p is part}

    def part_of(self, state: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
        """Those of a network's tensors that belong to one part."""
        return {n: state[n] for n, p in self.parts.items() if p is part}

    def _live(self, name: str) -> Tensor:
        kind, key = self._homes[name]
        return kind[key].detach()

    @cached_property
    def initial(self) -> dict[Part, dict[str, Tensor]]:
        """The tensors of each part that every client and the server start from."""
        state = self.method.build().state_dict()
        return {part: self.part_of(state, part) for part in Part}

    def load(self, *groups: Mapping[str, Tensor]) -> Network:
        """Copy tensors into the network, by name; returns the network."""
        for tensors in groups:
            for name, value in tensors.items():
                self._live(name).copy_(value)
        return self.net

    @cached_property
    def bank(self) -> FeatureBank:
        """Features of the balanced test examples."""
        return FeatureBank(self.test, self.data.preparation.prepare)

    @cached_property
    def recorder(self) -> StepRecorder | None:
        """Records training steps as CUDA graphs; None without ``fast`` or without a GPU."""
        # A recorded step would mix every batch as the first was.
        if self.config.mixup:
            return None
        on_gpu = self.config.fast and self.device.type == "cuda"
        return StepRecorder(cuda_graph) if on_gpu else None

    @property
    def stacked(self) -> StackedClients | None:
        """The networks of clients that train at once; None: clients train one by one."""
        return None if self._one_by_one else self._stacked

    @cached_property
    def _stacked(self) -> StackedClients | None:
        if not self.config.fast or self.config.clients_at_once < 2:
            return None
        if self.config.mixup:
            log.warning("fast: clients whose batches are mixed train one by one")
            return None
        if not self.method.uniform_step:
            log.warning("fast: this method's step differs from client to client; one by one")
            return None
        return self.stack(min(self.config.clients_at_once, self.config.clients_per_round))

    def stop_stacking(self, reason: str) -> None:
        """Train clients one by one from now on, whatever the config says; `reason` is logged."""
        self._one_by_one = True
        log.warning("fast: clients cannot train at once (%s); one by one from here", reason)

    def stack(self, places: int) -> StackedClients:
        """Stacked networks for `places` clients, each with the network's present tensors."""
        method = self.method
        return StackedClients(self.net, method.trainable(self.net), method.loss, places)

    def client_data(
        self, client: int, round: int, received: Mapping[str, Tensor], rounds_trained: int = 0
    ) -> ClientData:
        """What a method sees of client `client` (a partition id) in one round.

        Parameters
        ----------
        received : the shared tensors that the server sent.
        rounds_trained : in how many earlier rounds the client was trained.
        """
        indices = torch.from_numpy(self.partition.train[client]).to(self.device)
        held = self.partition.validation
        return ClientData(
            client=client,
            round=round,
            config=self.config,
            train=self.train.take(indices),
            counts=torch.from_numpy(self.partition.train_counts[client]).to(self.device),
            preparation=self.data.preparation,
            received=received,
            validation=self.train.take(held[client]) if held else None,
            rounds_trained=rounds_trained,
            recorder=self.recorder,
            mixer=self._mixer(client, round),
        )

    def _mixer(self, client: int, round: int) -> Mixer | None:
        by_method, classes = self.method.mixes_itself, self.data.num_classes
        made = partial(Mixer, self.config, classes, round=round, client=client, by_method=by_method)
        return made() if self.config.mixup else None

    def pooled_data(
        self, round: int, received: Mapping[str, Tensor], first_step: int, steps: int
    ) -> PooledData:
        """The training examples of all clients that train, for a method that is trained at one place (`Method.pooled`).

        Parameters
        ----------
        received : the shared tensors as the round begins.
        first_step, steps : see `PooledData`.
        """
        indices = torch.from_numpy(self.partition.trained_on).to(self.device)
        return PooledData(
            client=-1,
            round=round,
            config=self.config,
            train=self.train.take(indices),
            counts=self.train_counts.to(self.device),
            preparation=self.data.preparation,
            received=received,
            recorder=self.recorder,
            mixer=self._mixer(-1, round),
            first_step=first_step,
            steps=steps,
        )

    @cached_property
    def prototypes_digest(self) -> str:
        """Hash of the fixed tensors; empty for a method that has none."""
        fixed = self.tensors(Part.FIXED)
        return digest(*(t.cpu().numpy().tobytes() for t in fixed.values())) if fixed else ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the run computes: config, partition and fixed classifier."""
        names = json.dumps(
            [self.config.fingerprint(), self.partition.digest(), self.prototypes_digest]
        )
        return digest(names.encode())

    def _check_trainable(self, net: Network) -> None:
        # Batch norm cannot train on a single image whose feature map has shrunk to 1x1. Found here,
        # it stops the run at once, not when a client's last batch happens to hold one image.
        net.train()
        saved = {name: t.clone() for name, t in net.state_dict().items()}
        try:
            with torch.no_grad():
                self.method.features(net, self.data.blank_inputs(1).to(self.device))
        except (ValueError, RuntimeError, IndexError) as exc:
            shape = "x".join(map(str, self.data.input_shape))
            raise ConfigError(
                f"model: {self.config.model!r} cannot train on inputs of {shape} "
                f"({str(exc).splitlines()[0]}); use norm=group, a smaller model or a larger image-size"
            ) from None
        finally:
            net.load_state_dict(saved)
