"""Networks: backbones that turn inputs into features, heads on top of them, and a method's parts."""

from fedloge.models.adapters import ResidualAdapter
from fedloge.models.backbone import Backbone
from fedloge.models.build import build_backbone, warn_of_small_stem
from fedloge.models.head import FixedHead, LinearHead, Predictor, Scalar, linear
from fedloge.models.kept_outputs import Keeper
from fedloge.models.network import NORM_LAYERS, Network, Part, parts_of_tensors
from fedloge.models.norm import norm_parameters, norm_statistics
from fedloge.models.pretrained import Pretrained, names_a_file, pretrained
from fedloge.models.scaled_features import SAMPLE, StandardFeatures, UnitFeatures
from fedloge.models.train_part import Parted, parted

__all__ = [
    "NORM_LAYERS",
    "SAMPLE",
    "Backbone",
    "FixedHead",
    "Keeper",
    "LinearHead",
    "Network",
    "Part",
    "Parted",
    "Predictor",
    "Pretrained",
    "ResidualAdapter",
    "Scalar",
    "StandardFeatures",
    "UnitFeatures",
    "build_backbone",
    "linear",
    "names_a_file",
    "norm_parameters",
    "norm_statistics",
    "parted",
    "parts_of_tensors",
    "pretrained",
    "warn_of_small_stem",
]
