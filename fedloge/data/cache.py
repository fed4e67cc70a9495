"""Decoded images on disk, mapped into memory: decoded once, shared by all processes."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

SPLITS = ("train", "test")

# Part of every manifest: raise it when the content of an entry changes.
_FORMAT = 2


@dataclass(frozen=True)
class Decoded:
    """A decoded image set, class by class.

    Parameters
    ----------
    classes : names, ascending.
    counts : for ``train`` and ``test``, how many images each class has.
    files : for ``train`` and ``test``, the path of each image within the set, in the order of `pixels`.
    pixels : for ``train`` and ``test``, (images, channels, height, width), 0..255.
    mean, std : of each channel over the training images, with pixels scaled to [0, 1].
    """

    classes: tuple[str, ...]
    counts: Mapping[str, tuple[int, ...]]
    files: Mapping[str, tuple[str, ...]]
    pixels: Mapping[str, UInt8[np.ndarray, "images channels height width"]]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pixel_file(folder: Path, split: str) -> Path:
    """Where an entry keeps the pixels of a split: the bytes of one array, nothing else."""
    return folder / f"{split}.u8"


def open_entry(folder: Path) -> Decoded | None:
    """The images of an entry, mapped copy-on-write; None if the entry is missing or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != _FORMAT:
            return None
        counts = {split: tuple(manifest["counts"][split]) for split in SPLITS}
        pixels = {
            split: map_pixels(pixel_file(folder, split), tuple(manifest["shape"]))
            for split in SPLITS
        }
        if any(len(pixels[split]) != sum(counts[split]) for split in SPLITS):
            return None
        mean, std = tuple(manifest["mean"]), tuple(manifest["std"])
        files = {split: tuple(manifest["files"][split]) for split in SPLITS}
        return Decoded(tuple(manifest["classes"]), counts, files, pixels, mean, std)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def map_pixels(path: Path, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "n c h w"]:
    """Map a file of images of one shape; raises ValueError if its last image is cut short."""
    if path.stat().st_size == 0:
        return np.empty((0, *shape), dtype=np.uint8)
    # Copy-on-write, because torch asks for writable memory but the file must never change.
    return np.memmap(path, dtype=np.uint8, mode="c").reshape(-1, *shape)


def write_manifest(folder: Path, decoded: Decoded) -> None:
    """Complete an entry whose pixel files are written."""
    manifest = {
        "format": _FORMAT,
        "classes": decoded.classes,
        "counts": decoded.counts,
        "files": decoded.files,
        "shape": decoded.pixels["train"].shape[1:],
        "mean": decoded.mean,
        "std": decoded.std,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@contextlib.contextmanager
def staged(entry: Path) -> Iterator[Path]:
    """A temporary folder that becomes `entry` if the block succeeds.

    So an entry is either whole or missing. If two processes make the same one at once, the
    first to finish wins. Raises OSError if the folder cannot be written.
    """
    entry.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", dir=entry.parent))
    try:
        yield folder
        if open_entry(entry) is None:
            shutil.rmtree(entry, ignore_errors=True)
            try:
                folder.rename(entry)
            except OSError:
                if open_entry(entry) is None:
                    raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
