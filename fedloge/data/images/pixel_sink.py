"""Where decoded images go: a file that can be continued after a kill, or memory."""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray

Shape = tuple[int, int, int]


class PixelSink(Protocol):
    """Takes images of one shape, each into its place."""

    shape: Shape | None
    path: Path | None
    done: dict[int, int]

    def start(self, shape: Shape) -> None:
        """The shape of all images, before the first is put."""
        ...

    def put(self, slot: int, image: UInt8[np.ndarray, "3 height width"]) -> None:
        """One image."""
        ...

    def note(self, finished: list[tuple[int, int]]) -> None:
        """Images that are in their places: place and CRC-32 of each."""
        ...


class MemorySink:
    """Keeps the images in memory.

    Parameters
    ----------
    count : how many there will be.
    """

    def __init__(self, count: int) -> None:
        self.path: Path | None = None
        self.shape: Shape | None = None
        self.done: dict[int, int] = {}
        self._count = count
        self.pixels: NDArray[np.uint8] = np.empty((0, 3, 0, 0), np.uint8)

    def start(self, shape: Shape) -> None:
        """Make room."""
        self.shape = shape
        self.pixels = np.empty((self._count, *shape), np.uint8)

    def put(self, slot: int, image: UInt8[np.ndarray, "3 height width"]) -> None:
        """One image."""
        self.pixels[slot] = image
        self.done[slot] = zlib.crc32(image.tobytes())

    def note(self, finished: list[tuple[int, int]]) -> None:
        """Nothing: nobody else puts images here."""


class FileSink:
    """A file of pixels, and a journal of what is in it, which both survive a kill.

    An image counts as done when the journal has it and its bytes have the CRC-32 noted there.

    Parameters
    ----------
    folder : holds both files.
    """

    def __init__(self, folder: Path) -> None:
        self.shape: Shape | None = None
        self.done: dict[int, int] = {}
        self.path: Path | None = folder / "pixels.u8"
        self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
        self._journal = (folder / "journal").open("a+", encoding="ascii")
        self._resume()

    def _resume(self) -> None:
        self._journal.seek(0)
        lines = self._journal.read().split("\n")
        head = lines[0].split()
        if len(head) != 3 or not all(word.isdecimal() for word in head) or len(lines) < 2:
            self._journal.truncate(0)
            return
        channels, height, width = map(int, head)
        self.shape = channels, height, width
        size = channels * height * width
        for line in lines[1:-1]:  # what follows the last end of line was cut off
            words = line.split()
            if len(words) != 2 or not all(word.isdecimal() for word in words):
                continue
            slot, crc = map(int, words)
            content = os.pread(self._file.fileno(), size, slot * size)
            if len(content) == size and zlib.crc32(content) == crc:
                self.done[slot] = crc
            else:
                self.done.pop(slot, None)
        if lines[-1]:
            self._journal.write("\n")

    def start(self, shape: Shape) -> None:
        """Note the shape."""
        self.shape = shape
        self._journal.write(" ".join(map(str, shape)) + "\n")
        self._journal.flush()

    def put(self, slot: int, image: UInt8[np.ndarray, "3 height width"]) -> None:
        """Write one image and note it. `OSError`: the disk refuses."""
        content = image.tobytes()
        if os.pwrite(self._file.fileno(), content, slot * len(content)) < len(content):
            raise OSError(28, "No space left on device")
        self.note([(slot, zlib.crc32(content))])

    def note(self, finished: list[tuple[int, int]]) -> None:
        """Note images that a helper has written."""
        self.done.update(finished)
        self._journal.write("".join(f"{slot} {crc}\n" for slot, crc in finished))
        self._journal.flush()

    def without_gaps(self, kept: list[int]) -> None:
        """Move the images of some places together, in their order, to the beginning of the file."""
        if self.shape is None:
            return
        size = int(np.prod(self.shape))
        for place, slot in enumerate(kept):
            if place != slot:
                os.pwrite(
                    self._file.fileno(),
                    os.pread(self._file.fileno(), size, slot * size),
                    place * size,
                )
        os.ftruncate(self._file.fileno(), len(kept) * size)

    def close(self) -> None:
        """Flush the pixels to the disk."""
        os.fsync(self._file.fileno())
        self.leave()

    def leave(self) -> None:
        """Close both files, as they are: decoding has ended, well or not."""
        self._journal.close()
        self._file.close()
