"""Data sets as tensors: where they come from, long tails, augmentation."""

from fedloge.data.csv_tables import read_table
from fedloge.data.examples import AsTheyAre, DataSet, Examples, Preparation
from fedloge.data.image_preparation import Augmentation, ImagePreparation, augment, normalise
from fedloge.data.longtail import long_tail_counts, long_tail_indices
from fedloge.data.manifest import Manifest
from fedloge.data.preparation import preparation_of
from fedloge.data.sources import load_dataset

__all__ = [
    "AsTheyAre",
    "Augmentation",
    "DataSet",
    "Examples",
    "ImagePreparation",
    "Manifest",
    "Preparation",
    "augment",
    "load_dataset",
    "long_tail_counts",
    "long_tail_indices",
    "normalise",
    "preparation_of",
    "read_table",
]
