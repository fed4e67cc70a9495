"""What a power loss leaves of a run at each moment: what was flushed, and of the rest nothing, names alone, or all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Tree = dict[str, bytes | None]
"""Content of each file by its path, None for a folder."""
_recorders: list[Recorder] = []


class Recorder:
    """Follows all files under a folder while a run writes them.

    `states` holds, for every boundary between two changes, the trees that a loss of power
    at that moment may leave, each distinct one once: what was flushed alone (files and folders); all names, with
    the flushed content of each file; and all that was written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.boundaries = 0
        self.states: dict[str, Tree] = {}
        self._content: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._kinds: dict[int, bool] = {}

    def flushed(self, descriptor: int) -> None:
        """Remember what has reached the disk."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.is_relative_to(self.root.parent):
            self._on_the_disk(path)

    def all_flushed(self) -> None:
        """The same of everything that there is: what the whole system's flush does."""
        for path in (self.root.parent, self.root, *self.root.rglob("*")):
            self._on_the_disk(path)

    def _on_the_disk(self, path: Path) -> None:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            self._entries[found.st_ino] = {e.name: e.inode() for e in os.scandir(path)}
            self._kinds |= {e.inode(): e.is_dir() for e in os.scandir(path)}
        else:
            self._content[found.st_ino] = path.read_bytes()

    def boundary(self) -> None:
        """Keep what may be left if the power fails now."""
        self.boundaries += 1
        for tree in (self._written(None), self._written(self._content), self._only_flushed()):
            key = hashlib.sha256(repr(sorted(tree.items())).encode()).hexdigest()
            self.states.setdefault(key, tree)

    def _written(self, content: dict[int, bytes] | None) -> Tree:
        tree: Tree = {}
        for path in sorted(self.root.rglob("*")):
            name = str(path.relative_to(self.root))
            if path.is_dir():
                tree[name] = None
            elif content is None:
                tree[name] = path.read_bytes()
            else:
                tree[name] = content.get(path.stat().st_ino, b"")
        return tree

    def _only_flushed(self) -> Tree:
        tree: Tree = {}

        def visit(folder: int, prefix: str) -> None:
            for name, inode in sorted(self._entries.get(folder, {}).items()):
                if self._kinds.get(inode):
                    tree[prefix + name] = None
                    visit(inode, f"{prefix}{name}/")
                else:
                    tree[prefix + name] = self._content.get(inode, b"")

        visit(self.root.stat().st_ino, "")
        return tree


@contextlib.contextmanager
def recorded(root: Path, patch: Any) -> Iterator[Recorder]:
    """A recorder of everything that is written under `root` while the block runs."""
    recorder, fsync, sync = Recorder(root), os.fsync, os.sync

    def flush(descriptor: int) -> None:
        recorder.boundary()
        fsync(descriptor)
        recorder.flushed(descriptor)
        recorder.boundary()

    def flush_all() -> None:
        recorder.boundary()
        sync()
        recorder.all_flushed()
        recorder.boundary()

    patch.setattr(os, "fsync", flush)
    patch.setattr(os, "sync", flush_all)
    if not _recorders:
        sys.addaudithook(_changes)
    _recorders.append(recorder)
    try:
        yield recorder
    finally:
        _recorders[-1] = None  # a hook cannot be taken away
        recorder.boundary()


def _changes(event: str, args: tuple[Any, ...]) -> None:
    recorder = _recorders[-1] if _recorders else None
    if recorder is None or event not in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
        return
    path = str(args[0])
    if not path.startswith(str(recorder.root)) or (event == "open" and not _writes(args)):
        return
    recorder.boundary()


def _writes(args: tuple[Any, ...]) -> bool:
    return bool(args[2] & (os.O_WRONLY | os.O_RDWR))


def restore(tree: Tree, root: Path) -> None:
    """Write a tree into an empty folder."""
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
