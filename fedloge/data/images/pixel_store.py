"""Decoded images on disk, mapped into memory: decoded once, shared by all processes.

An entry is a folder: the pixels of all images, one after another, and ``entry.json`` with their names,
the CRC-32 of each, and a digest of itself. It comes into being under a name of its own, with a journal
(`fedloge.data.images.pixel_sink.FileSink`), so that decoding goes on where it was killed.

What is checked when: at every opening the digest of ``entry.json``, the length of the pixels, and
the CRC-32 of 64 images spread over the file; by `damaged_images` all of them; when an interrupted
decoding goes on, all that was done before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8, UInt32

from fedloge.data.images.decoding import Decoding
from fedloge.data.images.file_tree import FileTree, StoredFile, listed
from fedloge.data.images.parallel_decoding import Told, decode_files
from fedloge.data.images.pixel_sink import FileSink, MemorySink, Shape
from fedloge.digest import digest
from fedloge.errors import DataError

log = logging.getLogger(__name__)

# Part of every entry: raise it when the content of an entry changes.
_FORMAT = 3
_SAMPLE = 64
# So many bad files are named in the message; where there are more, a file has all.
_SAID = 20
_ENTRY, _PIXELS, _PARTIAL = "entry.json", "pixels.u8", ".partial"

Statistics = Callable[[UInt8[np.ndarray, "n c h w"]], tuple[tuple[float, ...], tuple[float, ...]]]


@dataclass(frozen=True)
class StoredPixels:
    """Decoded images.

    Parameters
    ----------
    pixels : (images, 3, height, width), 0..255.
    kept : for each image, which of the files that were asked for it comes from, ascending.
    bad : the names of files that could not be decoded, and why.
    mean, std : of each channel over the training images, with pixels scaled to [0, 1].
    checks : the CRC-32 of each image, as it was decoded.
    """

    pixels: UInt8[np.ndarray, "images channels height width"]
    kept: Sequence[int]
    bad: Sequence[tuple[str, str]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    checks: UInt32[np.ndarray, " images"]


@dataclass(frozen=True)
class Wanted:
    """Images that are to be decoded.

    Parameters
    ----------
    tree : where the files lie.
    files : the file of each image, in the order in which the images are wanted.
    num_train : how many of them, the first ones, are for training.
    how : how they are decoded.
    statistics : mean and standard deviation of the training images' channels.
    skip_bad : whether images are left out that cannot be decoded.
    """

    tree: FileTree
    files: Sequence[StoredFile]
    num_train: int
    how: Decoding
    statistics: Statistics = field(repr=False)
    skip_bad: bool = False

    def key(self) -> str:
        """Names the content: another file, date, order or way to decode gives another key."""
        what = [
            _FORMAT,
            str(self.tree.path.resolve()),
            list(self.tree.identity),
            self.how.described(),
            self.num_train,
            [[file.name, file.size, file.stamp] for file in self.files],
        ]
        return f"images-{digest(json.dumps(what).encode())}"


def stored_pixels(wanted: Wanted, cache: Path, tell: Told) -> StoredPixels:
    """Open the images if they are in the cache, else decode them into it.

    If the cache cannot be written they stay in memory, with a warning. Processes that want the same
    images at once wait for the first of them.

    Raises
    ------
    DataError
        Images cannot be decoded and `skip_bad` is not set, or they have different sizes.
    """
    entry = cache / wanted.key()
    stored = open_entry(entry)
    if stored is None:
        try:
            stored = _decoded_into(entry, wanted, tell)
        except OSError as exc:
            # Another process may have finished it, and moved away what this one was waiting for.
            stored = open_entry(entry) or _without_cache(wanted, cache, exc, tell)
    _refuse_bad(wanted, stored.bad, entry)
    return stored


def open_entry(entry: Path) -> StoredPixels | None:
    """The images of an entry, mapped copy-on-write; None if the entry is missing or damaged."""
    try:
        content = _content(entry)
        pixels = _mapped(entry / _PIXELS, len(content["crc32"]), tuple(content["shape"]))
        spread = np.linspace(0, len(pixels) - 1, min(len(pixels), _SAMPLE)).astype(int)
        if any(zlib.crc32(pixels[i].tobytes()) != content["crc32"][i] for i in spread):
            return None
        kept = content["kept"] if content["kept"] is not None else range(len(pixels))
        bad = [(name, reason) for name, reason in content["bad"]]
        checks = np.array(content["crc32"], dtype=np.uint32)
        mean, std = tuple(content["mean"]), tuple(content["std"])
        return StoredPixels(pixels, kept, bad, mean, std, checks)
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None


def damaged_images(entry: Path) -> list[int]:
    """The positions of images whose pixels are not what was decoded.

    `ValueError` or `OSError`: the entry is not whole.
    """
    content = _content(entry)
    pixels = _mapped(entry / _PIXELS, len(content["crc32"]), tuple(content["shape"]))
    return [
        i
        for i, (image, crc) in enumerate(zip(pixels, content["crc32"], strict=True))
        if zlib.crc32(image.tobytes()) != crc
    ]


def _content(entry: Path) -> dict[str, Any]:
    head, _, body = (entry / _ENTRY).read_text("utf-8").partition("\n")
    if digest(body.encode()) != head:
        raise ValueError("its description is damaged")
    content: dict[str, Any] = json.loads(body)
    if content["format"] != _FORMAT:
        raise ValueError("it is of another version")
    return content


def _mapped(path: Path, count: int, shape: Shape) -> UInt8[np.ndarray, "n c h w"]:
    """Map a file of images; ValueError if it has another length."""
    if path.stat().st_size != count * int(np.prod(shape)):
        raise ValueError("its pixels are cut short")
    if not count:
        return np.empty((0, *shape), dtype=np.uint8)
    # Copy-on-write, because torch asks for writable memory but the file must never change.
    return np.memmap(path, dtype=np.uint8, mode="c").reshape(-1, *shape)


def _decoded_into(entry: Path, wanted: Wanted, tell: Told) -> StoredPixels:
    partial = entry.with_name(entry.name + _PARTIAL)
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial / "lock"):
        made_meanwhile = open_entry(entry)
        if made_meanwhile is not None:
            with contextlib.suppress(OSError):
                shutil.rmtree(partial)
            return made_meanwhile
        _describe_partial(partial, wanted)
        sink = FileSink(partial)
        try:
            bad = decode_files(wanted.files, wanted.tree.path, wanted.how, sink, tell)
            reasons = [(wanted.files[slot].name, bad[slot]) for slot in sorted(bad)]
            _refuse_bad(wanted, reasons, partial)
            kept = [slot for slot in range(len(wanted.files)) if slot not in bad]
            if bad:
                sink.without_gaps(kept)
            sink.close()
        finally:
            sink.leave()
        shape = sink.shape or _no_image(wanted)
        pixels = _mapped(partial / _PIXELS, len(kept), shape)
        mean, std = _statistics(wanted, kept, pixels)
        content = {
            "format": _FORMAT,
            "source": str(wanted.tree.path.resolve()),
            "decoding": wanted.how.described(),
            "shape": shape,
            "kept": kept if bad else None,
            "bad": reasons,
            "mean": mean,
            "std": std,
            "crc32": [sink.done[slot] for slot in kept],
        }
        _write_entry(partial, content)
        shutil.rmtree(entry, ignore_errors=True)
        partial.rename(entry)
    for rest in ("lock", "journal", "about.json", "bad-files.txt"):
        (entry / rest).unlink(missing_ok=True)
    stored = open_entry(entry)
    if stored is None:
        raise OSError(f"{entry} is not what was written")
    return stored


def _write_entry(folder: Path, content: dict[str, Any]) -> None:
    body = json.dumps(content)
    with (folder / _ENTRY).open("w", encoding="utf-8") as file:
        file.write(f"{digest(body.encode())}\n{body}")
        file.flush()
        os.fsync(file.fileno())


def _describe_partial(partial: Path, wanted: Wanted) -> None:
    about = {
        "source": str(wanted.tree.path.resolve()),
        "decoding": asdict(wanted.how),
        "images": len(wanted.files),
    }
    (partial / "about.json").write_text(json.dumps(about), "utf-8")


def _without_cache(wanted: Wanted, cache: Path, exc: OSError, tell: Told) -> StoredPixels:
    reason = exc.strerror or str(exc)
    _check_memory(wanted, cache, reason)
    log.warning(
        "decoded images cannot be kept in %s (%s); decoding %s into memory, set cache-dir",
        cache,
        reason,
        wanted.tree.path,
    )
    sink = MemorySink(len(wanted.files))
    bad = decode_files(wanted.files, wanted.tree.path, wanted.how, sink, tell)
    kept = [slot for slot in range(len(wanted.files)) if slot not in bad]
    shape = sink.shape or _no_image(wanted)
    pixels = sink.pixels.reshape(-1, *shape)[kept] if bad else sink.pixels.reshape(-1, *shape)
    reasons = [(wanted.files[slot].name, bad[slot]) for slot in sorted(bad)]
    checks = np.array([sink.done[slot] for slot in kept], dtype=np.uint32)
    return StoredPixels(pixels, kept, reasons, *_statistics(wanted, kept, pixels), checks)


def _no_image(wanted: Wanted) -> Shape:
    return 3, wanted.how.image_size, wanted.how.image_size


def _statistics(
    wanted: Wanted, kept: Sequence[int], pixels: UInt8[np.ndarray, "n c h w"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    train = int(np.searchsorted(np.asarray(kept, dtype=np.int64), wanted.num_train))
    return wanted.statistics(pixels[:train]) if train else ((0.0,) * 3, (1.0,) * 3)


def _refuse_bad(wanted: Wanted, bad: Sequence[tuple[str, str]], folder: Path) -> None:
    if not bad or wanted.skip_bad:
        return
    whole_list = ""
    if len(bad) > _SAID:
        with contextlib.suppress(OSError):
            path = folder / "bad-files.txt"
            path.write_text("".join(f"{name}: {reason}\n" for name, reason in bad), "utf-8")
            whole_list = f" (all of them in {path})"
    raise DataError(
        f"{wanted.tree.path}: {len(bad):,} of {len(wanted.files):,} files cannot be decoded: "
        f"{listed(bad, _SAID)}{whole_list}; mend or remove them, or leave them out with "
        'bad-files = "skip"'
    )


def _check_memory(wanted: Wanted, cache: Path, reason: str) -> None:
    needed = len(wanted.files) * 3 * wanted.how.image_size**2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there // 2:
        raise DataError(
            f"decoded images cannot be kept in {cache} ({reason}), and {needed / 2**30:.1f} GiB of them are "
            "too many for memory; set cache-dir to a folder with room"
        )


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for whoever is making the same entry. Where locks do not exist, nobody is waited for."""
    with path.open("w") as file:
        try:
            # Not there on Windows.
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):
            log.debug("%s: no locks here", path)
        yield
