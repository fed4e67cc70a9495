"""Where data sets come from: one loader per source, by name."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fedloge.config import Config
from fedloge.data.catalogue import InputOptions
from fedloge.data.csv_tables import parse_columns
from fedloge.data.examples import DataSet, Examples
from fedloge.data.folder import Images, ImageSet, load_images
from fedloge.data.image_preparation import Augmentation, ImagePreparation, channel_statistics
from fedloge.data.images.decoding import Decoding
from fedloge.data.images.window import parse_window
from fedloge.data.layouts import FORMS
from fedloge.data.manifest import Manifest
from fedloge.data.speeches import installed_speeches, load_speeches
from fedloge.errors import ConfigError, DataError, PluginError
from fedloge.folders import cache_folder
from fedloge.plugins import load_plugin

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10

# Keys that only image folders read.
_FOLDER_KEYS = (
    *("image-size", "resize", "interpolation", "window"),
    *("table", "columns", "layout", "missing", "bad-files"),
)

# scikit-learn and torchvision take seconds to import, so only the sources that need them do.


def load_dataset(config: Config) -> DataSet:
    """The whole source named by ``dataset``, before any long tail is cut from it.

    ``dataset`` may also name a function of the user's own, by entry point, ``package.module:name``
    or ``path/to/file.py:name``. It takes the config and returns a `DataSet`. Images are augmented
    as ``augment`` says; ``auto`` leaves the choice to the source.

    Raises
    ------
    PluginError
        No such source, or it cannot be imported.
    ConfigError
        ``augment`` or ``image-size`` is set for a source that does not read it.
    DataError
        The data are missing, unreadable or not of the expected form.
    """
    source = load_plugin(config.dataset, "fedloge.datasets", SOURCES, "dataset")
    data = source(config)
    if not isinstance(data, DataSet):
        raise PluginError(
            f"dataset {config.dataset!r}: expected a fedloge.data.DataSet, got {type(data).__name__}"
        )
    if config.augment == "auto":
        return data
    if not isinstance(data.preparation, ImagePreparation):
        raise ConfigError(
            f"augment: {config.augment!r} is for images, and dataset {config.dataset!r} has none; "
            "leave it at auto"
        )
    preparation = dataclasses.replace(data.preparation, augmentation=config.augment)
    return dataclasses.replace(data, preparation=preparation)


def _digits(config: Config) -> DataSet:
    """scikit-learn's 8x8 digits (Alpaydin and Kaynak, 1998); test: the last 50 of each class."""
    _refuse_folder_keys(config)
    table = _digits_table()
    labels = table[:, -1].astype(np.int64)
    pixels = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    by_class = [np.flatnonzero(labels == c) for c in range(10)]
    per_class = min(map(len, by_class)) - 50
    # In the source's own order, so that the classes stay mixed as they are there.
    train = np.sort(np.concatenate([images[:per_class] for images in by_class]))
    test = np.sort(np.concatenate([images[-50:] for images in by_class]))
    mean, std = channel_statistics(pixels[train])
    return DataSet(
        name="digits",
        train=Examples(torch.from_numpy(pixels[train]), torch.from_numpy(labels[train])),
        test=Examples(torch.from_numpy(pixels[test]), torch.from_numpy(labels[test])),
        classes=tuple(str(c) for c in range(10)),
        preparation=ImagePreparation(mean, std, "crop"),
        train_manifest=Manifest({"path": [f"digits/{row}" for row in train]}),
        test_manifest=Manifest({"path": [f"digits/{row}" for row in test]}),
    )


def _digits_table() -> NDArray[np.float64]:
    # One row per image: 64 pixels of 0..16, then the label. The file of scikit-learn is read
    # directly, because importing scikit-learn takes longer than the quick start's first rounds.
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
        preparation = ImagePreparation(mean, std, "crop-flip")
        return dataclasses.replace(
            _image_folder(config), name=config.dataset, preparation=preparation
        )
    _refuse_folder_keys(config)
    folder = folder or cache_folder(config.cache_dir) / "cifar"
    train, test = _cifar_split(source, folder, True), _cifar_split(source, folder, False)
    return DataSet(
        name=config.dataset,
        train=_cifar_examples(train),
        test=_cifar_examples(test),
        classes=tuple(train.classes),
        preparation=ImagePreparation(mean, std, "crop-flip"),
        train_manifest=Manifest({"path": [f"train/{row}" for row in range(len(train.targets))]}),
        test_manifest=Manifest({"path": [f"test/{row}" for row in range(len(test.targets))]}),
    )


def _refuse_folder_keys(config: Config) -> None:
    values = config.flat()
    for key in _FOLDER_KEYS:
        if values[key] != type(config).model_fields[key.replace("-", "_")].default:
            raise ConfigError(
                f"{key}: dataset {config.dataset!r} is taken at its own size, got {values[key]!r}; leave it out"
            )


def decoding_of(config: Config) -> Decoding:
    """How the config wants image files decoded; `ConfigError` for a window of another form."""
    try:
        parse_window(config.window)
    except ValueError as exc:
        raise ConfigError(f"window: {exc}") from None
    return Decoding(config.image_size, config.resize, config.interpolation, config.window)


def _cifar_split(source: type[CIFAR10], folder: Path, train: bool) -> CIFAR10:
    with contextlib.suppress(RuntimeError):  # "not found or corrupted": download it below
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


def _cifar_examples(split: CIFAR10) -> Examples:
    pixels = np.ascontiguousarray(split.data.transpose(0, 3, 1, 2))
    return Examples(torch.from_numpy(pixels), torch.tensor(split.targets, dtype=torch.int64))


def _image_folder(config: Config) -> DataSet:
    """The user's own images, in any of the layouts of `fedloge.data.catalogue`."""
    if not config.data_path:
        raise DataError(
            f"dataset 'image-folder' needs data-path: a folder or an archive, with {FORMS}"
        )
    images = load_images(
        Path(config.data_path).expanduser(),
        decoding_of(config),
        _input_options(config),
        cache_folder(config.cache_dir),
    )
    return _data_set("image-folder", images, images.mean, images.std, "crop-flip")


def _input_options(config: Config, classes: Sequence[str] | None = None) -> InputOptions:
    return InputOptions(
        table=config.table,
        columns=parse_columns(config.columns),
        layout=config.layout,
        missing=config.missing,
        bad_files=config.bad_files,
        classes=classes,
    )


def _data_set(
    name: str,
    images: ImageSet,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Augmentation,
) -> DataSet:
    return DataSet(
        name=name,
        train=_examples(images.train, images.classes),
        test=_examples(images.test, images.classes),
        classes=images.classes,
        preparation=ImagePreparation(mean, std, augmentation),
        train_manifest=images.train.rows,
        test_manifest=images.test.rows,
    )


def _examples(images: Images, classes: Sequence[str]) -> Examples:
    number = {name: c for c, name in enumerate(classes)}
    labels = [number[name] for name in images.rows.column("label")] if len(images.rows) else []
    pixels, known = torch.from_numpy(images.pixels), images.checks
    return Examples(pixels, torch.tensor(labels, dtype=torch.int64), known)


def load_own_images(config: Config, folder: Path) -> DataSet:
    """One site's images, of the classes that the config names, with or without a split.

    Classes and splits may be missing. Pixels in [0, 1] are normalised with mean 0.5 and standard
    deviation 0.5 at every site. With statistics of its own each site would normalise the same image
    differently, and common statistics would have to be sent.

    Raises
    ------
    DataError
        The folder holds no images, a class that is not in the list, or an unreadable image.
    """
    images = load_images(
        folder.expanduser(),
        decoding_of(config),
        _input_options(config, config.class_names),
        cache_folder(config.cache_dir),
    )
    augmentation: Augmentation = "crop-flip" if config.augment == "auto" else config.augment
    middle = (0.5,) * 3
    return _data_set(config.dataset, images, middle, middle, augmentation)


def _sotu(config: Config) -> DataSet:
    """Annual messages of the presidents, by word; see `fedloge.data.speeches`."""
    return _speeches(config, characters=False)


def _sotu_characters(config: Config) -> DataSet:
    """The same by character."""
    return _speeches(config, characters=True)


def _speeches(config: Config, *, characters: bool) -> DataSet:
    _refuse_folder_keys(config)
    folder = Path(config.data_path).expanduser() if config.data_path else installed_speeches()
    return load_speeches(folder, characters=characters)


SOURCES: Mapping[str, Callable[[Config], DataSet]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "cifar100": _cifar100,
    "image-folder": _image_folder,
    "sotu": _sotu,
    "sotu-characters": _sotu_characters,
}
