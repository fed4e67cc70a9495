"""Fed3R: accelerating heterogeneous federated learning with closed-form classifiers.

Fani, Camoriano, Caputo, Ciccone. ICML 2024, arXiv 2406.01116.

The backbone is frozen, and the head is ridge regression on its features (`fedloge.geometry.closed_form`).
A client sends the Gram matrix of its features, its class sums and its class counts, once. Sums add,
so the head is that of all examples seen so far, exactly, in whatever order and in whatever rounds
clients come (the paper's recursive formulation); one round with all clients is enough. The server keeps
a ledger of whose sums it has and tells it. So a client whose answer was lost sends again.

Long tails need weights: ``balanced`` gives every class the same weight in the Gram matrix. For that the
class counts must be known first. So a client sends its weighted Gram matrix in the round after its
counts are in, by the counts that the server tells; if a client joins that changes them, the weighted sum
begins anew. All clients in two rounds are enough. ``fedcof`` is FedCOF's head from the same sums, with the
scatter within classes exact instead of estimated from class means.

`own_weight` above 0 makes personal heads, which is our extension: (G + tau G_k + lambda I)^-1 (B + tau B_k),
classes that the client lacks masked. G and B then travel to the clients, and nothing more from them.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, cast

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from fedloge.geometry.closed_form import (
    LAMBDA,
    FeatureSums,
    balanced_weights,
    packed,
    ridge,
    unpacked,
    within,
)
from fedloge.geometry.realignment import absent_mask
from fedloge.learning.class_told import ClassTold
from fedloge.learning.probes.closed_form_heads import as_sums, empty_sums, from_sums, unseen
from fedloge.methods.method import (
    Aggregate,
    ClientData,
    Losses,
    Method,
    MethodOptions,
    Network,
    Part,
    Predictor,
    Task,
    Update,
    plain_features,
)
from fedloge.methods.told_counts import tell
from fedloge.models.head import LinearHead

HEADS = ("raw", "normalised", "balanced", "fedcof")
_COUNTS = "ledger.counts"


class Ledger(nn.Module):
    """What the server tells of the sums it has: whose, whose weighted ones, and the class counts."""

    counted: Tensor
    weighted: Tensor
    counts: Tensor

    def __init__(self, clients: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("counted", torch.zeros(clients))
        self.register_buffer("weighted", torch.zeros(clients))
        self.register_buffer("counts", torch.zeros(classes))


class Moments(nn.Module):
    """The sums of all clients over their number of examples, whose logarithm is `size`, for personal heads."""

    gram: Tensor
    sums: Tensor
    counts: Tensor
    size: Tensor

    def __init__(self, classes: int, d: int) -> None:
        super().__init__()
        for name, zeros in empty_sums(classes, d).items():
            self.register_buffer(name, zeros)
        self.register_buffer("size", torch.zeros((), dtype=torch.float64))

    def known(self) -> FeatureSums:
        """The sums themselves."""
        mean = from_sums({"gram": self.gram, "sums": self.sums, "counts": self.counts})
        nothing = dataclasses.replace(mean, gram=0 * mean.gram, sums=0 * mean.sums)
        zero = dataclasses.replace(nothing, counts=0 * mean.counts)
        return zero.plus(mean, float(self.size.exp())) if bool(self.counts.any()) else zero


class Fed3RNetwork(Network):
    """A frozen backbone, one head for each form, the ledger, and for personal heads the moments."""

    ledger: Ledger


class Fed3R(Method[Fed3RNetwork]):
    """Heads in closed form on a frozen backbone."""

    name = "fed3r"
    class_told = ClassTold(counts=True, sums=True)
    solves = True
    primary_global = "balanced"
    primary_personal = "raw"

    class Options(MethodOptions):
        """The heads.

        `head`: by which the method is compared; all four are measured. ``balanced`` costs a second Gram
        matrix a client, which the others leave out. `shrinkage`: lambda, above 0. `gamma`: of ``fedcof``,
        above 0 (the paper: 1; 0.1 for 1,280 features). `own_weight`: tau, the weight of a client's own
        examples beside all in its personal head; 0: no personal heads.
        """

        head: Literal["raw", "normalised", "balanced", "fedcof"] = "balanced"
        shrinkage: float = Field(LAMBDA, gt=0)
        gamma: float = Field(1.0, gt=0)
        own_weight: float = Field(0.0, ge=0)

    options: Options

    def __init__(self, task: Task, options: Options) -> None:
        super().__init__(task, options)
        self.primary_global = options.head  # type: ignore[misc]
        self._last: tuple[dict[str, Tensor], dict[str, Tensor]] = {}, {}
        self.balances, self.personal = options.head == "balanced", options.own_weight > 0
        self.forms = HEADS if self.balances else tuple(h for h in HEADS if h != "balanced")
        if self.personal:
            self.primary_personal = "ridge"  # type: ignore[misc]
        shared = [*self.forms, "ledger", *(["moments"] if self.personal else [])]
        self.parts = {"backbone": Part.FIXED, **dict.fromkeys(shared, Part.SHARED)}  # type: ignore[misc]

    def build(self) -> Fed3RNetwork:
        """The frozen backbone, heads at zero, an empty ledger."""
        backbone, classes = self.task.backbone(), self.task.num_classes
        d = backbone.out_features
        net = Fed3RNetwork(backbone=backbone, ledger=Ledger(self.config.num_clients, classes))
        for name in self.forms:
            head = nn.Linear(d, classes, device="meta").to_empty(device="cpu")
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
            net.add_module(name, head)
        if self.personal:
            net.add_module("moments", Moments(classes, d))
        return net.requires_grad_(False)

    def loss(self, net: Fed3RNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        """None: nothing is trained."""
        raise NotImplementedError("fed3r's heads are solved for, not trained")

    def local_update(self, net: Fed3RNetwork, client: ClientData) -> Update:
        """The sums that the server lacks of this client; zeros where it has them."""
        sums, ledger = self.uplink(net), net.ledger
        counted = bool(ledger.counted[client.client])
        weigh = self.balances and counted and not bool(ledger.weighted[client.client])
        if counted and not weigh:
            return Update({}, sums)
        features, labels = plain_features(self, net, client)
        if not counted:
            sums |= as_sums(FeatureSums.of(features, labels, self.task.num_classes))
            sums["counted"][client.client] = 1
        if weigh:
            weights = balanced_weights(ledger.counts.double())
            own = FeatureSums.of(features, labels, self.task.num_classes, weights)
            sums["weighted-gram"] = packed(own.gram).cpu()
            sums["weighted"][client.client] = 1
        return Update({}, sums)

    def uplink(self, net: Fed3RNetwork) -> dict[str, Tensor]:
        """Gram matrix, class sums, counts, whose they are; the weighted Gram matrix and whose."""
        clients = torch.zeros(self.config.num_clients)
        zeros = self._nothing(net) | {"counted": clients}
        return zeros | ({"weighted": clients.clone()} if self.balances else {})

    def server_state(self, net: Fed3RNetwork) -> dict[str, Tensor]:
        """The sums over the clients in the ledger."""
        return self._nothing(net)

    def _nothing(self, net: Fed3RNetwork) -> dict[str, Tensor]:
        zeros = empty_sums(self.task.num_classes, self._d(net))
        return zeros | ({"weighted-gram": zeros["gram"].clone()} if self.balances else {})

    def _d(self, net: Fed3RNetwork) -> int:
        return int(cast(nn.Linear, net.get_submodule("raw")).in_features)

    def server_update(self, net: Fed3RNetwork, aggregate: Aggregate) -> Aggregate:
        """Add what came, and solve for the heads."""
        sums, joined = aggregate.sums, bool(aggregate.sums["counted"].any())
        names = empty_sums(self.task.num_classes, self._d(net))
        state = aggregate.state | {name: aggregate.state[name] + sums[name] for name in names}
        ledger = {"ledger.counted": aggregate.shared["ledger.counted"] + sums["counted"]}
        if self.balances:
            # Weights follow the counts, so what was weighted by other counts no longer holds.
            gram, whose = aggregate.state["weighted-gram"], aggregate.shared["ledger.weighted"]
            state["weighted-gram"] = 0 * gram if joined else gram + sums["weighted-gram"]
            ledger["ledger.weighted"] = 0 * whose if joined else whose + sums["weighted"]
        known = from_sums({name: state[name] for name in names})
        solved = self._solved_once(known, state, ledger)
        updated = dataclasses.replace(aggregate, state=state).with_shared(ledger | solved)
        counts = known.counts.float()
        # A client reads shares of counts only, and these do not depend on the unit.
        return tell(updated, _COUNTS, counts) if joined else updated

    def _solved_once(
        self, known: FeatureSums, state: dict[str, Tensor], ledger: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The heads; in a round that brings no new sums those of the round before."""
        of = state | ledger
        before, solved = self._last
        if of.keys() != before.keys() or not all(torch.equal(of[k], before[k]) for k in of):
            solved = self._solved(known, state, ledger)
            self._last = of, solved
        return solved

    def _solved(
        self, known: FeatureSums, state: dict[str, Tensor], ledger: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        if not float(known.counts.sum()):
            return {}
        shrinkage = self.options.shrinkage
        solved: dict[str, tuple[Tensor, Tensor | None]] = {
            "raw": ridge(known, shrinkage=shrinkage),
            "normalised": ridge(known, shrinkage=shrinkage, normalised=True),
            "fedcof": (within(known, gamma=self.options.gamma), None),
        }
        if self.balances:
            weights = balanced_weights(known.counts)
            gram = unpacked(state["weighted-gram"], known.gram.shape[0])
            weighted = FeatureSums(gram, weights[:, None] * known.sums, weights * known.counts)
            # Until all Gram matrices are in, the normalised head stands in for it.
            complete = torch.equal(ledger["ledger.weighted"], ledger["ledger.counted"])
            solved["balanced"] = (
                ridge(weighted, shrinkage=shrinkage) if complete else solved["normalised"]
            )
        tensors = {}
        for name, (weight, bias) in solved.items():
            tensors[f"{name}.weight"] = weight.float()
            tensors[f"{name}.bias"] = torch.zeros(len(weight)) if bias is None else bias.float()
        if self.personal:
            total = known.counts.sum()
            mean = {name: tensor / total for name, tensor in as_sums(known).items()}
            tensors |= {f"moments.{name}": tensor for name, tensor in mean.items()}
            tensors["moments.size"] = total.log()
        return tensors

    def global_predictors(self, net: Fed3RNetwork) -> dict[str, Predictor]:
        """The four heads; a class that no client has is never predicted."""
        counts = net.ledger.counts
        masked = unseen(counts) if bool(counts.any()) else None
        return {
            name: Predictor(dataclasses.replace(LinearHead.of(self._head(net, name)), mask=masked))
            for name in self.forms
        }

    def _head(self, net: Fed3RNetwork, name: str) -> nn.Linear:
        return cast(nn.Linear, net.get_submodule(name))

    def averaged_model(self, net: Fed3RNetwork) -> None:
        """None: regression's outputs are no logits, to which a log prior could be added."""
        return None

    def personal_predictors(self, net: Fed3RNetwork, client: ClientData) -> dict[str, Predictor]:
        """The global head, and for tau > 0 ridge regression in which the client's own examples count tau more."""
        assert self.primary_global is not None
        found = {"raw": self.global_predictors(net)[self.primary_global]}
        if not self.personal:
            return found
        own = FeatureSums.of(*plain_features(self, net, client), self.task.num_classes)
        known = cast(Moments, net.get_submodule("moments")).known()
        weight, bias = ridge(
            known.plus(own, self.options.own_weight), shrinkage=self.options.shrinkage
        )
        mask = absent_mask(client.counts).to(weight.float())
        return found | {"ridge": Predictor(LinearHead(weight.float(), bias.float(), mask))}

    def head_norms(self, net: Fed3RNetwork) -> dict[str, Float[Tensor, " classes"]]:
        """Row norms of the head by which the method is compared."""
        assert self.primary_global is not None
        return {"global-head": self._head(net, self.primary_global).weight.norm(dim=1)}
