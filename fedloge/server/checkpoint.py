"""Checkpoints: the shared tensors after a round, and a manifest that names them.

The tensors are written first and the manifest last, each under another name that is
then renamed. A process that is killed at any moment leaves a manifest whose files are
whole. The two newest checkpoints are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from fedloge.atomic_files import disk_error, write_atomically
from fedloge.errors import CheckpointError
from fedloge.run_files import CHECKPOINT_MANIFEST, tensors_of_round

FORMAT = 1
_KEPT = 2
_MANIFEST_KEYS = {"format", "run-id", "fingerprint", "round", "checkpoints"}
_ENTRY_KEYS = {"round", "attempt", "file", "bytes", "sha256"}


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after a round.

    Attributes
    ----------
    attempt : the attempt that wrote it.
    shared : the tensors every client gets.
    server : tensors that only the server needs, for methods that have them.
    made : heads that probes made, if the models were evaluated after this round; no round needs them
        (`fedloge.server.made_heads`).
    """

    round: int
    attempt: int
    shared: dict[str, Tensor]
    server: dict[str, Tensor]
    made: dict[str, Tensor] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run directory."""

    def __init__(self, folder: Path, run_id: str, fingerprint: str) -> None:
        self.folder = folder
        self.run_id = run_id
        self.fingerprint = fingerprint

    @property
    def _manifest(self) -> Path:
        return self.folder / CHECKPOINT_MANIFEST

    def exists(self) -> bool:
        """Whether any round has been kept."""
        return self._manifest.exists()

    def kept_rounds(self) -> list[int]:
        """Rounds that can be resumed from, ascending."""
        return (
            sorted(entry["round"] for entry in self._read_manifest()["checkpoints"])
            if self.exists()
            else []
        )

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the checkpoint of a round; `RunError` if the disk refuses, with the older ones intact."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise disk_error(self.folder, exc) from None
        name = tensors_of_round(checkpoint.round)
        tensors = {f"shared.{k}": v for k, v in checkpoint.shared.items()}
        tensors |= {f"server.{k}": v for k, v in checkpoint.server.items()}
        tensors |= {f"made.{k}": v for k, v in checkpoint.made.items()}
        content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        write_atomically(self.folder / name, content)
        entry = {
            "round": checkpoint.round,
            "attempt": checkpoint.attempt,
            "file": name,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        older = self._read_manifest()["checkpoints"] if self.exists() else []
        self._keep([*(e for e in older if e["round"] < checkpoint.round), entry][-_KEPT:])

    def rewind(self, round: int) -> None:
        """Forget the checkpoints after `round`, which is one of them and from which the run goes on.

        Their files stay until the next is saved.
        """
        entries = self._read_manifest()["checkpoints"]
        if entries[-1]["round"] > round:
            self._write_manifest([entry for entry in entries if entry["round"] <= round])

    def _keep(self, entries: list[dict]) -> None:
        self._write_manifest(entries)
        names = {entry["file"] for entry in entries}
        for path in self.folder.glob("round-*.safetensors*"):
            if path.name not in names:
                path.unlink()

    def _write_manifest(self, entries: list[dict]) -> None:
        manifest = {
            "format": FORMAT,
            "run-id": self.run_id,
            "fingerprint": self.fingerprint,
            "round": entries[-1]["round"],
            "checkpoints": entries,
        }
        write_atomically(self._manifest, json.dumps(manifest, indent=2).encode())

    def load(self, round: int | None = None) -> Checkpoint:
        """The newest checkpoint, or that of `round`.

        Raises
        ------
        CheckpointError
            There is none, it is damaged, or it belongs to another run.
        """
        manifest = self._read_manifest()
        if (manifest["run-id"], manifest["fingerprint"]) != (self.run_id, self.fingerprint):
            raise CheckpointError(
                f"{self._manifest} belongs to run {manifest['run-id']} ({manifest['fingerprint']}), not to "
                f"{self.run_id} ({self.fingerprint}); resume with the config the run was started with"
            )
        entries = {entry["round"]: entry for entry in manifest["checkpoints"]}
        wanted = max(entries) if round is None else round
        if wanted not in entries:
            raise CheckpointError(
                f"{self.folder} keeps rounds {', '.join(map(str, sorted(entries)))}, not {wanted}"
            )
        entry = entries[wanted]
        content = self._content(entry)
        if not _intact(content, entry):
            others = [r for r, e in entries.items() if r != wanted and _intact(self._content(e), e)]
            remedy = (
                f"resume from round {max(others)} with --from-round {max(others)}"
                if others
                else "restore a backup"
            )
            raise CheckpointError(
                f"checkpoint {self.folder / entry['file']} is damaged: {len(content)} bytes, "
                f"expected {entry['bytes']} with checksum {entry['sha256'][:12]}; {remedy}"
            )
        tensors = load(content)
        return Checkpoint(
            round=wanted,
            attempt=entry["attempt"],
            shared=_under("shared.", tensors),
            server=_under("server.", tensors),
            made=_under("made.", tensors),
        )

    def _content(self, entry: dict) -> bytes:
        try:
            return (self.folder / entry["file"]).read_bytes()
        except OSError:
            return b""

    def _read_manifest(self) -> dict:
        try:
            manifest = json.loads(self._manifest.read_bytes())
            if manifest["format"] != FORMAT:
                raise CheckpointError(
                    f"{self._manifest} has format {manifest['format']}, this version reads {FORMAT}; upgrade fedloge"
                )
            if manifest.keys() != _MANIFEST_KEYS or not manifest["checkpoints"]:
                raise ValueError
            if not all(_is_entry(entry) for entry in manifest["checkpoints"]):
                raise ValueError
            if not isinstance(manifest["run-id"], str) or type(manifest["round"]) is not int:
                raise ValueError
            return manifest
        except FileNotFoundError:
            raise CheckpointError(
                f"{self._manifest} is missing; restore it from a backup, or start the run again"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise CheckpointError(
                f"{self._manifest} is damaged; restore it from a backup"
            ) from None


def _is_entry(entry: Any) -> bool:
    """Whether an entry of the manifest has the keys and types that it must, and names a file of this folder."""
    if not isinstance(entry, dict) or entry.keys() != _ENTRY_KEYS:
        return False
    numbers = all(
        type(entry[key]) is int and entry[key] >= 0 for key in ("round", "attempt", "bytes")
    )
    return (
        numbers
        and entry["file"] == tensors_of_round(entry["round"])
        and isinstance(entry["sha256"], str)
    )


def _intact(content: bytes, entry: Mapping) -> bool:
    return hashlib.sha256(content).hexdigest() == entry["sha256"]


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
