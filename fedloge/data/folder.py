"""Images as people have them, in a folder, an archive, or beside a table: listed, then decoded once."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt32

from fedloge.data.catalogue import InputOptions, catalogue
from fedloge.data.decoding_progress import decoding_shown
from fedloge.data.image_preparation import channel_statistics
from fedloge.data.images.decoding import Decoding
from fedloge.data.images.file_tree import listed
from fedloge.data.images.pixel_store import Wanted, stored_pixels
from fedloge.data.manifest import Manifest
from fedloge.errors import DataError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images:
    """The images of one split.

    Parameters
    ----------
    rows : what is known of each; class by class, and by path within a class.
    pixels : (images, 3, height, width), 0..255.
    checks : the CRC-32 of each image's pixels.
    """

    rows: Manifest
    pixels: UInt8[np.ndarray, "images 3 height width"]
    checks: UInt32[np.ndarray, " images"]


@dataclass(frozen=True)
class ImageSet:
    """Decoded images.

    Parameters
    ----------
    classes : names; a label is a position among them.
    train, test : the images; either may be empty.
    mean, std : of each channel over the training images, with pixels scaled to [0, 1].
    """

    classes: tuple[str, ...]
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_images(path: Path, how: Decoding, options: InputOptions, cache: Path) -> ImageSet:
    """Decode the images of a folder or archive, or open what was decoded before.

    Parameters
    ----------
    path : a folder, a tar archive (plain, gz, bz2, xz) or a zip archive, or a table whose images lie
        beside it, in any layout that `fedloge.data.catalogue.catalogue` knows. Hidden files are passed
        over. Classes are in alphabetical order.
    how : how image files are decoded; without a size they have one size already.
    options : how the data set is to be read.
    cache : where decoded images are kept. If it cannot be written they stay in memory, with a
        warning.

    Raises
    ------
    DataError
        There is nothing such at `path`, its parts do not fit together, an image cannot be decoded or
        has another size, an archive is cut short, or a class has no images.
    """
    listing = catalogue(path, cache, options)
    if not listing.files and options.classes is None:
        raise DataError(f"{path}: no images in it are left to train on")
    wanted = Wanted(
        listing.tree,
        listing.files,
        listing.num_train,
        how,
        channel_statistics,
        skip_bad=options.bad_files == "skip",
    )
    with decoding_shown(len(listing.files)) as tell:
        stored = stored_pixels(wanted, cache, tell)
    rows = listing.rows
    if stored.bad:
        log.warning(
            "%s: %s files that cannot be decoded are left out: %s",
            path,
            f"{len(stored.bad):,}",
            listed(stored.bad),
        )
        rows = rows.take(np.asarray(stored.kept, dtype=np.int64))
    train = int(np.searchsorted(np.asarray(stored.kept, dtype=np.int64), listing.num_train))
    images = ImageSet(
        listing.classes,
        Images(rows.take(np.arange(train)), stored.pixels[:train], stored.checks[:train]),
        Images(
            rows.take(np.arange(train, len(rows))), stored.pixels[train:], stored.checks[train:]
        ),
        stored.mean,
        stored.std,
    )
    if stored.bad and options.classes is None:
        _check_nothing_lost(path, images)
    return images


def _check_nothing_lost(path: Path, images: ImageSet) -> None:
    lost = set(images.classes) - set(images.train.rows.column("label"))
    if lost:
        raise DataError(
            f"{path}: no image of class {min(lost)!r} for training can be decoded; mend them, or take the "
            "class out"
        )
