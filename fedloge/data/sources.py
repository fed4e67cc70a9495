"""Where images come from: one loader a source, by name."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.data.cache import Decoded
from fedloge.data.folder import load_image_folder
from fedloge.data.images import DataSet, Images, channel_statistics
from fedloge.errors import ConfigError, DataError, unknown_name
from fedloge.folders import cache_folder

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

# scikit-learn and torchvision take seconds to import: only the source that needs one does.


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
    table = _digits_table()
    labels = table[:, -1].astype(np.int64)
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    by_class = [np.flatnonzero(labels == c) for c in range(10)]
    per_class = min(map(len, by_class)) - 50
    # In the source's own order, so that the classes stand mixed as they do there.
    train = np.sort(np.concatenate([images[:per_class] for images in by_class]))
    test = np.sort(np.concatenate([images[-50:] for images in by_class]))
    mean, std = channel_statistics(pixels[train])
    return DataSet(
        name="digits",
        train=Images(torch.from_numpy(pixels[train]), torch.from_numpy(labels[train])),
        test=Images(torch.from_numpy(pixels[test]), torch.from_numpy(labels[test])),
        classes=tuple(str(c) for c in range(10)),
        mean=mean,
        std=std,
        augment="crop",
    )


def _digits_table() -> NDArray[np.float64]:
    # One row an image: 64 pixels of 0..16, then the label. Read from where scikit-learn keeps it,
    # since to import scikit-learn takes longer than the quick start's first rounds.
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets/data/digits.csv.gz"
        if path.exists():
            with gzip.open(path, "rt") as file:
                return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


def _cifar10(config: Config) -> DataSet:
    """CIFAR-10 (Krizhevsky, 2009)."""
    from torchvision.datasets import CIFAR10

    return _cifar(config, CIFAR10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def _cifar100(config: Config) -> DataSet:
    """CIFAR-100 (Krizhevsky, 2009), its 100 fine classes."""
    from torchvision.datasets import CIFAR100

    return _cifar(config, CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))


def _cifar(
    config: Config,
    source: type[CIFAR10],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> DataSet:
    folder = Path(config.data_path).expanduser() if config.data_path else None
    if folder and (folder.is_file() or (folder / "train").is_dir()):
        # The same images kept as an image folder, or as an archive of one.
        return dataclasses.replace(_image_folder(config), name=config.dataset, mean=mean, std=std)
    folder = folder or cache_folder(config.cache_dir) / "cifar"
    train, test = _cifar_split(source, folder, True), _cifar_split(source, folder, False)
    return DataSet(
        name=config.dataset,
        train=_cifar_images(train),
        test=_cifar_images(test),
        classes=tuple(train.classes),
        mean=mean,
        std=std,
        augment="crop-flip",
    )


def _cifar_split(source: type[CIFAR10], folder: Path, train: bool) -> CIFAR10:
    with contextlib.suppress(RuntimeError):  # "not found or corrupted": get it, then
        return source(folder, train=train)
    try:
        # torchvision draws a progress bar and prints; neither is ours to show.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return source(folder, train=train, download=True)
    except (OSError, RuntimeError) as exc:
        raise DataError(
            f"{source.__name__} is not in {folder} and cannot be downloaded ({exc}); "
            f"put {source.filename} there, or set data-path to the folder that has it"
        ) from None


def _cifar_images(split: CIFAR10) -> Images:
    pixels = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
    return Images(torch.from_numpy(pixels), torch.tensor(split.targets, dtype=torch.int64))


def _image_folder(config: Config) -> DataSet:
    """Images of one's own, ``train/<class>/*`` and ``test/<class>/*``."""
    if not config.data_path:
        raise DataError(
            "dataset 'image-folder' needs data-path: a folder or tar archive with "
            "train/<class>/<image> and test/<class>/<image>"
        )
    decoded = load_image_folder(
        Path(config.data_path).expanduser(), config.image_size, cache_folder(config.cache_dir)
    )
    return DataSet(
        name="image-folder",
        train=_decoded_images(decoded, "train"),
        test=_decoded_images(decoded, "test"),
        classes=decoded.classes,
        mean=decoded.mean,
        std=decoded.std,
        augment="crop-flip",
    )


def _decoded_images(decoded: Decoded, split: str) -> Images:
    counts = torch.tensor(decoded.counts[split])
    labels = torch.arange(len(decoded.classes)).repeat_interleave(counts)
    return Images(torch.from_numpy(decoded.pixels[split]), labels)


def load_own_images(config: Config, folder: Path) -> DataSet:
    """One site's images, ``train/<class>/*`` and ``test/<class>/*``, of the config's `classes`.

    Classes and splits may be missing. Pixels are normalised with 0.5 and 0.5: statistics of
    its own would make each site's inputs another thing, and common ones would have to be sent.

    Raises
    ------
    DataError
        The folder has neither split, a class that is not in the list, or an unreadable image.
    """
    decoded = load_image_folder(
        folder.expanduser(), config.image_size, cache_folder(config.cache_dir), config.class_names
    )
    return DataSet(
        name=config.dataset,
        train=_decoded_images(decoded, "train"),
        test=_decoded_images(decoded, "test"),
        classes=decoded.classes,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        augment="crop-flip" if config.augment == "auto" else config.augment,
    )


SOURCES: Mapping[str, Callable[[Config], DataSet]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "image-folder": _image_folder,
}
