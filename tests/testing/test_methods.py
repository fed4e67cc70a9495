"""The suite for methods: the built-in ones pass, a plug-in of one file passes, broken ones are found out."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from torch import Tensor

from fedloge.errors import PluginError
from fedloge.learning.loop import Losses
from fedloge.methods import METHODS
from fedloge.methods.fedavg import FedAvg
from fedloge.methods.method import ClientData, Method, Part, Predictor, Update
from fedloge.methods.single_head import HeadNetwork
from fedloge.models.head import LinearHead
from fedloge.testing import MethodCheck, check_method, method_checks

FEDPROTO = f"{Path(__file__).parents[1] / 'plugins/fedproto.py'}:FedProto"


@pytest.mark.parametrize("check", method_checks(), ids=str)
def test_a_plug_in_of_one_file_passes(check: MethodCheck) -> None:
    check(FEDPROTO)


def test_the_plug_in_is_as_short_as_a_page() -> None:
    assert len(Path(FEDPROTO.rpartition(":")[0]).read_text().splitlines()) <= 70


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_built_in_method_passes(name: str) -> None:
    check_method(name)


class Misnamed(FedAvg):
    """Names a part that its network does not have."""

    name = "misnamed"
    parts: ClassVar = {"backbone": Part.SHARED, "heads": Part.SHARED}


class Remembering(FedAvg):
    """Keeps something between updates."""

    name = "remembering"
    seen = 0

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        self.seen += 1
        return Update({**self.train(net, client), "seen": float(self.seen)})


class NotUniform(FedAvg):
    """Says that its step is the same for all clients, and is not."""

    name = "not-uniform"
    uniform_step = True  # type: ignore[assignment]

    def loss(self, net: HeadNetwork, inputs: Tensor, labels: Tensor, client: ClientData) -> Losses:
        weight = client.counts[labels] / client.counts.sum()
        losses = super().loss(net, inputs, labels, client)
        return {"weighted": losses["local"] * weight.mean()}


class Unannounced(FedAvg):
    """Sends what the server does not expect."""

    name = "unannounced"

    def local_update(self, net: HeadNetwork, client: ClientData) -> Update:
        return Update(self.train(net, client), {"counts": client.counts.float()})


class WrongHead(FedAvg):
    """A head for other features."""

    name = "wrong-head"

    def global_predictors(self, net: HeadNetwork) -> dict[str, Predictor]:
        return {"raw": Predictor(LinearHead(net.head.weight[:, 1:].detach()))}


@pytest.mark.parametrize(
    ("method", "check", "problem"),
    [
        (Misnamed, "parts-cover-the-network", "heads"),
        (Remembering, "same-update-from-the-same-state", "figures"),
        (NotUniform, "uniform-step-is-uniform", "depends on more than the batch"),
        (Unannounced, "sends-what-it-announces", "counts"),
        (WrongHead, "predicts", "do not fit"),
    ],
)
def test_a_broken_method_is_found_out(method: type[Method], check: str, problem: str) -> None:
    (named,) = (one for one in method_checks() if one.name == check)
    with pytest.raises(PluginError, match=problem) as caught:
        named(method)
    assert check in str(caught.value) and method.name in str(caught.value)
