"""Data sets as tensors: where they come from, long tails, augmentation."""

from fedloge.data.examples import AsTheyAre, DataSet, Examples, Preparation
from fedloge.data.image_preparation import Augmentation, ImagePreparation, augment, normalise
from fedloge.data.longtail import long_tail_counts, long_tail_indices
from fedloge.data.preparation import preparation_of
from fedloge.data.sources import load_dataset

__all__ = [
    "AsTheyAre",
    "Augmentation",
    "DataSet",
    "Examples",
    "ImagePreparation",
    "Preparation",
    "augment",
    "load_dataset",
    "long_tail_counts",
    "long_tail_indices",
    "normalise",
    "preparation_of",
]
