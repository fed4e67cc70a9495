"""Backbones that turn images into features, and the linear heads on top of them."""

from __future__ import annotations

from fedloge.models.backbone import Backbone
from fedloge.models.build import build_backbone
from fedloge.models.head import LinearHead, linear, stack_predictions
from fedloge.models.norm import norm_parameters, norm_statistics

__all__ = [
    "Backbone",
    "LinearHead",
    "build_backbone",
    "linear",
    "norm_parameters",
    "norm_statistics",
    "stack_predictions",
]
