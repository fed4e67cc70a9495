"""What a method is.

A method says which parts of its network are shared, personal or fixed, how a client trains,
and how the global and the personal models predict. It may also say what the server does after
averaging. It knows no message, no file and no engine, so it runs on every engine.
``fedavg.py`` shows the simplest one; `fedloge.testing.check_method` tests one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, TypeVar

from jaxtyping import Float, Int
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData
from fedloge.learning.linear_heads import LinearLoss
from fedloge.learning.loop import Losses, sgd
from fedloge.learning.probes import Probe
from fedloge.models.backbone import Backbone
from fedloge.models.head import Predictor
from fedloge.models.network import Network, Part
from fedloge.options import Options as MethodOptions

__all__ = [
    "Aggregate",
    "ClientData",
    "LinearLoss",
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
    """What a method knows of the problem when it builds its network.

    Attributes
    ----------
    config : the run's.
    num_classes : C.
    backbone : makes the configured backbone, from inputs to ``out_features`` features; a new
        module with the same initial weights on every call.
    input_shape : of one input; () where it is not known.
    class_counts : gives the training examples of each class over all clients; None where a side does
        not know them, as with examples that lie at their sites.
    """

    config: Config
    num_classes: int
    backbone: Callable[[], Backbone]
    input_shape: tuple[int, ...] = ()
    class_counts: Callable[[], Int[Tensor, " classes"]] | None = None

    def counts_for(self, what: str) -> Int[Tensor, " classes"]:
        """The class counts of all clients; `ConfigError` naming what needs them, where they are not known."""
        if self.class_counts is None:
            raise ConfigError(
                f"{what} needs the class counts of all clients, which are not known here: the examples lie at "
                "their sites; leave it out"
            )
        return self.class_counts()


@dataclass(frozen=True)
class Update:
    """What a local update returns, besides the network that it has trained in place.

    Attributes
    ----------
    metrics : figures for the record, by name.
    sums : further tensors for the server (class features, gradients), named and shaped as
        `Method.uplink` says. The server gets only their sum over the round's clients.
    """

    metrics: dict[str, float]
    sums: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Aggregate:
    """What the server holds after averaging in a round, for `Method.server_update`.

    Attributes
    ----------
    round : number of the round, from 1.
    shared : the averaged shared tensors, by name.
    sums : the sums over the round's clients of their further tensors (see `Update`), by name.
    state : tensors that only the server keeps, as the round before left them, by name.
    """

    round: int
    shared: dict[str, Tensor]
    sums: dict[str, Tensor]
    state: dict[str, Tensor]

    def with_shared(self, tensors: Mapping[str, Tensor]) -> Aggregate:
        """A copy with some of the shared tensors replaced, by name."""
        return replace(self, shared=self.shared | dict(tensors))


N = TypeVar("N", bound=Network)


class Method(ABC, Generic[N]):
    """One federated learning method. A subclass says only what differs.

    All that it computes must depend only on its arguments, the config, and draws from
    `fedloge.rng`, so that every engine, and a run that is resumed, gives the same bits.
    """

    name: ClassVar[str]
    """How configs, tables and the record call it."""
    parts: ClassVar[Mapping[str, Part]]
    """Where each child of the network lives; under `NORM_LAYERS` the norm layers of shared children."""
    primary_global: ClassVar[str | None] = None
    """The global predictor by which the method is compared; None: it has no global model."""
    primary_personal: ClassVar[str | None] = None
    """The personal predictor by which the method is compared; None: it has no personal models."""
    heads: ClassVar[tuple[str, ...]] = ()
    """Shared linear layers from the shared features to logits, which ``init-head`` may fill."""
    solves: ClassVar[bool] = False
    """Whether it solves for its heads from sums of features: clients train nothing, and send nothing but sums."""
    pooled: ClassVar[bool] = False
    """Whether the server trains on all clients' examples at one place, which only a simulation can."""
    takes_stale: ClassVar[bool] = False
    """Whether a step of the model may be made of some clients' answers, begun from older models (``buffer-size``):
    the server then needs nothing but their updates. A class that says what the server keeps, gets or does
    says so for itself; it inherits nothing then."""
    class_told: ClassVar[ClassTold | None] = None
    """What the sums of its local update, and of its own probes, tell of single classes; None: it sends none."""
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    """The method's own options, ``[method-options]`` in a config; any other key is refused."""

    def __init__(self, task: Task, options: MethodOptions) -> None:
        self.task = task
        self.config = task.config
        self.options = options

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Each class declares it anew, because a subclass may change what a step reads.
        if "uniform_step" not in cls.__dict__:
            cls.uniform_step = Method.uniform_step  # type: ignore[method-assign]
        at_the_server = {"uplink", "server_state", "server_update"} & cls.__dict__.keys()
        if at_the_server and "takes_stale" not in cls.__dict__:
            cls.takes_stale = Method.takes_stale
        if "example_by_example" not in cls.__dict__:
            cls.example_by_example = Method.example_by_example  # type: ignore[method-assign]
        # Likewise, unless it trains as its base does.
        own = {"loss", "local_update"} & cls.__dict__.keys()
        if own and "soft_labels" not in cls.__dict__:
            cls.soft_labels = Method.soft_labels  # type: ignore[method-assign]
        # And its losses are no longer those of its base.
        if {"loss", "local_loss"} & cls.__dict__.keys() and "linear_losses" not in cls.__dict__:
            cls.linear_losses = Method.linear_losses  # type: ignore[method-assign]

    @abstractmethod
    def build(self) -> N:
        """The network with all its parts; the same initial weights on every call."""

    @abstractmethod
    def loss(self, net: N, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """The named loss terms of one batch, each a scalar; their sum is minimised."""

    def local_update(self, net: N, client: ClientData) -> Update:
        """Train `net` in place on one client: one SGD loop over `loss`, unless overridden."""
        return Update(self.train(net, client))

    def train(self, net: N, client: ClientData) -> dict[str, float]:
        """The plain loop: SGD over `loss` for ``local-epochs``; returns the mean of each loss term."""
        parameters, epochs = self.trainable(net), self.config.local_epochs
        return sgd(
            net,
            parameters,
            self.loss,
            client,
            epochs=epochs,
            uniform=self.uniform_step,
            linear=self.linear_losses(net, client),
        )

    def linear_losses(self, net: N, client: ClientData) -> Mapping[str, LinearLoss] | None:
        """The terms of `loss` by name, if each is a cross-entropy of linear heads on ``net.backbone``'s features.

        On a frozen backbone their gradients are then written out, which takes a third of the time. None:
        `loss` is something else. A class with a loss of its own says so for itself; it inherits nothing then.
        """
        return None

    @property
    def uniform_step(self) -> bool:
        """Whether the local update is the plain loop over `loss`, and `loss` depends on the batch alone.

        Then a step is the same for all clients, so that it may be recorded, and clients may be
        stacked (config ``fast``). Each class says so for itself; it is not inherited.
        """
        return False

    @property
    def example_by_example(self) -> bool:
        """Whether noise in `sgd` covers all that a local update takes from the client's examples.

        Then the update reads them through `sgd` alone, and each term of a batch's loss is the mean over
        its examples of something that depends on the network as it is passed and on that example: not
        on the others, and not on the client's class counts. Privacy at the client needs it
        (``local-dp-clip``). Each class says so for itself; it is not inherited.
        """
        return False

    @property
    def soft_labels(self) -> bool:
        """Whether `loss` takes the shares of all classes in place of a class, as mixup needs it.

        A class with a loss or a local update of its own says so for itself; it inherits nothing then.
        """
        return False

    mixes_itself: ClassVar[bool] = False
    """Whether `loss` mixes its batch by ``client.mixer.now``; it then gets the batch as it is."""

    def trainable(self, net: N) -> list[nn.Parameter]:
        """The parameters that the local update trains."""
        return [p for p in net.parameters() if p.requires_grad]

    def features(self, net: N, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """The shared features, which global and personal heads read."""
        return net.backbone(inputs)

    def global_predictors(self, net: N) -> dict[str, Predictor]:
        """The global models by name (``raw``, ``realigned``, ...), under the averaged tensors."""
        return {}

    def personal_predictors(self, net: N, client: ClientData) -> dict[str, Predictor]:
        """One client's models by name; they may be tuned on its training examples."""
        return {}

    def averaged_model(self, net: N) -> Predictor | None:
        """The global model to whose logits a client may add the logarithm of its class shares; None: none.

        Unless overridden the one called ``raw``, else the one by which the method is compared. Its logits
        are on the scale on which they were trained.
        """
        found = self.global_predictors(net)
        return found.get("raw") or found.get(self.primary_global or "")

    def uplink(self, net: N) -> dict[str, Tensor]:
        """Zeros with the names and shapes of the further tensors that a local update sends; {}: none."""
        return {}

    def server_state(self, net: N) -> dict[str, Tensor]:
        """Initial values of the tensors that only the server keeps; they are part of a checkpoint."""
        return {}

    def server_update(self, net: N, aggregate: Aggregate) -> Aggregate:
        """What the server does after averaging; returns the shared tensors and the state to go on with."""
        return aggregate

    def probes(self) -> list[Probe]:
        """Measurements over clients that the method's own models need; []: none."""
        return []

    @classmethod
    def remarks(cls, config: Config, classes: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Warnings to the user about the training so far, one line each; []: none.

        Parameters
        ----------
        config : the run's.
        classes : C.
        rows : the lines of ``metrics.jsonl`` so far, one per round.
        """
        return []

    def head_norms(self, net: N) -> dict[str, Float[Tensor, " classes"]]:
        """Row norms of heads, by name, to be plotted against class sizes; {}: none."""
        return {}

    def class_figures(self, net: N) -> dict[str, Float[Tensor, " classes"]]:
        """What else the shared tensors say of each class, by name, for the record; {}: nothing."""
        return {}


def plain_features(
    method: Method, net: Network, client: ClientData
) -> tuple[Float[Tensor, "examples features"], Tensor]:
    """`ClientData.train_features` of the method's shared features."""
    return client.train_features(net, method.features)
