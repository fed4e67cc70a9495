"""What a method is.

A method says four things: which parts of its network are shared, personal or
fixed; the local update; how the global and the personal model predict; and,
where it has one, what the server does after averaging. It knows no message, no
file and no engine. `fedloge.testing.check_method` tries one out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.learning.client_data import ClientData
from fedloge.learning.loop import Losses, sgd
from fedloge.learning.probes import Probe
from fedloge.models.backbone import Backbone
from fedloge.models.head import Predictor
from fedloge.models.network import Network, Part
from fedloge.options import Options as MethodOptions

__all__ = [
    "Aggregate",
    "ClientData",
    "Losses",
    "Method",
    "MethodOptions",
    "Network",
    "Part",
    "Predictor",
    "Task",
    "Update",
]


@dataclass(frozen=True)
class Task:
    """The problem as a method sees it when it builds its network.

    Attributes
    ----------
    num_classes : C.
    backbone : makes a fresh inputs -> features module with ``out_features``, the same one on
        every call.
    input_shape : of one prepared input; () where it is not known.
    """

    config: Config
    num_classes: int
    backbone: Callable[[], Backbone]
    input_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Update:
    """What a local update leaves besides the trained network.

    Attributes
    ----------
    metrics : figures for the record.
    sums : further tensors for the server (class features, gradients), named and shaped as
        `Method.uplink` says; the server gets their sum over clients.
    """

    metrics: dict[str, float]
    sums: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """What the server holds after averaging a round, for `Method.server_update`.

    Attributes
    ----------
    shared : the averaged shared tensors, by name.
    sums : the sums over clients of what they sent besides (see `Update`).
    state : tensors that only the server keeps, as the last round left them.
    """

    round: int
    shared: dict[str, Tensor]
    sums: dict[str, Tensor]
    state: dict[str, Tensor]

    def with_shared(self, tensors: Mapping[str, Tensor]) -> Aggregate:
        """The same with some of the shared tensors replaced, by name."""
        return replace(self, shared=self.shared | dict(tensors))


N = TypeVar("N", bound=Network)


class Method(ABC, Generic[N]):
    """One federated learning method. Subclasses say only what differs."""

    name: ClassVar[str]
    parts: ClassVar[Mapping[str, Part]]
    """Each child of the network and where it lives; `NORM_LAYERS` for those of the shared ones."""
    primary_global: ClassVar[str | None] = None
    """The global predictor that stands for the method in comparisons; None: it has no global model."""
    primary_personal: ClassVar[str | None] = None
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    """The method's own options, ``[method-options]``; a key that is not among them is refused."""

    def __init__(self, task: Task, options: MethodOptions) -> None:
        self.task = task
        self.config = task.config
        self.options = options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Declared, not inherited: a subclass may change the step.
        if "uniform_step" not in cls.__dict__:
            cls.uniform_step = Method.uniform_step  # type: ignore[method-assign]

    @abstractmethod
    def build(self) -> N:
        """The network with all its parts, freshly and deterministically initialised."""

    @abstractmethod
    def loss(self, net: N, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """Named loss terms of one batch; their sum is minimised."""

    def local_update(self, net: N, client: ClientData) -> Update:
        """Train in place on one client. One SGD loop over `loss` unless overridden."""
        return Update(self.train(net, client))

    def train(self, net: N, client: ClientData) -> dict[str, float]:
        """The plain loop: SGD over `loss` for ``local-epochs``; the mean of each loss term."""
        parameters, epochs = self.trainable(net), self.config.local_epochs
        return sgd(net, parameters, self.loss, client, epochs=epochs, uniform=self.uniform_step)

    @property
    def uniform_step(self) -> bool:
        """Whether the local update is the plain loop over `loss`, and `loss` reads nothing but the batch.

        Then a step is the same for all clients and may be recorded, and clients stacked (config
        ``fast``). Each class says so for itself; it is not inherited.
        """
        return False

    def trainable(self, net: N) -> list[nn.Parameter]:
        """The parameters that the local update moves."""
        return [p for p in net.parameters() if p.requires_grad]

    def features(self, net: N, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """The shared features that global and personal heads read."""
        return net.backbone(inputs)

    def global_predictors(self, net: N) -> dict[str, Predictor]:
        """The global models by name (``raw``, ``realigned``, ...)."""
        return {}

    def personal_predictors(self, net: N, client: ClientData) -> dict[str, Predictor]:
        """Client k's models by name; may tune on the client's training examples."""
        return {}

    def uplink(self, net: N) -> dict[str, Tensor]:
        """Templates (zeros) of the further tensors a local update sends; {}: none."""
        return {}

    def server_state(self, net: N) -> dict[str, Tensor]:
        """Tensors that only the server keeps, as the run begins; they are part of the checkpoint."""
        return {}

    def server_update(self, net: N, aggregate: Aggregate) -> Aggregate:
        """What the server does after averaging; returns the shared tensors and state to go on with."""
        return aggregate

    def probes(self) -> list[Probe]:
        """What is measured over clients for the method's own models; [] for none."""
        return []

    @classmethod
    def remarks(cls, config: Config, classes: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """What the training so far gives reason to tell the user, a line each; [] for nothing.

        Parameters
        ----------
        classes : C.
        rows : the rounds' lines of ``metrics.jsonl`` so far.
        """
        return []

    def head_norms(self, net: N) -> dict[str, Float[Tensor, " classes"]]:
        """Row norms of the heads worth plotting against class sizes."""
        return {}


@torch.no_grad()
def plain_features(
    method: Method, net: Network, client: ClientData
) -> tuple[Float[Tensor, "examples features"], Tensor]:
    """Features and labels of a client's training examples, not augmented, in evaluation mode."""
    net.eval()
    parts = [(method.features(net, x), y) for x, y in client.plain_batches()]
    return torch.cat([h for h, _ in parts]), torch.cat([y for _, y in parts])
