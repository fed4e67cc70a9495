"""A whole model of the client's own beside the shared one: the base of Ditto and APFL."""

from __future__ import annotations

from typing import ClassVar, TypeVar, cast

from jaxtyping import Float
from torch import Tensor, nn

from fedloge.methods.method import Part
from fedloge.methods.single_head import HeadNetwork, SharedHead


class TwinNetwork(HeadNetwork):
    """The shared model, and the client's own, which starts as its copy."""

    own_backbone: nn.Module
    own_head: nn.Linear


T = TypeVar("T", bound=TwinNetwork)


class OwnModel(SharedHead[T]):
    """Base of methods whose clients keep a whole model besides the averaged one."""

    parts: ClassVar = {
        **SharedHead.parts,
        "own_backbone": Part.PERSONAL,
        "own_head": Part.PERSONAL,
    }

    def build(self) -> T:
        """Two models with the same initial weights."""
        shared, own = self.fresh_model(), self.fresh_model()
        net = TwinNetwork(
            backbone=shared.backbone,
            head=shared.head,
            own_backbone=own.backbone,
            own_head=own.head,
        )
        return cast("T", net)

    def own_features(self, net: T, inputs: Tensor) -> Float[Tensor, "batch features"]:
        """Features of the client's own backbone."""
        return net.own_backbone(inputs)
