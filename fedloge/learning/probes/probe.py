"""What a probe is: a measurement over all clients, of which only sums leave a client.

When a round is evaluated, each client adds up what the probe asks for (`Probe.collect`). The
server sees only the sum over clients, which is exact and does not depend on their order. It makes
figures or predictors of the sum (`Probe.finish`). A `TwoPassProbe` asks a second time, with
something made of the first sums in its hands. The README lists what each probe sends in its
table of what leaves a client.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from jaxtyping import Float, Int
from torch import Tensor

from fedloge.config import Config
from fedloge.learning.calibration import Reliability
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import ClientData, Labelled
from fedloge.learning.metrics import ShotGroups
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

    @property
    def primary_personal(self) -> str | None:
        """The personal model by which the method is compared; None: it has none."""
        ...


@dataclass(frozen=True)
class ProbeTask:
    """What a probe may know of the run.

    Attributes
    ----------
    config, num_classes : the run's.
    method : the method whose models are measured. Call it with the network in evaluation mode and
        without gradients.
    global_network : whether there is a global network. There is none where norm layers stay with the
        clients; then a probe is used only if it has a `Probe.personal_template`.
    groups : the shot groups, as the server knows them; None: not known here.
    """

    config: Config
    num_classes: int
    method: Measurable
    global_network: bool = True
    groups: Callable[[], ShotGroups] | None = None

    def features(self, net: Network, inputs: Tensor) -> Tensor:
        """The method's shared features of prepared inputs, (examples, d)."""
        return self.method.features(net, inputs)

    def train_features(self, net: Network, client: ClientData) -> Labelled:
        """`ClientData.train_features` of the method's shared features."""
        return client.train_features(net, self.method.features)

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
    by_class : lists of one number per class, by name, for the record of classes.
    predictors : further global models by name, which are then evaluated like the method's own.
    reliability : bins of confidence by the name of what they are of, for the record of calibration.
    """

    figures: dict[str, float] = field(default_factory=dict)
    by_class: dict[str, list[float]] = field(default_factory=dict)
    predictors: dict[str, Predictor] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)


class Probe(ABC):
    """One measurement. A probe is made anew for every run."""

    name: ClassVar[str]
    """Kebab-case; names its tensors in messages and its figures in the record."""

    class_told: ClassVar[ClassTold] = ClassTold()
    """What its sums tell of single classes; a site's policy reads it."""

    def __init__(self, task: ProbeTask) -> None:
        self.task = task

    @abstractmethod
    def template(self, net: Network) -> dict[str, Tensor]:
        """Zeros with the names, shapes and dtypes of what a client sends; values may reach 2^40."""

    @abstractmethod
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """One client's part of the sums, under the round's shared tensors."""

    def personal_template(self) -> dict[str, Tensor]:
        """Zeros like what a client sends of its own model; {}: nothing. Names differ from `template`'s."""
        return {}

    def collect_personal(
        self, logits: Float[Tensor, "examples classes"], labels: Int[Tensor, " examples"]
    ) -> dict[str, Tensor]:
        """One client's part of the sums, of its own model on its own test examples.

        It is the personal model by which the method is judged. A client without test examples, and
        every client of a method without personal models, sends the zeros of `personal_template`.
        """
        return {}

    @abstractmethod
    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """What the sums over all clients that answered mean."""


class TwoPassProbe(Probe):
    """A probe that asks every client twice, for what cannot be measured before the first sums are known."""

    @abstractmethod
    def second_template(self, net: Network) -> dict[str, Tensor]:
        """As `template`, of what a client sends the second time, under other names."""

    @abstractmethod
    def given(self, net: Network, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the server gives every client for the second pass, made of the first sums."""

    @abstractmethod
    def collect_again(
        self, net: Network, client: ClientData, given: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """One client's part of the second sums; `finish` gets both passes' sums."""


def of_probe(probe: Probe, sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One probe's part of what was summed over clients, by its own names."""
    prefix = f"{probe.name}/"
    return {k.removeprefix(prefix): v for k, v in sums.items() if k.startswith(prefix)}
