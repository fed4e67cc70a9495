"""tau-norm with tau chosen on validation examples: the post-hoc model ``tau-norm = auto``.

Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition" (ICLR 2020), choose
tau on a validation set. Here the examples that ``validation-share`` holds out are the clients', so each
of them counts how many examples of each class the head gets right at every tau, and only the sums
over clients reach the server. It takes the tau with the best mean over classes, in every evaluated
round anew, and never looks at the test set.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fedloge.config import Config
from fedloge.errors import ConfigError
from fedloge.geometry.realignment import tau_norm
from fedloge.learning.class_told import ClassTold
from fedloge.learning.client_data import EVALUATION_BATCH, ClientData
from fedloge.learning.probes import Findings, Probe, ProbeTask
from fedloge.learning.probes.probe import Measurable
from fedloge.methods.post_hoc import tau_is_chosen
from fedloge.models.head import LinearHead, Predictor
from fedloge.models.network import Network

TAUS = tuple(step / 10 for step in range(11))
"""The values that are tried."""


class ChosenTau(Probe):
    """The averaged head with its rows divided by ||psi_c||^tau, tau chosen on validation examples."""

    name: ClassVar[str] = "tau-norm"
    class_told: ClassVar[ClassTold] = ClassTold(counts=True, sums=False, of="validation")

    def template(self, net: Network) -> dict[str, Tensor]:
        """For each class its validation examples, and those that are right at each tau."""
        classes = self.task.num_classes
        return {"examples": torch.zeros(classes), "right": torch.zeros(classes, len(TAUS))}

    @torch.no_grad()
    def collect(self, net: Network, client: ClientData) -> dict[str, Tensor]:
        """This client's counts."""
        net.eval()
        counts, held, raw = self.template(net), client.validation, self._raw(net)
        heads = [LinearHead(tau_norm(raw.head.weight, tau)) for tau in TAUS]
        for start in range(0, 0 if held is None else len(held), EVALUATION_BATCH):
            assert held is not None
            part = slice(start, start + EVALUATION_BATCH)
            classes = held.classes[part]
            inputs = client.preparation.prepare(held.inputs[part])
            features = self.task.features_for(raw, net, inputs)
            counts["examples"] += self._per_class(classes)
            for row, head in zip(counts["right"].T, heads, strict=True):
                row += self._per_class(classes[head.predict(features) == classes])
        return counts

    def finish(self, net: Network, sums: dict[str, Tensor]) -> Findings:
        """The model, and the figures ``tau`` and ``balanced``; nothing if no client has a validation example."""
        occurs = sums["examples"] > 0
        if not occurs.any():
            return Findings()
        best, balanced = best_of(sums["right"][occurs].T, sums["examples"][occurs])
        head = LinearHead(tau_norm(self._raw(net).head.weight, TAUS[best]))
        figures = {"tau": TAUS[best], "balanced": balanced}
        return Findings(figures, predictors={"tau-norm": Predictor(head)})

    def _raw(self, net: Network) -> Predictor:
        return self.task.method.global_predictors(net)["raw"]

    def _per_class(self, classes: Tensor) -> Tensor:
        return torch.bincount(classes, minlength=self.task.num_classes).float().cpu()


def best_of(
    right: Float[Tensor, "choices classes"], examples: Float[Tensor, " classes"]
) -> tuple[int, float]:
    """The choice with the best mean of the classes' shares right, and this mean; of equal ones the first."""
    means = (right.double() / examples.double()).mean(dim=1)
    best = int(means.argmax())
    return best, float(means[best])


def post_hoc_probes(text: str, config: Config, classes: int, method: Measurable) -> list[Probe]:
    """What the option ``post-hoc`` needs to measure over the clients.

    `ConfigError`: tau is to be chosen, and no validation examples are held out.
    """
    if not tau_is_chosen(text):
        return []
    if not config.validation_share:
        raise ConfigError(
            "post-hoc: 'tau-norm = auto' chooses tau on validation examples; set validation-share=0.2, "
            "or give a number"
        )
    return [ChosenTau(ProbeTask(config, classes, method))]
