"""Everything that server and clients derive from a config: data, partition, network, fingerprint.

Each part is built when first used and then kept in the process. A client that is asked again,
and a server that shares its process with clients, find the data decoded and the network built.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cached_property, partial

import torch
from torch import Tensor

from fedloge.config import Config
from fedloge.data.examples import DataSet
from fedloge.digest import digest
from fedloge.federation.feature_bank import FeatureBank
from fedloge.federation.federated_data import FederatedData
from fedloge.federation.personal_models import PersonalModels
from fedloge.federation.run_probes import probes_of
from fedloge.federation.trainable import check_private, check_something_trains, check_trainable
from fedloge.geometry.prototypes import Prototypes
from fedloge.learning.client_data import ClientData
from fedloge.learning.fast.graphs import StepRecorder, cuda_graph
from fedloge.learning.fast.stacked import StackedClients
from fedloge.learning.mixup import Mixer
from fedloge.learning.pooled_data import PooledData
from fedloge.learning.probes import ClosedForm, Probe, ProbeTask, TwoPassProbe
from fedloge.methods import make_method
from fedloge.methods.init_head import init_head_probe
from fedloge.methods.method import Method, Task
from fedloge.models import FixedHead, Network, Part, parts_of_tensors

log = logging.getLogger(__name__)


class Federation(FederatedData):
    """A configured federation as one process sees it; made as its data side, `FederatedData`, is."""

    def __init__(self, config: Config, data: DataSet | None = None) -> None:
        super().__init__(config, data)
        self._one_by_one = False
        self.personal_models = PersonalModels()

    @cached_property
    def method(self) -> Method:
        """The configured method."""
        return make_method(
            Task(
                self.config,
                self.data.num_classes,
                self.start.backbone.new,
                self.data.network_shape,
                None if self.config.on_node else lambda: self.train_counts,
            )
        )

    @cached_property
    def net(self) -> Network:
        """The one network of this process, on the device; load its tensors (`load`) before each use.

        `ConfigError`: it cannot train on inputs of this shape.
        """
        net = self.method.build().to(self.device).to(memory_format=torch.channels_last)
        check_something_trains(self.method, net)
        check_private(self.method, net)
        check_trainable(self.method, net, self.data.blank_inputs(1).to(self.device))
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
    def opening(self) -> ClosedForm | None:
        """What clients are asked before round 1 (`init_head_probe`); None: nothing."""
        return init_head_probe(self.method)

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
    def backbone_is_fixed(self) -> bool:
        """Whether nothing of the backbone is trained, so that features are the same in all rounds."""
        return all(p is Part.FIXED for n, p in self.parts.items() if n.startswith("backbone."))

    def features_version(self, version: str) -> str | None:
        """Names the tensors that shared features depend on after `version`; None: they are each client's own."""
        if not self.backbone_is_shared:
            return None
        return "fixed" if self.backbone_is_fixed else version

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
        if self.config.optimiser != "sgd":
            # Clients that take unequal numbers of steps would need a step count each.
            log.warning("fast: only sgd trains clients at once; with adamw one by one")
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
        """The examples of all clients that train, for training at one place; see `PooledData`."""
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
        """Hash of the method's fixed parts; empty for one that has none.

        What a backbone has frozen is left out: it is the weights', which have a digest of their own.
        """
        fixed = {
            name: tensor
            for name, tensor in self.tensors(Part.FIXED).items()
            if self.method.parts[name.partition(".")[0]] is Part.FIXED
        }
        return digest(*(t.cpu().numpy().tobytes() for t in fixed.values())) if fixed else ""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what the run computes: config, data, partition, fixed classifier and pretrained weights."""
        return self._fingerprint(self.partition.digest(), self.content.digest)

    @cached_property
    def fingerprint_without_data(self) -> str:
        """The same as it was before it covered the data: runs of that time go by it still."""
        return self._fingerprint(self.partition.digest())

    def _fingerprint(self, *of_data: str) -> str:
        names = [self.config.fingerprint(), *of_data, self.prototypes_digest]
        if self.pretrained is not None:
            names.append(self.pretrained.digest)
        return digest(json.dumps(names).encode())
