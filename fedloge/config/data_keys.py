"""The keys of a config that say what it is trained on, and who holds what."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN, Table


class DataKeys(pydantic.BaseModel):
    """What it is trained on."""

    model_config = STRICT_AND_FROZEN

    dataset: str = Field("digits", description="digits, cifar10, cifar100 or image-folder")
    data_path: str = Field("", description="folder or archive of the data set")
    cache_dir: str = Field(
        "",
        description="where downloads and decoded images are kept; empty: the user's cache folder",
    )
    image_size: int = Field(
        0, ge=0, le=1024, description="image-folder: resize to squares of this side; 0: do not"
    )
    resize: Literal["squash", "crop", "pad"] = Field(
        "squash",
        description="with image-size: squash to a square, crop the middle square, or pad with black",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        "bilinear", description="with image-size: how images are resampled"
    )
    window: str = Field(
        "",
        description='of images wider than a byte: "LOW HIGH" become 0 and 255, others are refused; "LOW HIGH '
        "clip\" cuts them off; dicom: each DICOM file's own",
    )
    long_tail: Literal["exp", "step", "none"] = Field("exp", description="shape of the long tail")
    imbalance_factor: float = Field(0.02, gt=0, le=1, description="smallest over largest class")
    augment: Literal["auto", "crop-flip", "crop", "none"] = Field(
        "auto", description="training augmentation; auto: what suits the data set"
    )


class ClientKeys(pydantic.BaseModel):
    """Who holds what."""

    model_config = STRICT_AND_FROZEN

    partitioner: str = Field(
        "dirichlet", description="a partitioner's name, a dotted name or path/to/file.py:function"
    )
    partitioner_options: Table = Field(
        default_factory=dict, description="the partitioner's own options, as a table"
    )
    num_clients: int = Field(20, ge=1, description="clients in the federation")
    clients_per_round: int = Field(8, ge=1, description="clients drawn per round")
