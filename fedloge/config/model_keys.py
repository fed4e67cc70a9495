"""The keys of a config that say what is trained."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN, Table


class ModelKeys(pydantic.BaseModel):
    """What is trained: the method and its backbone."""

    model_config = STRICT_AND_FROZEN

    method: str = Field(
        "fedloge", description="a method's name, a dotted name or path/to/file.py:Class"
    )
    method_options: Table = Field(
        default_factory=dict, description="the method's own options, as a table"
    )
    model: str = Field(
        "cnn",
        description="backbone: cnn, resnet8, resnet18, resnet34, resnet50, or a torchvision model",
    )
    model_options: Table = Field(
        default_factory=dict, description="the model's own options, as a table"
    )
    norm: Literal["batch", "group"] = Field(
        "batch", description="normalisation layers of the backbone"
    )
    norm_sharing: Literal["all", "affine", "none"] = Field(
        "all",
        description="what of the norm layers is averaged: all; affine (running statistics stay with "
        "each client); none (FedBN: the layers stay with each client)",
    )
