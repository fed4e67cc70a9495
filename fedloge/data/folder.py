"""Image folders, ``train/<class>/*`` and ``test/<class>/*``, on disk or in a tar archive."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from jaxtyping import UInt8

from fedloge.data.cache import (
    SPLITS,
    Decoded,
    map_pixels,
    open_entry,
    pixel_file,
    staged,
    write_manifest,
)
from fedloge.data.image_preparation import channel_statistics
from fedloge.data.images.decoding import BadImageError, Decoding, decode
from fedloge.digest import digest
from fedloge.errors import DataError, unknown_name

log = logging.getLogger(__name__)

Shape = tuple[int, int, int]

_LAYOUT = "expected train/<class>/<image> and test/<class>/<image>"


def load_image_folder(
    path: Path, how: Decoding, cache: Path, classes: Sequence[str] | None = None
) -> Decoded:
    """Decode an image folder or archive, or open what was decoded before.

    Parameters
    ----------
    path : a folder or a tar archive (plain, gz, bz2, xz). It holds ``train`` and ``test``, or one
        folder that holds them. Classes are the folder names in alphabetical order. The images
        of a class are ordered by file name. Hidden files are ignored.
    how : how image files are decoded; without a size they have one size already.
    cache : where the decoded images are kept, by the content of `path`. If it cannot be
        written they stay in memory, with a warning.
    classes : all class names, if `path` is one site's part of a data set. It may then lack some
        classes, or a whole split. Needs a size in `how`.

    Raises
    ------
    DataError
        `path` is no such folder or archive, an image is unreadable or of another size, an
        archive is cut short, the classes of train and test differ, or a class has no images.
    """
    try:
        source = _open(path, partial=classes is not None)
        described = [str(path.resolve()), how.described(), source.identity()]
        identity = json.dumps(described if classes is None else [*described, sorted(classes)])
    except OSError as exc:
        raise DataError(f"{exc.filename or path}: cannot be read ({exc.strerror})") from None
    entry = cache / f"images-{digest(identity.encode())}"
    stored = open_entry(entry)
    if stored is not None:
        return stored
    try:
        with staged(entry) as folder:
            _decode_to_folder(source, how, folder, classes)
        stored = open_entry(entry)
    except OSError as exc:
        log.warning(
            "decoded images cannot be kept in %s (%s); decoding %s into memory, set cache-dir",
            cache,
            exc.strerror or exc,
            path,
        )
    return stored if stored is not None else _decode_to_memory(source, how, classes)


@dataclass(frozen=True)
class _File:
    """One image file, not yet decoded. An empty `name` only says that the class exists."""

    split: str
    label: str
    name: str
    data: bytes

    def __str__(self) -> str:
        return f"{self.split}/{self.label}/{self.name}"


class _Folder:
    """The image files of a folder, in order."""

    def __init__(self, path: Path, partial: bool) -> None:
        self.path = path
        enough = any if partial else all
        roots = [path, *_visible(path)]
        roots = [r for r in roots if enough((r / split).is_dir() for split in SPLITS)]
        if not roots:
            missing = [split for split in SPLITS if not (path / split).is_dir()]
            raise DataError(f"{path}: no folder {' or '.join(missing)} in it; {_LAYOUT}")
        self.root = roots[0]
        if self.root != path and len(roots) > 1:
            raise DataError(f"{path}: {len(roots)} folders in it hold train and test; name one")

    def identity(self) -> list[Any]:
        """Names, sizes and dates, which change when a file does."""
        listing: list[Any] = []
        for split, folder, files in self._classes():
            stats = [(file.name, file.stat()) for file in files]
            listing.append([split, folder.name, [[n, s.st_size, s.st_mtime_ns] for n, s in stats]])
        return listing

    def __iter__(self) -> Iterator[_File]:
        for split, folder, files in self._classes():
            yield _File(split, folder.name, "", b"")
            for file in files:
                try:
                    data = file.read_bytes()
                except OSError as exc:
                    raise DataError(f"{file}: cannot be read ({exc.strerror})") from None
                yield _File(split, folder.name, file.name, data)

    def _classes(self) -> Iterator[tuple[str, Path, list[Path]]]:
        for split in filter(lambda split: (self.root / split).is_dir(), SPLITS):
            for folder in filter(Path.is_dir, _visible(self.root / split)):
                yield split, folder, _visible(folder)


class _Archive:
    """The image files of a tar archive, in the archive's order: read as a stream, never unpacked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def identity(self) -> list[Any]:
        """Size and date, which change when the archive does."""
        stat = self.path.stat()
        return [stat.st_size, stat.st_mtime_ns]

    def __iter__(self) -> Iterator[_File]:
        opened = False
        try:
            with ExitStack() as stack:
                stream = stack.enter_context(_decompressed(self.path))
                tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))
                opened = True
                prefix: str | None = None
                for member in tar:
                    place = _place(member)
                    if place is None:
                        continue
                    file_prefix, split, label, name = place
                    if prefix not in (None, file_prefix):
                        raise DataError(
                            f"{self.path}: both {prefix!r} and {file_prefix!r} hold train or test; "
                            "give an archive of one data set"
                        )
                    prefix = file_prefix
                    content = tar.extractfile(member) if name else None
                    yield _File(split, label, name, content.read() if content else b"")
                _drain(stream)
                end = tar.offset
            if isinstance(stream, io.BufferedReader) and not _ends_well(self.path, end):
                raise EOFError("no end-of-archive mark")
        except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as exc:
            if isinstance(exc, tarfile.TarError) and not opened:
                raise DataError(
                    f"{self.path}: unsupported file; expected a folder, or a tar archive "
                    "(plain, .gz, .bz2 or .xz)"
                ) from None
            raise DataError(
                f"{self.path}: cannot be read to its end ({exc}); cut short? Get the archive again"
            ) from None


def _open(path: Path, *, partial: bool) -> _Folder | _Archive:
    if path.is_dir():
        return _Folder(path, partial)
    if path.is_file():
        return _Archive(path)
    raise DataError(f"data-path {str(path)!r}: no such folder or archive; {_LAYOUT} in it")


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as f:
        magic = f.read(6)
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path)
    if magic.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(path)  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return bz2.open(path)
    return path.open("rb")


def _place(member: tarfile.TarInfo) -> tuple[str, str, str, str] | None:
    """(folder of the split or "", split, class, file name or ""); None for a member to be ignored."""
    parts = PurePosixPath(member.name).parts
    if ".." in parts or member.name.startswith("/") or any(p.startswith(".") for p in parts):
        return None
    depth = next((i for i, part in enumerate(parts[:2]) if part in SPLITS), None)
    if depth is None:
        return None
    prefix, rest = "/".join(parts[:depth]), parts[depth:]
    if member.isdir() and len(rest) == 2:
        return prefix, rest[0], rest[1], ""
    if member.isreg() and len(rest) == 3:
        return prefix, rest[0], rest[1], rest[2]
    if member.isreg() and len(rest) > 3:
        raise DataError(f"{member.name}: folders inside a class are not supported; {_LAYOUT}")
    return None


def _drain(stream: IO[bytes]) -> None:
    # A compressed stream verifies its checksum, and notices that it was cut short, at its end only.
    while stream.read(1 << 20):
        pass


def _ends_well(path: Path, offset: int) -> bool:
    # tarfile mistakes a damaged or missing header for the end. The true end is a block of zeros.
    with path.open("rb") as f:
        f.seek(offset)
        return f.read(512) == bytes(512)


def _decode_to_folder(
    source: _Folder | _Archive, how: Decoding, folder: Path, known: Sequence[str] | None
) -> None:
    with ExitStack() as stack:
        sinks = {s: stack.enter_context(pixel_file(folder, s).open("wb")) for s in SPLITS}
        names, shape = _decode_all(source, how, sinks, known)
    orders, pixels = _orders(names), {}
    for split in SPLITS:
        file = pixel_file(folder, split)
        pixels[split] = map_pixels(file, shape)
        if np.any(np.diff(orders[split]) < 0):
            with file.with_suffix(".sorted").open("wb") as f:
                for chunk in np.array_split(orders[split], 1 + len(orders[split]) // 1024):
                    f.write(pixels[split][chunk].tobytes())
            pixels[split] = map_pixels(file.with_suffix(".sorted").replace(file), shape)
    write_manifest(folder, _describe(names, pixels, known))


def _decode_to_memory(
    source: _Folder | _Archive, how: Decoding, known: Sequence[str] | None
) -> Decoded:
    sinks = {split: io.BytesIO() for split in SPLITS}
    names, shape = _decode_all(source, how, sinks, known)
    orders, pixels = _orders(names), {}
    for split in SPLITS:
        images = np.frombuffer(sinks[split].getbuffer(), dtype=np.uint8).reshape(-1, *shape)
        pixels[split] = images[orders[split]]
    return _describe(names, pixels, known)


Names = Mapping[str, list[tuple[str, str]]]


def _decode_all(
    source: _Folder | _Archive,
    how: Decoding,
    sinks: Mapping[str, IO[bytes]],
    known: Sequence[str] | None,
) -> tuple[Names, Shape]:
    """Write all pixels in the source's order; returns (class, name) of each image, and its shape."""
    names: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    classes: dict[str, set[str]] = {split: set() for split in SPLITS}
    first: tuple[_File, Shape] | None = None
    for file in source:
        classes[file.split].add(file.label)
        if not file.name:
            continue
        image = _decode(file, how, source.path)
        shape: Shape = image.shape
        if first is None:
            first = file, shape
        elif shape != first[1]:
            raise DataError(
                f"{source.path}: {first[0]} is {_size(first[1])} but {file} is {_size(shape)}; "
                "set image-size to resize them to one size"
            )
        sinks[file.split].write(image.tobytes())
        names[file.split].append((file.label, file.name))
    _check_images(source.path, names)
    if known is not None:
        _check_known(source.path, classes, known)
        return names, (3, how.image_size, how.image_size)
    _check_classes(source.path, names, classes)
    if first is None:
        raise DataError(f"{source.path}: no images in it; {_LAYOUT}")
    return names, first[1]


def _decode(file: _File, how: Decoding, path: Path) -> UInt8[np.ndarray, "3 height width"]:
    try:
        return decode(file.data, file.name, how)
    except BadImageError as exc:
        raise DataError(f"{path}: {file} cannot be decoded ({exc}); mend or remove it") from None


def _check_images(path: Path, names: Names) -> None:
    for split in SPLITS:
        if len(set(names[split])) < len(names[split]):
            raise DataError(f"{path}: an image is in {split} twice; make the archive anew")


def _check_known(path: Path, classes: Mapping[str, set[str]], known: Sequence[str]) -> None:
    for split in SPLITS:
        unknown = classes[split] - set(known)
        if unknown:
            raise DataError(f"{path}: {split}: {unknown_name('class', min(unknown), known)}")


def _check_classes(path: Path, names: Names, classes: Mapping[str, set[str]]) -> None:
    for split in SPLITS:
        if not classes[split]:
            raise DataError(f"{path}: no classes in {split}; {_LAYOUT}")
        empty = classes[split] - {label for label, _ in names[split]}
        if empty:
            raise DataError(f"{path}: {split}/{min(empty)} holds no images; add some or remove it")
    only = classes["train"] ^ classes["test"]
    if only:
        has, lacks = SPLITS if min(only) in classes["train"] else SPLITS[::-1]
        raise DataError(
            f"{path}: class {min(only)!r} is in {has} but not in {lacks}; both need the same ones"
        )


def _orders(names: Names) -> dict[str, np.ndarray]:
    return {s: np.array(sorted(range(len(names[s])), key=names[s].__getitem__)) for s in SPLITS}


def _describe(
    names: Names, pixels: Mapping[str, np.ndarray], known: Sequence[str] | None
) -> Decoded:
    counted = {split: Counter(label for label, _ in names[split]) for split in SPLITS}
    classes = sorted(counted["train"] if known is None else known)
    mean, std = (
        channel_statistics(pixels["train"]) if len(pixels["train"]) else ((0.0,) * 3, (1.0,) * 3)
    )
    return Decoded(
        classes=tuple(classes),
        counts={split: tuple(counted[split][c] for c in classes) for split in SPLITS},
        files={
            split: tuple("/".join((split, *name)) for name in sorted(names[split]))
            for split in SPLITS
        },
        pixels=pixels,
        mean=mean,
        std=std,
    )


def _size(shape: Shape) -> str:
    return f"{shape[2]}x{shape[1]}"
