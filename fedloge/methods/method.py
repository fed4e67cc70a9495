"""What a method is.

A method says four things: which parts of its network are shared, personal or
fixed; the local update; how the global and the personal model predict; and,
where it has one, what the server does after averaging. It knows no message, no
file and no engine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Generic, TypeVar

import pydantic
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fedloge.config import Config
from fedloge.data.augment import augment, normalise
from fedloge.data.images import Augmentation, Images
from fedloge.geometry.prototypes import Prototypes
from fedloge.learning.loop import sgd
from fedloge.models import Backbone
from fedloge.models.head import LinearHead
from fedloge.rng import rng

Losses = dict[str, Tensor]
EVALUATION_BATCH = 256


class Part(StrEnum):
    """Where a tensor lives: with everybody, with one client alone, or nowhere but in the config."""

    SHARED = "shared"
    PERSONAL = "personal"
    FIXED = "fixed"


class MethodOptions(pydantic.BaseModel):
    """Base of a method's own parameters, set by ``method-options = "mu = 0.1"``."""

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        populate_by_name=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )


@dataclass(frozen=True)
class Task:
    """The problem as a method sees it when it builds its network.

    `backbone` makes a fresh image -> features module with ``out_features``, the
    same one on every call; `prototypes` makes the fixed classifier for a feature width.
    """

    config: Config
    num_classes: int
    backbone: Callable[[], Backbone]
    prototypes: Callable[[int], Prototypes]


@dataclass(frozen=True)
class LocalData:
    """One client in one round: its images and what a method may know of them.

    Attributes
    ----------
    train : the client's training images, uint8, on the training device.
    counts : training images of each class, on the training device.
    received : the shared tensors as this round began (the anchor of FedProx or Ditto).
    rounds_trained : rounds in which this client has trained before; 0 means never.
    """

    client: int
    round: int
    config: Config
    train: Images
    counts: Int[Tensor, " classes"]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    received: Mapping[str, Tensor] = field(repr=False)
    rounds_trained: int = 0

    def batches(
        self, epochs: int, purpose: str = "train", batch_size: int | None = None
    ) -> Iterator[tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]]:
        """Shuffled, augmented, normalised batches; the last of an epoch may be smaller.

        Many batches are augmented at once: the cost an image is a gather's, not a Python call's.
        """
        size = batch_size or self.config.batch_size
        chunk = size * max(1, 2048 // size)
        generator = rng(self.config.seed, purpose, self.round, self.client)
        for _ in range(epochs):
            order = torch.from_numpy(generator.permutation(len(self.train)))
            for indices in order.to(self.train.labels.device).split(chunk):
                pixels = augment(self.train.pixels[indices], self.augmentation, generator)
                yield from zip(
                    self.prepare(pixels).split(size),
                    self.train.labels[indices].split(size),
                    strict=True,
                )

    def plain_batches(
        self,
    ) -> Iterator[tuple[Float[Tensor, "batch channels height width"], Int[Tensor, " batch"]]]:
        """The training images in their order, not augmented: for statistics and tuning on features."""
        for start in range(0, len(self.train), EVALUATION_BATCH):
            part = slice(start, start + EVALUATION_BATCH)
            yield self.prepare(self.train.pixels[part]), self.train.labels[part]

    def prepare(self, pixels: Tensor) -> Float[Tensor, "batch channels height width"]:
        """uint8 pixels as the network takes them."""
        return normalise(pixels, self.mean, self.std).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Update:
    """What a local update leaves besides the trained network.

    `sums` are further tensors for the server (class features, gradients), named and
    shaped as `Method.uplink` says; the server gets their sum over clients.
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


@dataclass(frozen=True)
class Predictor:
    """A linear head, and which of the method's functions ``(net, images) -> features`` it reads.

    ``features`` are those of the shared backbone, computed once for all clients.
    """

    head: LinearHead
    extractor: str = "features"


class Network(nn.Module):
    """All parts of a method's model, one child each; the children's names are the parts' names."""

    backbone: nn.Module

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, module in parts.items():
            self.add_module(name, module)


N = TypeVar("N", bound=Network)


class FixedHead(nn.Linear):
    """A classifier that never moves and is never sent: logits = W h (METHOD: no bias)."""

    def __init__(self, prototypes: Prototypes) -> None:
        super().__init__(prototypes.dim, prototypes.classes, bias=False, device="meta")
        self.weight = nn.Parameter(prototypes.matrix.clone(), requires_grad=False)


class Scalar(nn.Module):
    """One learned number, as a part of its own."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


class Method(ABC, Generic[N]):
    """One federated learning method. Subclasses say only what differs."""

    name: ClassVar[str]
    parts: ClassVar[Mapping[str, Part]]
    """Each child of the network and where it lives."""
    primary_global: ClassVar[str | None] = None
    """The global predictor that stands for the method in comparisons; None: it has no global model."""
    primary_personal: ClassVar[str | None] = None
    reads: ClassVar[frozenset[str]] = frozenset()
    """Which of the keys that not every method reads (`methods.OPTIONAL_KEYS`) this one does."""
    Options: ClassVar[type[MethodOptions]] = MethodOptions

    def __init__(self, task: Task, options: MethodOptions) -> None:
        self.task = task
        self.config = task.config
        self.options = options

    @property
    def norm_sharing(self) -> str:
        """What of the norm layers is averaged: all, affine or none, as the config key says."""
        return self.config.norm_sharing

    @abstractmethod
    def build(self) -> N:
        """The network with all its parts, freshly and deterministically initialised."""

    @abstractmethod
    def loss(self, net: N, images: Tensor, labels: Tensor, client: LocalData) -> Losses:
        """Named loss terms of one batch; their sum is minimised."""

    def local_update(self, net: N, client: LocalData) -> Update:
        """Train in place on one client. One SGD loop over `loss` unless overridden."""
        metrics = sgd(
            net,
            self.trainable(net),
            self.loss,
            client,
            epochs=self.config.local_epochs,
            constant=self.constant_loss,
        )
        return Update(metrics)

    @property
    def constant_loss(self) -> bool:
        """Whether `loss` reads nothing of the client but the batch, the same for all and every round."""
        return False

    def trainable(self, net: N) -> list[nn.Parameter]:
        """The parameters that the local update moves."""
        return [p for p in net.parameters() if p.requires_grad]

    def features(self, net: N, images: Tensor) -> Float[Tensor, "batch features"]:
        """The shared features that global and personal heads read."""
        return net.backbone(images)

    def global_predictors(self, net: N) -> dict[str, Predictor]:
        """The global models by name (``raw``, ``realigned``, ...)."""
        return {}

    def personal_predictors(self, net: N, client: LocalData) -> dict[str, Predictor]:
        """Client k's models by name; may tune on the client's training images."""
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

    def evaluation_uplink(self, net: N) -> dict[str, Tensor]:
        """Templates of what clients send for the global model when it is measured; {}: nothing."""
        return {}

    def evaluation_sums(self, net: N, client: LocalData) -> dict[str, Tensor]:
        """This client's part of them, under the shared tensors of the round."""
        return {}

    def calibrated_predictors(self, net: N, sums: dict[str, Tensor]) -> dict[str, Predictor]:
        """Global models that need the clients' evaluation sums (CCVR)."""
        return {}

    def head_norms(self, net: N) -> dict[str, Float[Tensor, " classes"]]:
        """Row norms of the heads worth plotting against class sizes."""
        return {}
