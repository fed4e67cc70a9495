"""The bare loop: forward, three losses, backward, step."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fedloge.data import DataSet
from fedloge.learning.client_data import EVALUATION_BATCH
from fedloge.models import build_backbone

LR, MOMENTUM = 0.003, 0.5
"""Labels of noise cannot be learnt. Small steps keep the weights, and so the arithmetic, ordinary."""


class Model(nn.Module):
    """A backbone, a fixed classifier and two heads on detached features."""

    def __init__(self, name: str, classes: int, shape: tuple[int, int, int] = (3, 32, 32)) -> None:
        super().__init__()
        self.backbone = build_backbone(name, shape, seed=0)
        width = self.backbone.out_features
        self.fixed = nn.Linear(width, classes, bias=False).requires_grad_(False)
        self.global_head = nn.Linear(width, classes)
        self.local_head = nn.Linear(width, classes)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """The sum of FedLoGe's three losses."""
        h = self.backbone(images)
        detached = h.detach()
        return (
            cross_entropy(self.fixed(h), labels)
            + cross_entropy(self.global_head(detached), labels)
            + cross_entropy(self.local_head(detached), labels)
        )


class BareLoop:
    """Passes over batches made beforehand.

    Parameters
    ----------
    optimiser : ``fused``, ``foreach`` or ``single``: how torch's SGD runs over the parameters.
    layout : ``channels_last`` or ``contiguous``.
    bf16 : whether forward and losses run under bfloat16 autocast.
    device : where it runs; a call returns when the device is done.
    """

    def __init__(
        self,
        name: str,
        classes: int,
        batches: list[tuple[Tensor, Tensor]],
        *,
        epochs: int = 1,
        optimiser: str = "fused",
        layout: str = "channels_last",
        bf16: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        memory_format = getattr(torch, f"{layout}_format" if layout == "contiguous" else layout)
        _, channels, height, width = batches[0][0].shape
        model = Model(name, classes, (channels, height, width))
        self.device = torch.device(device)
        self.model = model.to(self.device).to(memory_format=memory_format)
        self.batches = [
            (x.to(self.device).contiguous(memory_format=memory_format), y.to(self.device))
            for x, y in batches
        ]
        self.epochs = epochs
        chosen = {"fused": True} if optimiser == "fused" else {"foreach": optimiser == "foreach"}
        moving = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.SGD(moving, lr=LR, momentum=MOMENTUM, **chosen)
        self.precision = (
            torch.autocast(self.device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()
        )

    def __call__(self) -> None:
        """Train."""
        for _ in range(self.epochs):
            for images, labels in self.batches:
                self.optimiser.zero_grad()
                with self.precision:
                    loss = self.model.loss(images, labels)
                loss.backward()
                self.optimiser.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class BackbonePass:
    """The test images once through a backbone, in the batches that evaluation uses."""

    def __init__(self, name: str, data: DataSet) -> None:
        backbone = build_backbone(name, data.input_shape, seed=0)
        self.backbone = backbone.eval().to(memory_format=torch.channels_last)
        self.data = data

    @torch.no_grad()
    def __call__(self) -> None:
        """From uint8 pixels to features."""
        for inputs in self.data.test.inputs.split(EVALUATION_BATCH):
            self.backbone(self.data.preparation.prepare(inputs))
