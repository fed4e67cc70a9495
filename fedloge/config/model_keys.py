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
        description="backbone: cnn, resnet8, resnet18 or resnet34 for small images; torchvision/NAME or "
        "timm/NAME for large ones; identity for features; or path/to/file.py:Class",
    )
    model_options: Table = Field(
        default_factory=dict, description="the model's own options, as a table"
    )
    weights: str = Field(
        "",
        description="pretrained weights of the backbone: a safetensors or weights-only file, or a tag of the "
        "model's hub (hub: the usual one); empty: random weights",
    )
    preprocessing: Literal["auto", "data-set"] = Field(
        "auto",
        description="size, crop, interpolation and normalisation of images; auto: what the weights expect, "
        "if there are any; data-set: as without them",
    )
    train_part: Literal["all", "last-stage", "norm", "adapter", "low-rank", "none"] = Field(
        "all",
        description="what of the backbone is trained; the rest is fixed and never sent, and with last-stage, "
        "adapter and none its outputs are computed once and kept",
    )
    train_part_options: Table = Field(
        default_factory=dict, description="options of what is trained, as a table"
    )
    feature_views: Literal[1, 2] = Field(
        1, description="kept outputs of every image: its own, or also those of its mirror image"
    )
    feature_scale: Literal["auto", "standard", "l2", "none"] = Field(
        "auto",
        description="features brought to length 8: standard, each to mean 0 and one deviation; l2, each example; "
        "auto: with weights standard, or l2 where sites hold their own examples, else none",
    )
    init_head: Literal["none", "closed-form"] = Field(
        "none",
        description="how shared heads start: drawn, or by ridge regression on all clients' features (sums are sent)",
    )
    init_head_scale: float = Field(
        10.0, gt=0, description="of init-head: factor of the head that ridge regression gives"
    )
    norm: Literal["batch", "group"] = Field(
        "batch", description="normalisation layers of the backbone"
    )
    norm_sharing: Literal["all", "affine", "none"] = Field(
        "all",
        description="what of the norm layers is averaged: all; affine (running statistics stay with "
        "each client); none (FedBN: the layers stay with each client)",
    )
