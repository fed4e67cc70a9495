"""Networks: backbones that turn inputs into features, heads on top of them, and a method's parts."""

from fedloge.models.backbone import Backbone
from fedloge.models.build import build_backbone
from fedloge.models.head import FixedHead, LinearHead, Predictor, Scalar, linear
from fedloge.models.network import NORM_LAYERS, Network, Part, parts_of_tensors
from fedloge.models.norm import norm_parameters, norm_statistics

__all__ = [
    "NORM_LAYERS",
    "Backbone",
    "FixedHead",
    "LinearHead",
    "Network",
    "Part",
    "Predictor",
    "Scalar",
    "build_backbone",
    "linear",
    "norm_parameters",
    "norm_statistics",
    "parts_of_tensors",
]
