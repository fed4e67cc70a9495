"""What a probe is: something measured over clients, of which only sums leave them.

When a round is evaluated each client adds up what the probe asks for (`Probe.collect`); the
server sees the sum over clients, exact and free of their order, and makes figures or
predictors of it (`Probe.finish`). What a probe sends is listed in the README's table of what
leaves a client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fedloge.config import Config
from fedloge.learning.client_data import ClientData
from fedloge.models.head import Predictor
from fedloge.models.network import Network


class Measurable(Protocol):
    """What a probe may ask of a method."""

    def features(self, net: Any, inputs: Tensor) -> Tensor:
        """The shared features, (examples, d)."""
        ...

    def global_predictors(self, net: Any) -> dict[str, Predictor]:
        """The global models by name."""
        ...


@dataclass(frozen=True)
class ProbeTask:
    """What a probe may know of the run.

    Attributes
    ----------
    method : whose models are measured. Call it with the network in evaluation mode and without
        gradients.
    """

    config: Config
    num_classes: int
    method: Measurable

    def features(self, net: Network, inputs: Tensor) -> Tensor:
        """The method's shared features of prepared inputs, (examples, d)."""
        return self.method.features(net, inputs)

    def features_for(self, predictor: Predictor, net: Network, inputs: Tensor) -> Tensor:
        """The features that a predictor's head reads."""
        extract: Callable[[Network, Tensor], Tensor] = getattr(self.method, predictor.extractor)
        return extract(net, inputs)


@dataclass(frozen=True)
class Findings:
    """What a probe makes of the sums.

    Attributes
    ----------
    figures : numbers for the round's record, as ``probe/<probe>/<name>``.
    by_class : a list with one number per class each, for the record of classes.
    predictors : further global models, to be measured as the method's own are.
    """

    figures: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, list[float]] = field(default_factory=dict)
    predictors: dict[str, Predictor] = field(default_factory=dict)


class Probe(ABC):
    """One probe; made anew for every run, from what it may know of it."""

    name: ClassVar[str]
    """Kebab-case; names its tensors in messages and its figures in the record."""

    def __init__(self, task: ProbeTask) -> None:
        self.task = task

    @abstractmethod
    def template(self, net: Network) -> dict[str, Tensor]:
        """Zeros of the names, shapes and dtypes that a client sends; values up to 2^40 in magnitude."""

    @abstractmethod
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's part, under the shared tensors of the round. Parts must add up over clients."""

    @abstractmethod
    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """What the sums over all clients that answered say."""
