"""What a run has of rounds after the one that it is resumed from: set aside in its folder, and named.

The rounds are done again, so these files must be out of the way. They are kept, for they may be all that is
left of a better run: of a checkpoint that ``--from-round`` passed over, of the heads of a round that was cut off.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from fedloge.atomic_files import disk_error, write_atomically
from fedloge.run_files import CHECKPOINT_MANIFEST, ROUND_FILES, round_of_tensors
from fedloge.server.checkpoint import CheckpointStore
from fedloge.server.chosen_model import is_later
from fedloge.server.run_record import RunRecord, round_of

log = logging.getLogger(__name__)


def set_aside_later(record: RunRecord, checkpoints: CheckpointStore, round: int) -> None:
    """Move away what is of rounds after `round`, and half a line left by a kill; say so if there is any.

    It goes to a folder of its own for each start of the run, with the names that it had. A kill in the middle
    leaves the rest where it was, and the next resume moves that.

    Raises
    ------
    RunError
        The disk refused.
    """
    attempt = len(record.bases()) + 1
    aside = _Aside(record.files.set_aside / f"attempt-{attempt:05d}")
    try:
        lines = sum(_lines(record, name, round, aside) for name in ROUND_FILES)
        states = _checkpoints(record, checkpoints, round, aside)
        heads = _heads(record.files.heads, round, aside)
        aside.flush()
    except OSError as exc:
        raise disk_error(aside.folder, exc) from None
    found = ((lines, "lines"), (states, "files of checkpoints"), (heads, "personal states"))
    if said := ", ".join(f"{count:,} {what}" for count, what in found if count):
        log.warning(
            "%s goes on after round %d; what it has of later rounds is set aside in %s: %s",
            record.folder,
            round,
            aside.folder,
            said,
        )


@dataclass(frozen=True)
class _Aside:
    """The folder of what is set aside."""

    folder: Path

    def take(self, path: Path, place: str) -> None:
        """Move a file into a folder of this one."""
        path.replace(self.made(place) / path.name)

    def made(self, place: str) -> Path:
        """A folder within this one, for its owner alone, since personal states may lie in it."""
        inner = self.folder / place
        missing = [folder for folder in (inner, *inner.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700)
        return inner

    def flush(self) -> None:
        """Flush what was moved to the disk."""
        if self.folder.is_dir():
            os.sync()


def _lines(record: RunRecord, name: str, round: int, aside: _Aside) -> int:
    path = record.files.of_rounds(name)
    if not path.exists():
        return 0
    lines = path.read_text("utf-8", errors="replace").splitlines()
    later = [line for line in lines if round_of(line) > round]
    if later:
        _write(aside.made("") / path.name, later)
        _write(path, [line for line in lines if round_of(line) <= round])
    return len(later)


def _write(path: Path, lines: list[str]) -> None:
    write_atomically(path, "".join(line + "\n" for line in lines).encode())


def _checkpoints(record: RunRecord, store: CheckpointStore, round: int, aside: _Aside) -> int:
    there = sorted(store.folder.iterdir()) if store.folder.is_dir() else []
    later = [path for path in there if round_of_tensors(path.name) > round]
    if record.files.chosen in there and is_later(record.files.chosen, round):
        later.append(record.files.chosen)
    if not later:
        return 0
    manifest = aside.made(record.checkpoints.name) / CHECKPOINT_MANIFEST
    if store.exists() and not manifest.exists():
        # What it says of the others is needed to trust them: their sizes and checksums.
        write_atomically(manifest, (store.folder / CHECKPOINT_MANIFEST).read_bytes())
        store.rewind(round)
    for path in later:
        aside.take(path, record.checkpoints.name)
    return len(later)


def _heads(folder: Path, round: int, aside: _Aside) -> int:
    moved = 0
    if folder.is_dir():
        for client in sorted(path for path in folder.iterdir() if path.is_dir()):
            for path in sorted(client.iterdir()):
                if round_of_tensors(path.name) > round:
                    aside.take(path, f"{folder.name}/{client.name}")
                    moved += 1
    return moved
