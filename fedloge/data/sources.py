"""Where images come from: one loader a source, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import torch
from sklearn.datasets import load_digits

from fedloge.config import Config
from fedloge.data.images import DataSet, Images, channel_statistics
from fedloge.errors import ConfigError, unknown_name


def load_dataset(config: Config) -> DataSet:
    """The whole source named by ``dataset``, before any long tail is cut from it.

    Its `augment` is the config's, or, for ``auto``, what suits the source.

    Raises
    ------
    ConfigError
        No such source.
    DataError
        It is not where it should be, or not as it should be.
    """
    if config.dataset not in SOURCES:
        raise ConfigError(unknown_name("dataset", config.dataset, SOURCES))
    data = SOURCES[config.dataset](config)
    if config.augment == "auto":
        return data
    return dataclasses.replace(data, augment=config.augment)


def _digits(config: Config) -> DataSet:
    """scikit-learn's 8x8 digits (Alpaydin and Kaynak, 1998); test: the last 50 of each class."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    by_class = [np.flatnonzero(digits.target == c) for c in range(10)]
    per_class = min(map(len, by_class)) - 50
    # In the source's own order, so that the classes stand mixed as they do there.
    train = np.sort(np.concatenate([images[:per_class] for images in by_class]))
    test = np.sort(np.concatenate([images[-50:] for images in by_class]))
    mean, std = channel_statistics(pixels[train])
    labels = digits.target.astype(np.int64)
    return DataSet(
        name="digits",
        train=Images(torch.from_numpy(pixels[train]), torch.from_numpy(labels[train])),
        test=Images(torch.from_numpy(pixels[test]), torch.from_numpy(labels[test])),
        classes=tuple(str(c) for c in range(10)),
        mean=mean,
        std=std,
        augment="crop",
    )


SOURCES: Mapping[str, Callable[[Config], DataSet]] = {
    "digits": _digits,
}
