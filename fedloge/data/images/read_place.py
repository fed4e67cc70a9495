"""The bytes of one stored file, wherever it lies."""

from __future__ import annotations

import os
import stat
import zipfile
from functools import lru_cache
from pathlib import Path

from fedloge.data.images.decoding import MOST_BYTES, BadImageError
from fedloge.data.images.file_tree import Place


def read_place(place: Place) -> bytes:
    """Read a file of a folder, a part of a plain archive, or a member of a zip archive.

    `BadImageError`: it cannot be read, is no regular file (any more), or has too many bytes.
    """
    kind, path, *rest = place
    try:
        if kind == "file":
            return _regular(str(path))
        if kind == "part":
            offset, size = (int(number) for number in rest)
            with Path(str(path)).open("rb") as file:
                file.seek(offset)
                data = file.read(size)
            if len(data) < size:
                raise BadImageError("is cut short")
            return data
        with _zip(str(path)).open(str(rest[0])) as member:
            return _limited(member.read(MOST_BYTES + 1))
    except OSError as exc:
        raise BadImageError(f"cannot be read: {exc.strerror or exc}") from None
    except (zipfile.BadZipFile, EOFError, KeyError, NotImplementedError, RuntimeError) as exc:
        raise BadImageError(f"cannot be read: {exc}") from None


def _regular(path: str) -> bytes:
    # Not to wait for ever where a pipe has taken a file's place since the folder was listed.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadImageError("is no regular file")
        return _limited(file.read(MOST_BYTES + 1))


def _limited(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise BadImageError(f"has more than {MOST_BYTES:,} bytes")
    return data


@lru_cache(maxsize=4)
def _zip(path: str) -> zipfile.ZipFile:
    # Kept open: its directory is read at every opening.
    return zipfile.ZipFile(path)
