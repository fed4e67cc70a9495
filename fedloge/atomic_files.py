"""Writing files so that a kill or a full disk leaves the old ones whole."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedloge.errors import RunError


def write_atomically(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write `content` under a temporary name, flush it to the disk, rename it to `path`, and flush the folder.

    If `private`, only the owner may read the file.

    Raises
    ------
    RunError
        The disk refused the write; `path` is as it was before.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_new(temporary, content, 0o600 if private else 0o666)
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as exc:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(path, exc) from None


def write_new(path: Path, content: bytes, mode: int = 0o666, *, flush: bool = True) -> None:
    """Write a file that was not there; what has its name, such as a link, is removed, not followed.

    Parameters
    ----------
    mode : permissions, without those that the user's mask takes away.
    flush : whether it is flushed to the disk; if not, `flush_file` does so later.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, mode), "wb") as file:
        file.write(content)
        if flush:
            file.flush()
            os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Flush a file that has been written to the disk; nothing if it is not there."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append one line of JSON per row; raises `RunError` if the disk refuses the write.

    They are not flushed: `flush_file` does so before something relies on them.
    """
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as f:
            f.write(text)
    except OSError as exc:
        raise disk_error(path, exc) from None


def append_private(path: Path, content: bytes) -> None:
    """Append to a file that its owner alone may read, and flush it; `OSError` if the disk refuses.

    A link in its place is not followed.
    """
    made = not path.exists()
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(path, flags, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if made:
        flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, so that files made or renamed in it are found after a power loss."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes that do the same out of a folder while the block runs."""
    if os.name != "posix":
        yield
        return
    # Not there on Windows.
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def disk_error(path: Path, exc: OSError) -> RunError:
    """The error that tells the user of a refused write."""
    return RunError(
        f"{path} cannot be written ({exc.strerror}); what was there is untouched: free space or mend the "
        "permissions, then continue with 'fedloge resume'"
    )
