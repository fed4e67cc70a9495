"""The files of a data set, in a folder or an archive: which there are, without reading them."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloge.data.images.decoding import MOST_BYTES
from fedloge.errors import DataError

# What file managers, cameras and backup programs leave beside the pictures.
_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"}
_SYSTEM_FILES |= {"$recycle.bin", "system volume information", "lost+found"}

Place = Sequence[str | int]
"""Where a file's bytes are, as JSON values that a helper process can read (`read_place`)."""


@dataclass(frozen=True)
class StoredFile:
    """One regular file of a data set.

    Parameters
    ----------
    name : its path within the data set, with ``/``, in Unicode's composed form.
    place : where its bytes are; empty in an archive that can only be read from its beginning.
    size : in bytes.
    stamp : its date in nanoseconds, in a folder.
    member : its name in an archive, or that of the member that it is a link to.
    """

    name: str
    place: Place
    size: int
    stamp: int = 0
    member: str = ""


@dataclass(frozen=True)
class FileTree:
    """What there is in a folder or an archive. Hidden files and those of the system are passed over.

    Parameters
    ----------
    path : the folder or the archive.
    files : in the order in which they are best read.
    refused : entries that are no regular files of the data set, and why, as clauses.
    folders : the names of all folders, also of empty ones.
    identity : JSON values that change when an archive does; a folder's are those of its files.
    """

    path: Path
    files: Sequence[StoredFile]
    refused: Sequence[tuple[str, str]] = ()
    folders: Sequence[str] = ()
    identity: Sequence[Any] = field(default=())


def passed_over(name: str) -> bool:
    """Whether a file or folder is hidden or the system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def too_large(size: int) -> str | None:
    """Why a file of this size is refused; None if it is not."""
    return f"has {size:,} bytes, more than {MOST_BYTES:,}" if size > MOST_BYTES else None


def composed(name: str) -> str:
    """A name in Unicode's composed form (NFC), in which Macs do not write names."""
    return unicodedata.normalize("NFC", name)


def folder_tree(path: Path) -> FileTree:
    """The files under a folder. Symbolic links are followed where they stay inside it.

    Raises
    ------
    DataError
        The folder or one in it cannot be read.
    """
    scan = _Scan(Path(os.path.realpath(path)))
    try:
        scan.folder(scan.root, "", frozenset())
    except OSError as exc:
        raise DataError(f"{exc.filename or path}: cannot be read ({exc.strerror})") from None
    return FileTree(path, scan.files, scan.refused, scan.folders)


class _Scan:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[StoredFile] = []
        self.refused: list[tuple[str, str]] = []
        self.folders: list[str] = []

    def folder(self, path: Path, prefix: str, above: frozenset[str]) -> None:
        real = os.path.realpath(path)
        if real in above:
            self.refused.append((prefix.rstrip("/"), "is a link to a folder that holds it"))
            return
        with os.scandir(path) as entries:
            visible = sorted(
                (e for e in entries if not passed_over(e.name)), key=lambda entry: entry.name
            )
        for entry in visible:
            name = prefix + composed(entry.name)
            if reason := self._reason(entry):
                self.refused.append((printable(name), reason))
            elif entry.is_dir():
                self.folders.append(name)
                self.folder(Path(entry.path), f"{name}/", above | {real})
            else:
                found = entry.stat()
                self.files.append(
                    StoredFile(name, ("file", entry.path), found.st_size, found.st_mtime_ns)
                )

    def _reason(self, entry: os.DirEntry[str]) -> str | None:
        """Why an entry is refused; None if it is a folder or a regular file within the root."""
        if not entry.name.isprintable() and any(0xDC80 <= ord(c) <= 0xDCFF for c in entry.name):
            return "has a name that is not UTF-8; rename it"
        if entry.is_symlink():
            target = Path(os.path.realpath(entry.path))
            if not target.exists():
                return "is a link to nothing"
            if not target.is_relative_to(self.root):
                return "is a link out of the folder; put the file itself there"
        mode = entry.stat().st_mode
        if stat.S_ISDIR(mode):
            return None
        if not stat.S_ISREG(mode):
            return "is no regular file"
        return too_large(entry.stat().st_size)


def printable(name: str) -> str:
    """A name that can be written anywhere: bytes that are no UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode()


def listed(refused: Sequence[tuple[str, str]], most: int = 5) -> str:
    """Names and reasons in a line, the first few of them.

    >>> listed([("a", "is empty"), ("b", "not an image")], most=1)
    'a (is empty), and 1 more'
    """
    shown = [f"{name} ({reason})" for name, reason in refused[:most]]
    more = [f"and {len(refused) - most:,} more"] if len(refused) > most else []
    return ", ".join(shown + more)


def inside(folder: str, files: Sequence[StoredFile]) -> Iterator[StoredFile]:
    """Those of the files that lie somewhere under a folder; "" is the whole tree."""
    return (file for file in files if not folder or file.name.startswith(f"{folder}/"))
