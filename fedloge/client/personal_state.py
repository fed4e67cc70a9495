"""A client's personal tensors on disk; they never leave the site.

Each client has a folder, with one safetensors file per kept round. The file's header
says which run, attempt and round it belongs to, and holds a checksum. Two mistakes are
refused: reading another run's state, and a late message of an older round that would
overwrite a newer one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor

from fedloge.atomic_files import disk_error, flush_folder, write_new
from fedloge.digest import digest
from fedloge.errors import CheckpointError, RunError
from fedloge.messages import Stamp
from fedloge.run_files import (
    DATA_OF_CLIENT,
    MASK_MEMORY,
    SET_ASIDE,
    client_folder,
    round_of_tensors,
    tensors_of_round,
)

log = logging.getLogger(__name__)
_REMEMBERED = (MASK_MEMORY, DATA_OF_CLIENT)
_HEADER = {
    "run-id",
    "fingerprint",
    "client",
    "attempt",
    "round",
    "rounds-trained",
    "checksum",
}


@dataclass(frozen=True)
class PersonalState:
    """A client's personal tensors after a round; round 0: it was never trained."""

    round: int
    rounds_trained: int
    tensors: dict[str, Tensor]


class PersonalStore:
    """The personal state of one client in one run.

    Parameters
    ----------
    folder : the run's folder of personal states; created when first written to, for its owner alone.
    client : the client's partition id.
    flush : whether each state is flushed to the disk when it is written, as at a site, whose answer
        the server relies on. In a simulation the server flushes those of a round together.
    """

    def __init__(self, folder: Path, client: int, *, flush: bool = False) -> None:
        self.client = client
        self._flush = flush
        self.folder = folder / client_folder(client)

    def load(self, stamp: Stamp, initial: Mapping[str, Tensor], *, before: int) -> PersonalState:
        """The newest state made before round `before`; `initial` if this client was never trained.

        Raises
        ------
        CheckpointError
            The file is damaged, or belongs to another run or another model.
        """
        usable = (round for round in reversed(self._rounds()) if round < before)
        for round in usable:
            if self._set_aside_if_dropped(round, stamp, only_damaged=True):
                continue
            header, tensors = self._read(round)
            self._check_run(header, stamp, round)
            if not stamp.follows(header["attempt"], round):
                continue  # made by an attempt whose rounds from here on were dropped at a resume
            self._check_tensors(tensors, initial, round)
            return PersonalState(round, header["rounds-trained"], tensors)
        return PersonalState(0, 0, dict(initial))

    def save(self, stamp: Stamp, state: Mapping[str, Tensor], rounds_trained: int) -> None:
        """Write the state that round `stamp.round` made, atomically, and delete versions no longer needed.

        Raises
        ------
        CheckpointError
            A newer round of this or a later attempt is stored already.
        RunError
            The disk refused the write; the older versions are untouched.
        """
        rounds = [r for r in self._rounds() if not self._set_aside_if_dropped(r, stamp)]
        if rounds:
            newest = rounds[-1]
            header = self._header(newest)
            self._check_run(header, stamp, newest)
            if (header["attempt"], newest) > (stamp.attempt, stamp.round):
                raise CheckpointError(
                    f"client {self.client}: round {newest} of attempt {header['attempt']} is stored already; "
                    f"a late message of round {stamp.round}, attempt {stamp.attempt} must not overwrite it"
                )
        self._write(stamp, state, rounds_trained)
        self._prune(stamp, [*rounds, stamp.round])

    def drop_old(self, stamp: Stamp) -> None:
        """Delete the versions that no round from which the run may be resumed needs.

        `save` does so for a client that trains. One that is not drawn again would keep two for ever, and
        thousands of clients twice the disk that their heads take.
        """
        rounds = self._rounds()
        if len(rounds) > 1:
            self._prune(stamp, [r for r in rounds if not self._set_aside_if_dropped(r, stamp)])

    def read_files(self) -> dict[str, bytes]:
        """The content of all versions, by file name, to be carried to the worker that runs this client.

        With them goes what it remembers of secure sums and of its data.
        """
        paths = [*map(self._path, self._rounds()), *(self.folder / name for name in _REMEMBERED)]
        return {path.name: path.read_bytes() for path in paths if path.exists()}

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Make the folder hold exactly these versions.

        Raises
        ------
        CheckpointError
            A name is not that of a personal state.
        RunError
            The disk refused the write.
        """
        for name, content in files.items():
            if round_of_tensors(name) < 0 and name not in _REMEMBERED:
                raise CheckpointError(
                    f"client {self.client}: {name!r} is not the file name of a personal state"
                )
            path = self.folder / name
            if not path.exists() or path.read_bytes() != content:
                self._replace(path, content)
        for round in self._rounds():
            if self._path(round).name not in files:
                self._path(round).unlink()

    def keep(self, name: str, content: bytes) -> None:
        """Write a file of the client's folder and flush it; `RunError` if the disk refuses."""
        self._replace(self.folder / name, content, flush=True)

    def _write(self, stamp: Stamp, state: Mapping[str, Tensor], rounds_trained: int) -> None:
        tensors = {name: t.detach().cpu().contiguous() for name, t in state.items()}
        header = {
            "run-id": stamp.run_id,
            "fingerprint": stamp.fingerprint,
            "client": self.client,
            "attempt": stamp.attempt,
            "round": stamp.round,
            "rounds-trained": rounds_trained,
        }
        header["checksum"] = _checksum(header, tensors)
        self._replace(
            self._path(stamp.round), save(tensors, metadata={"fedloge": json.dumps(header)})
        )

    def _replace(self, path: Path, content: bytes, *, flush: bool = False) -> None:
        flush = flush or self._flush
        temporary = path.with_suffix(".tmp")
        try:
            try:
                write_new(temporary, content, 0o600, flush=flush)
            except FileNotFoundError:
                self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self.folder.mkdir(exist_ok=True, mode=0o700)
                write_new(temporary, content, 0o600, flush=flush)
                if flush:
                    flush_folder(self.folder.parent)
            temporary.replace(path)
            if flush:
                flush_folder(self.folder)
        except OSError as exc:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise RunError(
                f"client {self.client}: personal state cannot be written to {path} "
                f"({exc.strerror}); free space or change the folder, then resume"
            ) from None

    def _set_aside_if_dropped(
        self, round: int, stamp: Stamp, *, only_damaged: bool = False
    ) -> bool:
        """Move away a state of a round that this resumed attempt does again; whether it was one."""
        if stamp.attempt < 2:
            return False
        try:
            header = self._header(round)
        except CheckpointError:
            dropped, state = round > stamp.bases[-1], "damaged state"
        else:
            made, state = header["attempt"], "state"
            of_this_run = header["run-id"] == stamp.run_id and header["client"] == self.client
            earlier = of_this_run and made < stamp.attempt and not only_damaged
            dropped = earlier and not stamp.follows(made, round)
        if dropped:
            folder = self._set_aside(round, stamp)
            log.warning(
                "client %d: the personal %s of round %d, after round %d from which the run goes on, is set aside in %s",
                self.client,
                state,
                round,
                stamp.bases[-1],
                folder,
            )
        return dropped

    def _set_aside(self, round: int, stamp: Stamp) -> Path:
        path, folder = self._path(round), self.folder / SET_ASIDE / f"attempt-{stamp.attempt:05d}"
        try:
            for made in (folder.parent, folder):
                made.mkdir(exist_ok=True, mode=0o700)
            path.replace(folder / path.name)
        except OSError as exc:
            raise disk_error(folder, exc) from None
        return folder

    def _prune(self, stamp: Stamp, rounds: list[int]) -> None:
        needed_from = max((r for r in rounds if r <= stamp.keep_round), default=0)
        for round in rounds:
            if round < needed_from:
                self._path(round).unlink(missing_ok=True)

    def _rounds(self) -> list[int]:
        # os.scandir is faster than pathlib, and a round may list the folders of thousands of clients.
        try:
            with os.scandir(self.folder) as entries:
                names = [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(round for round in map(round_of_tensors, names) if round >= 0)

    def _path(self, round: int) -> Path:
        return self.folder / tensors_of_round(round)

    def _header(self, round: int, content: bytes | None = None) -> dict:
        try:
            with io.BytesIO(content) if content is not None else self._path(round).open("rb") as f:
                (length,) = struct.unpack("<Q", f.read(8))
                header = json.loads(json.loads(f.read(length))["__metadata__"]["fedloge"])
            if header.keys() != _HEADER or header["round"] != round:
                raise ValueError
            return header
        except (OSError, ValueError, KeyError, TypeError, struct.error, MemoryError, OverflowError):
            raise self._damaged(round) from None

    def _read(self, round: int) -> tuple[dict, dict[str, Tensor]]:
        try:
            content = self._path(round).read_bytes()
            tensors = load(content)
        except Exception:  # safetensors raises many types of error, by the kind of damage
            raise self._damaged(round) from None
        header = self._header(round, content)
        if _checksum(header, tensors) != header["checksum"]:
            raise self._damaged(round)
        return header, tensors

    def _damaged(self, round: int) -> CheckpointError:
        path = self._path(round)
        size = path.stat().st_size if path.exists() else 0
        return CheckpointError(
            f"client {self.client}: personal state {path} is damaged ({size} bytes); "
            "restore it from a backup, or move it away to continue from the version before it"
        )

    def _check_run(self, header: Mapping, stamp: Stamp, round: int) -> None:
        if (header["run-id"], header["fingerprint"], header["client"]) != (
            stamp.run_id,
            stamp.fingerprint,
            self.client,
        ):
            raise CheckpointError(
                f"client {self.client}: {self._path(round)} belongs to client {header['client']} of run "
                f"{header['run-id']} ({header['fingerprint']}), not to run {stamp.run_id} "
                f"({stamp.fingerprint}); use another folder for this run"
            )

    def _check_tensors(
        self, tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor], round: int
    ) -> None:
        shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
        expected = {name: (tuple(t.shape), t.dtype) for name, t in initial.items()}
        if shapes != expected:
            wrong = min(
                name
                for name in shapes.keys() | expected.keys()
                if shapes.get(name) != expected.get(name)
            )
            raise CheckpointError(
                f"client {self.client}: {self._path(round)} holds another model's state: tensor {wrong!r} is "
                f"{shapes.get(wrong)}, expected {expected.get(wrong)}"
            )


def _checksum(header: Mapping, tensors: Mapping[str, Tensor]) -> str:
    said = json.dumps({key: header[key] for key in sorted(_HEADER - {"checksum"})})
    flat = [part for name in sorted(tensors) for part in (name.encode(), _bytes(tensors[name]))]
    return digest(said.encode(), *flat)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
