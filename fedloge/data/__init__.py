"""Data sets as tensors: sources, long tail, augmentation."""

from fedloge.data.augment import augment, normalise
from fedloge.data.images import Augmentation, DataSet, Images
from fedloge.data.longtail import long_tail_counts, long_tail_indices
from fedloge.data.sources import load_dataset

__all__ = [
    "Augmentation",
    "DataSet",
    "Images",
    "augment",
    "load_dataset",
    "long_tail_counts",
    "long_tail_indices",
    "normalise",
]
