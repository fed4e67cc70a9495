"""The keys of a config that say what it is trained on, and who holds what."""

from __future__ import annotations

from typing import Literal

import pydantic
from pydantic import Field

from fedloge.options import STRICT_AND_FROZEN, Table


class DataKeys(pydantic.BaseModel):
    """What it is trained on."""

    model_config = STRICT_AND_FROZEN

    dataset: str = Field(
        "digits", description="digits, cifar10, cifar100, image-folder, sotu or sotu-characters"
    )
    data_path: str = Field("", description="folder or archive of the data set")
    cache_dir: str = Field(
        "",
        description="where downloads and decoded images are kept; empty: the user's cache folder",
    )
    table: str = Field(
        "",
        description="image-folder: tables of the images, in the data set or by path, separated by commas; "
        "empty: those in it are found; none: no table",
    )
    columns: str = Field(
        "",
        description='image-folder: what columns of a table mean, "site = hospital, label = diagnosis"; of '
        "path, label, site, split, group and id",
    )
    layout: Literal["auto", "classes", "splits", "sites"] = Field(
        "auto",
        description="image-folder: what folders mean; classes: an image's folder is its class, whatever is "
        "above; splits or sites: the first folder is one; auto: by their depth",
    )
    missing: Literal["refuse", "skip"] = Field(
        "refuse",
        description="image-folder: images without a row, rows without an image, doubles, unknown classes; "
        "skip: left out, with a warning",
    )
    bad_files: Literal["refuse", "skip"] = Field(
        "refuse",
        description="image-folder: files that cannot be decoded; skip: left out, with a warning",
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
    long_tail: Literal["auto", "exp", "step", "pareto", "counts", "none"] = Field(
        "auto",
        description="shape of the long tail; auto: exp for a benchmark's data, none for your own",
    )
    long_tail_options: Table = Field(
        default_factory=dict, description="the long tail's own options, as a table"
    )
    imbalance_factor: float = Field(
        0.02, gt=0, le=1, description="smallest over largest class, for exp, step and pareto"
    )
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
    num_clients: int = Field(
        20,
        ge=0,
        description="clients in the federation; 0, for natural and explicit: as many as the data name",
    )
    clients_per_round: int = Field(8, ge=1, description="clients drawn per round")
    split_into: int = Field(
        0,
        ge=0,
        description="clients that the partitioner makes, before small ones are dropped or merged; "
        "0: num-clients",
    )
    min_client_images: int = Field(
        0, ge=0, description="clients with fewer images are small; see small-clients"
    )
    small_clients: Literal["refuse", "drop", "merge"] = Field(
        "refuse", description="what becomes of clients with fewer than min-client-images"
    )
    max_client_images: int = Field(
        0, ge=0, description="a client keeps at most so many images, drawn at random; 0: all"
    )
    held_out_clients: int = Field(
        0, ge=0, description="clients that never train; they are measured apart"
    )
    test_split: Literal["auto", "matched", "given", "own"] = Field(
        "auto",
        description="what a client is tested on: matched (drawn from a common test set), given (the test "
        "images that the data name) or own (a share of its own images)",
    )
    test_share: float = Field(
        0.2, gt=0, lt=1, description="share of its own images that a client is tested on"
    )
