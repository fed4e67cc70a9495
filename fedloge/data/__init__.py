"""Data sets as tensors: where they come from, long tails, augmentation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Imported when first asked for: processes that decode images need none of it, and torch takes seconds.
_HOMES = {
    "csv_tables": ("read_table",),
    "examples": ("AsTheyAre", "DataSet", "Examples", "Preparation"),
    "image_preparation": ("Augmentation", "ImagePreparation", "augment", "normalise"),
    "longtail": ("long_tail_counts", "long_tail_indices"),
    "manifest": ("Manifest",),
    "preparation": ("preparation_of",),
    "sources": ("load_dataset",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"fedloge.data.{module}"), name)
    raise AttributeError(f"module 'fedloge.data' has no attribute {name!r}")
