"""FedLoGe: joint local and generic federated learning under long-tailed data.

Xiao, Chen, Liu, Feng, Wu, Liu, Zhou, Yang, Liu. ICLR 2024, arXiv 2401.08977.

The shared backbone trains against a fixed sparse equiangular classifier W (SSE-C,
section 3.2). A global head psi and a local head phi learn on its detached features (3.3).
After training both are realigned by their norms (GLA-FR, 3.4).

``prototypes = none`` is the ablation without SSE-C: a linear layer takes the place of W, is
trained by the same loss, and is averaged. The backbone is then FedAvg's.

Not in the paper: with ``fixed-adjustment`` and ``global-adjustment`` the losses of W and psi are
logit-adjusted by the client's class shares (Menon et al. 2021; at 1 they are balanced softmax).
W and psi are then fair to rare classes as they are. A personal model may also add the local
head's logits to those of W, as FedROD adds them to its generic head (``with-fixed``), or, with the
config key ``personal-heads = "own-prior"``, the logarithm of the client's own class shares.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from fedloge.config import PERSONAL_HEADS, Config
from fedloge.errors import ConfigError
from fedloge.geometry.law_realignment import at_law_norms, global_realign_by_law
from fedloge.geometry.prototypes import Kind, prototypes
from fedloge.geometry.realignment import (
    absent_mask,
    global_realign,
    local_realign,
    local_realign_sum,
)
from fedloge.learning.losses import log_prior, logit_adjusted
from fedloge.learning.mixup import Mix
from fedloge.learning.probes import Probe
from fedloge.methods.chosen_tau import post_hoc_probes
from fedloge.methods.feature_scale import MEASURED_ON, PRETRAINED, suited_gamma
from fedloge.methods.head_tuning import tuned_head
from fedloge.methods.method import (
    ClientData,
    LinearLoss,
    Losses,
    Method,
    Network,
    Part,
    Predictor,
    Task,
)
from fedloge.methods.post_hoc import post_hoc
from fedloge.methods.single_head import PostHocOptions
from fedloge.models.cosine_head import scaled_cosines
from fedloge.models.head import FixedHead, LinearHead, linear

log = logging.getLogger(__name__)
_JUDGED = 10
"""How many rounds `FedLoGe.remarks` looks at."""
_HEADS = ("train/loss-global", "train/loss-local")


class FedLoGeNetwork(Network):
    """Backbone theta, classifier W, global head psi, local head phi."""

    classifier: nn.Linear
    global_head: nn.Linear
    local_head: nn.Linear


class FedLoGe(Method[FedLoGeNetwork]):
    """A backbone trained against a fixed classifier, two heads on its features, then realigned."""

    name = "fedloge"
    parts: ClassVar = {
        "backbone": Part.SHARED,
        "classifier": Part.FIXED,
        "global_head": Part.SHARED,
        "local_head": Part.PERSONAL,
    }
    heads: ClassVar[tuple[str, ...]] = ("global_head",)
    primary_global = "realigned"
    primary_personal = "realigned"
    mixes_itself = True
    takes_stale = True

    class Options(PostHocOptions):
        """The fixed classifier W, the heads' rate, and how personal models are read.

        - `prototypes`: W, a kind of `fedloge.geometry.prototypes`: SSE-C (``sparse-etf``), or for more classes than
          features + 1 ``basis`` and others (``auto`` chooses); ``none``: a trained layer in its place.
          `sparsity`: share of zeros in every row of a sparse kind.
        - `fixed_head`: logits W h (``linear``, the paper), or the head of equiangular basis vectors
          (``cosine``): cosines over `temperature`, with `label_smoothing`; `gamma` then plays no part.
        - `gamma`: norm of every row of W, a temperature. The paper has 0.1, for 512 features and 500
          rounds; ``auto`` is what suits the network's features (`fedloge.methods.feature_scale`). With a
          frozen backbone nothing trains against W; a warning says so.
        - `head_rate`: factor of the two heads' learning rate; 1 in the paper.
        - `fixed_adjustment`, `global_adjustment`: tau of the logit adjustment in the losses of W and of
          psi; 0, the paper's, is plain cross-entropy.
        - `global_model`, `personal_model`: the model that each side is judged by in tables; all are measured.
        - `personal_realignment`: LA-FR as phi' = psi ||phi|| (``norm``), or its logits plus the local
          head's own (``sum``).
        - `realign_by`: by which norms heads are realigned: those that rows have (``norms``, the paper), or
          those that the imbalanced law, fitted to them, has for the class sizes (``law``): psi's by the counts
          of all clients, phi's by the client's own. What class sizes do not explain of psi is then kept.
        - `tune_epochs`: also measure personal models whose local head was first tuned on the client's
          examples, for so many passes. 0, as in the paper: none. FedAvg's are tuned so, for 5.
        """

        prototypes: Kind | Literal["none"] = "sparse-etf"
        fixed_head: Literal["linear", "cosine"] = "linear"
        temperature: float = Field(0.07, gt=0)
        label_smoothing: float = Field(0.1, ge=0, lt=1)
        sparsity: float = Field(0.6, ge=0, lt=1)
        gamma: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
        head_rate: float = Field(1.0, gt=0)
        fixed_adjustment: float = Field(0.0, ge=0)
        global_adjustment: float = Field(0.0, ge=0)
        global_model: Literal["realigned", "raw", "fixed"] = "realigned"
        personal_model: Literal[
            "realigned", "raw", "with-fixed", "tuned", "own-prior", "own-prior-tuned"
        ] = "realigned"
        personal_realignment: Literal["norm", "sum"] = "norm"
        realign_by: Literal["norms", "law"] = "norms"
        tune_epochs: int = Field(0, ge=0)

        @model_validator(mode="after")
        def _consistent(self) -> FedLoGe.Options:
            """Refuse a model that is not made, and what the chosen head does not read."""
            if self.personal_model == "tuned" and not self.tune_epochs:
                raise ValueError(
                    "personal-model: 'tuned' is the local head after tune-epochs more passes, which are 0; "
                    "set tune-epochs=5, say"
                )
            cosine = {"gamma", "fixed_adjustment"}
            unread = {"linear": {"temperature", "label_smoothing"}, "cosine": cosine}
            for name in sorted(unread[self.fixed_head] & self.model_fields_set):
                raise ValueError(
                    f"{name.replace('_', '-')} is not read with fixed-head={self.fixed_head}; leave it out"
                )
            if self.fixed_head == "cosine" and self.prototypes == "none":
                raise ValueError(
                    "fixed-head=cosine takes fixed rows; set prototypes to a kind of them"
                )
            return self

    options: Options

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__(task, options)
        if options.head_rate != 1 and self.config.optimiser == "adamw":
            raise ConfigError(
                "method-options.head-rate scales the heads' gradients, which adamw's steps do not depend on; "
                f"set optimiser=sgd, or leave it out, got {options.head_rate:g}"
            )
        wanted, further = options.personal_model, self.config.further_heads
        if wanted in PERSONAL_HEADS and wanted not in further:
            raise ConfigError(
                f"method-options.personal-model: {wanted!r} is made by the key personal-heads, which is "
                f"{self.config.personal_heads!r}; set personal-heads={','.join((*further, wanted))}"
            )
        self.w = "trained" if options.prototypes == "none" else "fixed"
        if self.w == "trained":
            self.parts = {**self.parts, "classifier": Part.SHARED}  # type: ignore[misc]
        # W is no fixed classifier in the ablation.
        self.primary_global = options.global_model.replace("fixed", self.w)  # type: ignore[misc]
        self.primary_personal = options.personal_model.replace("fixed", self.w)  # type: ignore[misc]

    def build(self) -> FedLoGeNetwork:
        """theta, psi and phi are initialised as usual; W is built from the prototypes."""
        backbone = self.task.backbone()
        dim, classes, seed = backbone.out_features, self.task.num_classes, self.config.seed
        if not any(p.requires_grad for p in backbone.parameters()):
            _warn_of_idle_w(self.config.train_part)
        if self.w == "fixed":
            o = self.options
            fixed = prototypes(
                classes, dim, o.prototypes, sparsity=o.sparsity, gamma=self.gamma, seed=seed
            )
            classifier: nn.Linear = FixedHead(fixed)
        else:
            classifier = linear(dim, classes, seed=seed, purpose="init/global-head")
        return FedLoGeNetwork(
            backbone=backbone,
            classifier=classifier,
            global_head=linear(dim, classes, seed=seed, purpose="init/global-head"),
            local_head=linear(dim, classes, seed=seed, purpose="init/local-head"),
        )

    @cached_property
    def gamma(self) -> float:
        """The norm of every row of W, as set or as it suits the network."""
        given, shape = self.options.gamma, self.task.input_shape
        if given != "auto":
            return float(given)
        if length := self.task.backbone().feature_length:
            return PRETRAINED / length
        if self.config.model not in MEASURED_ON:
            log.warning(
                "method-options.gamma = auto: the rule was measured on %s, not on model %r; try other "
                "values beside it",
                " and ".join(MEASURED_ON),
                self.config.model,
            )
        noise = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
        try:
            return suited_gamma(self.task.backbone, noise)
        except (RuntimeError, IndexError) as exc:
            raise ConfigError(
                "method-options.gamma: 'auto' measures the network on Gaussian noise, which model "
                f"{self.config.model!r} does not take ({str(exc).splitlines()[0]}); give a number"
            ) from None

    def loss(
        self, net: FedLoGeNetwork, inputs: Tensor, labels: Tensor, client: ClientData
    ) -> Losses:
        """The three losses; each trains one part only, so one backward pass of their sum is enough."""
        mix = client.mixer.now if client.mixer else None
        h = net.backbone(inputs)
        x, rate = h.detach(), self.options.head_rate
        shared, n = self.options.global_adjustment, client.counts
        return {
            self.w: self.fixed_loss(net, h, labels, n)  # trains theta, as W is fixed
            if mix is None
            else self._mixed(net, inputs, labels, n, mix),
            "global": at_rate(rate, adjusted(net.global_head(x), labels, n, shared)),  # trains psi
            "local": at_rate(rate, cross_entropy(net.local_head(x), labels)),  # trains phi
        }

    def linear_losses(
        self, net: FedLoGeNetwork, client: ClientData
    ) -> dict[str, LinearLoss] | None:
        """The three losses, unless W's is of cosines."""
        o, n = self.options, client.counts
        if o.fixed_head == "cosine":
            return None
        fixed = log_prior(n, o.fixed_adjustment) if o.fixed_adjustment else None
        shared = log_prior(n, o.global_adjustment) if o.global_adjustment else None
        return {
            self.w: LinearLoss(net.classifier, fixed),
            "global": LinearLoss(net.global_head, shared, rate=o.head_rate),
            "local": LinearLoss(net.local_head, rate=o.head_rate),
        }

    def _mixed(
        self, net: FedLoGeNetwork, inputs: Tensor, labels: Tensor, counts: Tensor, mix: Mix
    ) -> Tensor:
        """Mixup of the first loss alone: the heads' norms keep their meaning on features as they are."""
        shares = mix.labels(labels, self.task.num_classes)
        return self.fixed_loss(net, mix.features(net.backbone, inputs), shares, counts)

    def fixed_loss(
        self, net: FedLoGeNetwork, features: Tensor, labels: Tensor, counts: Tensor
    ) -> Tensor:
        """CE(W h, y); with `fixed_head` ``cosine`` the EBV head, smoothed CE of cosines over a temperature."""
        o = self.options
        if o.fixed_head == "linear":
            return adjusted(net.classifier(features), labels, counts, o.fixed_adjustment)
        # The rows of W are gamma long.
        rows = normalize(net.classifier.weight)
        logits = scaled_cosines(features, rows, 1 / o.temperature)
        return cross_entropy(logits, labels, label_smoothing=o.label_smoothing)

    @property
    def uniform_step(self) -> bool:
        """True where the three losses depend on the batch alone, and not on the client's counts."""
        return not (self.options.fixed_adjustment or self.options.global_adjustment)

    @property
    def example_by_example(self) -> bool:
        """As `uniform_step`: each of the three losses is a mean over the batch's examples."""
        return self.uniform_step

    def averaged_model(self, net: FedLoGeNetwork) -> Predictor:
        """W, which reads its own features better than psi does, at every length of run that was measured."""
        return Predictor.of(net.classifier)

    def global_predictors(self, net: FedLoGeNetwork) -> dict[str, Predictor]:
        """W, psi, and GA-FR's psi'_c = psi_c / ||psi_c||."""
        psi = net.global_head.weight.detach()
        return {
            self.w: Predictor.of(net.classifier),
            "raw": Predictor.of(net.global_head),
            **post_hoc(self.options.post_hoc, psi, self.task.counts_for),
            "realigned": Predictor(LinearHead(self._global_realigned(psi))),
        }

    def _global_realigned(self, psi: Tensor) -> Tensor:
        if self.options.realign_by == "norms":
            return global_realign(psi)
        counts = self.task.counts_for("method-options.realign-by = law")
        return global_realign_by_law(psi, counts)

    def personal_predictors(self, net: FedLoGeNetwork, client: ClientData) -> dict[str, Predictor]:
        """phi_k, LA-FR's phi'_{k,c} = psi_c ||phi_{k,c}||, and W + phi_k, absent classes masked but in phi_k.

        A client that has never trained has no phi of its own. The rows of a fresh phi have equal
        norms, so by LA-FR it predicts with psi at psi's own norms, because its own classes are as
        long-tailed as psi's.
        """
        psi = net.global_head.weight.detach()
        mask = absent_mask(client.counts).to(psi)
        new = client.rounds_trained == 0
        predictors = (
            {
                "raw": Predictor.of(net.global_head),
                "realigned": Predictor(LinearHead(psi, mask=mask)),
            }
            if new
            else self._personal(psi, net.local_head, mask, client.counts)
        )
        predictors[f"with-{self.w}"] = self._with_classifier(net, mask, new)
        if epochs := self.options.tune_epochs:
            own = net.global_head if new else net.local_head
            trained = tuned_head(self, net, own, client, epochs=epochs)
            tuned = self._personal(psi, trained, mask, client.counts)
            predictors |= {"tuned": tuned["raw"], "tuned-realigned": tuned["realigned"]}
        return predictors

    def _with_classifier(self, net: FedLoGeNetwork, mask: Tensor, new: bool) -> Predictor:
        """W h + phi h; W h alone for a client without a phi of its own."""
        shared, own = LinearHead.of(net.classifier), LinearHead.of(net.local_head)
        if new:
            return Predictor(LinearHead(shared.weight, shared.offset(), mask))
        weight, bias = shared.weight + own.weight, shared.offset() + own.offset()
        return Predictor(LinearHead(weight, bias, mask))

    def _personal(
        self, psi: Tensor, own: nn.Linear, mask: Tensor, counts: Tensor
    ) -> dict[str, Predictor]:
        phi = own.weight.detach()
        if self.options.realign_by == "law":
            phi = at_law_norms(phi, counts)
        if self.options.personal_realignment == "sum":
            weight, bias = local_realign_sum(psi, phi), own.bias.detach()
        else:
            weight, bias = local_realign(psi, phi), None
        return {
            "raw": Predictor.of(own),
            "realigned": Predictor(LinearHead(weight, bias, mask)),
        }

    def probes(self) -> list[Probe]:
        """The choice of tau, if ``post-hoc`` leaves it to the validation examples."""
        return post_hoc_probes(self.options.post_hoc, self.config, self.task.num_classes, self)

    @classmethod
    def remarks(cls, config: Config, classes: int, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Warns if gamma keeps the backbone from training, or features have grown too long for the heads."""
        recent = rows[-_JUDGED:]
        if len(recent) < _JUDGED:
            return []
        found, chance = [], math.log(classes)
        fixed = [row["train/loss-fixed"] for row in recent if "train/loss-fixed" in row]
        if len(fixed) == _JUDGED and min(fixed) > 0.95 * chance:
            found.append(
                f"the loss against the fixed classifier is {fixed[-1]:.2f} after round {recent[-1]['round']}, "
                f"of log {classes} = {chance:.2f} for guessing: the backbone hardly trains; raise "
                "method-options.gamma"
            )
        first = [sum(row.get(key, 0.0) for key in _HEADS) for row in rows[:_JUDGED]]
        last = [sum(row.get(key, 0.0) for key in _HEADS) for row in recent]
        if len(rows) >= 2 * _JUDGED and min(last) > max(first):
            found.append(
                f"the losses of the two heads have risen, from {statistics.fmean(first):.2f} in the first "
                f"{_JUDGED} rounds to {statistics.fmean(last):.2f} in the last: features have grown long "
                "for the heads' steps; raise method-options.gamma, or lower lr"
            )
        return found

    def head_norms(self, net: FedLoGeNetwork) -> dict[str, Tensor]:
        """||psi_c||, which before realignment follows the class sizes."""
        return {"global-head": net.global_head.weight.detach().norm(dim=1)}


def adjusted(logits: Tensor, labels: Tensor, counts: Tensor, tau: float) -> Tensor:
    """`logit_adjusted`, and at tau = 0 plain cross-entropy to the bit."""
    return logit_adjusted(logits, labels, counts, tau) if tau else cross_entropy(logits, labels)


@cache
def _warn_of_idle_w(part: str) -> None:
    log.warning(
        "fedloge: with train-part %s nothing trains against the fixed classifier; what is left are FedAvg's head, a "
        "local head, and their realignment. Train an adapter or the last stage to have the method",
        part,
    )


def at_rate(rate: float, loss: Tensor) -> Tensor:
    """The loss's value with `rate` times its gradient: its parameters learn at `rate` times the rate."""
    return loss if rate == 1 else loss.detach() + rate * (loss - loss.detach())
