"""A backbone with fewer features than classes."""

from __future__ import annotations

from torch import Tensor, nn

from fedloge.models import Backbone


class Narrow(Backbone):
    """Pixels to eight features."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        pixels = input_shape[0] * input_shape[1] * input_shape[2]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 8), nn.ReLU())
        self.out_features = 8

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)
