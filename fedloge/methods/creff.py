"""CReFF: federated learning on heterogeneous and long-tailed data via classifier re-training.

Shang, Lu, Huang, Wang. IJCAI 2022, arXiv 2204.13399.

FedAvg trains the model. In addition each client sends, for each class, the gradient of a head
on its real features. The server changes a set of federated features until the head's
gradients on them have the same direction, and re-trains a fresh head on those features. This
balanced head is the global classifier, and the head for the gradients of the next round.

As in the authors' code, the distance of two gradients is the sum over classes c and head
rows j of 1 - cos(G_c[j], g_c[j]), where the bias is one more row. (The paper writes a mean,
which is another step size.) A client's gradient is the mean over all its examples of a
class, as in the paper; the authors' code draws augmented batches.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, one_hot

from fedloge.learning.class_told import ClassTold
from fedloge.methods.fedavg import FedAvg, FedAvgOptions
from fedloge.methods.head_tuning import fit_head
from fedloge.methods.method import Aggregate, ClientData, Part, Predictor, Update, plain_features
from fedloge.methods.single_head import HeadNetwork
from fedloge.models.head import LinearHead, linear
from fedloge.rng import rng, torch_seeded


class CReFF(FedAvg):
    """FedAvg, and a head re-trained on the server on federated features."""

    name = "creff"
    parts: ClassVar = {"backbone": Part.SHARED, "head": Part.SHARED, "retrained": Part.SHARED}
    heads: ClassVar[tuple[str, ...]] = ("head", "retrained")
    primary_global = "retrained"
    class_told = ClassTold(counts=False, sums=True)

    class Options(FedAvgOptions):
        """The server's work in each round; the defaults are the authors'.

        `features_per_class`: federated features of each class. `match_steps`, `match_lr`:
        gradient steps on them. `retrain_epochs`, `retrain_lr`, `retrain_batch_size`: SGD of the
        head on them.
        """

        features_per_class: int = Field(100, ge=1)
        match_steps: int = Field(100, ge=0)
        match_lr: float = Field(0.1, gt=0)
        retrain_epochs: int = Field(300, ge=0)
        retrain_lr: float = Field(0.01, gt=0)
        retrain_batch_size: int = Field(32, ge=1)

    options: Options
    soft_labels = FedAvg.soft_labels

    def build(self) -> HeadNetwork:
        """FedAvg's network, and the re-trained head, which no client trains."""
        net = super().build()
        d, seed = net.head.in_features, self.config.seed
        head = linear(d, self.task.num_classes, seed=seed, purpose="init/retrained-head")
        net.add_module("retrained", head.requires_grad_(False))
        return net

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        """Class gradients under the model as received, then FedAvg's update."""
        head = LinearHead.of(_retrained(net))
        features, labels = plain_features(self, net, client)
        gradients = class_gradients(head, features, labels)
        update = super().local_update(net, client)
        present = (client.counts > 0).to(gradients)
        return dataclasses.replace(update, sums={"gradients": gradients, "clients": present})

    def uplink(self, net: HeadNetwork) -> dict[str, Tensor]:
        """For each class the gradient of (weight, bias), and how many clients have the class."""
        c, d = net.head.weight.shape
        return {"gradients": torch.zeros(c, c, d + 1), "clients": torch.zeros(c)}

    def server_state(self, net: HeadNetwork) -> dict[str, Tensor]:
        """The federated features, which start as standard normal draws."""
        c, d = net.head.weight.shape
        shape = (c, self.options.features_per_class, d)
        draws = rng(self.config.seed, "creff/features").standard_normal(shape, dtype="float32")
        return {"features": torch.from_numpy(draws)}

    def server_update(self, net: HeadNetwork, aggregate: Aggregate) -> Aggregate:
        """Match the federated features to the mean gradients, and re-train a fresh head on them."""
        old, device, seed = _retrained(net), net.head.weight.device, self.config.seed
        clients = aggregate.sums["clients"]
        mean = aggregate.sums["gradients"] / clients.clamp(min=1)[:, None, None]
        features = match_features(
            aggregate.state["features"].to(device),
            LinearHead.of(old),
            mean.to(device),
            clients.to(device) > 0,
            steps=self.options.match_steps,
            lr=self.options.match_lr,
        )
        with torch_seeded(seed, "creff/head", aggregate.round):
            head = nn.Linear(old.in_features, old.out_features).to(device)
        fit_head(
            head,
            features.flatten(0, 1),
            torch.arange(len(features), device=device).repeat_interleave(features.shape[1]),
            epochs=self.options.retrain_epochs,
            lr=self.options.retrain_lr,
            batch_size=self.options.retrain_batch_size,
            generator=rng(seed, "creff/retrain", aggregate.round),
        )
        replaced = {f"retrained.{k}": v.detach().cpu() for k, v in head.state_dict().items()}
        return dataclasses.replace(
            aggregate, shared=aggregate.shared | replaced, state={"features": features.cpu()}
        )

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        """The averaged head, and the re-trained one."""
        retrained = Predictor.of(_retrained(net))
        return super().global_predictors(net) | {"retrained": retrained}

    def head_norms(self, net: HeadNetwork) -> dict[str, Tensor]:
        """Row norms of both heads: the re-trained one should not follow the class sizes."""
        return super().head_norms(net) | {"retrained-head": _retrained(net).weight.norm(dim=1)}


def class_gradients(
    head: LinearHead, features: Float[Tensor, "examples features"], labels: Int[Tensor, " examples"]
) -> Float[Tensor, "classes classes features_and_bias"]:
    """For each class the gradient of the mean cross-entropy over its examples, by the head's rows.

    [c, j] is the gradient of row j and, in the last column, of bias j on the examples of class c.
    It is the mean of (p_j - [j = c]) (h, 1), and zero for a class without examples.
    """
    classes = len(head.weight)
    residuals = head.logits(features).softmax(dim=1) - one_hot(labels, classes)
    extended = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    gradients = features.new_zeros(classes, classes, extended.shape[1])
    for c in labels.unique().tolist():
        here = labels == c
        gradients[c] = residuals[here].T @ extended[here] / here.sum()
    return gradients


def match_features(
    features: Float[Tensor, "classes each features"],
    head: LinearHead,
    gradients: Float[Tensor, "classes classes features_and_bias"],
    present: Bool[Tensor, " classes"],
    *,
    steps: int,
    lr: float,
) -> Float[Tensor, "classes each features"]:
    """The federated features after `steps` of gradient descent on `gradient_distance`, for classes `present`."""
    moved = features[present].requires_grad_()
    for _ in range(steps):
        distance = gradient_distance(moved, head, gradients[present], present).sum()
        (slope,) = torch.autograd.grad(distance, moved)
        moved = (moved - lr * slope).detach().requires_grad_()
    matched = features.clone()
    matched[present] = moved.detach()
    return matched


def gradient_distance(
    features: Float[Tensor, "present each features"],
    head: LinearHead,
    gradients: Float[Tensor, "present classes features_and_bias"],
    present: Bool[Tensor, " classes"],
) -> Float[Tensor, " present"]:
    """For each class present the sum over head rows, and the bias, of 1 - cos(gradient, wanted one)."""
    own = one_hot(present.nonzero()[:, 0], len(present))[:, None]
    logits = nn.functional.linear(features, head.weight, head.bias)
    residuals = logits.softmax(dim=2) - own
    weight = residuals.transpose(1, 2) @ features / features.shape[1]
    bias = residuals.mean(dim=1)
    rows = 1 - cosine_similarity(weight, gradients[..., :-1], dim=2)
    return rows.sum(dim=1) + 1 - cosine_similarity(bias, gradients[..., -1], dim=1)


def _retrained(net: HeadNetwork) -> nn.Linear:
    return cast(nn.Linear, net.retrained)
