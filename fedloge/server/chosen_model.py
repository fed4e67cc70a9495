"""The global models after the round that validation examples choose, beside the newest checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedloge.atomic_files import write_atomically
from fedloge.errors import CheckpointError
from fedloge.learning.round_choice import RoundChoice
from fedloge.server.checkpoint import Checkpoint

# No tensor of a network has a colon in its name.
_MADE = "made:"


def write_chosen(
    path: Path,
    choice: RoundChoice,
    checkpoint: Checkpoint,
    run_id: str,
    fingerprint: str,
) -> None:
    """Replace the file by a round's shared tensors and made heads; `RunError` if the disk refuses."""
    kept = checkpoint.shared | {f"{_MADE}{name}": t for name, t in checkpoint.made.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in kept.items()}
    said = {
        "run-id": run_id,
        "fingerprint": fingerprint,
        "round": choice.round,
        "attempt": checkpoint.attempt,
        "figure": choice.figure,
        "value": choice.value,
        "checksum": _checksum(tensors),
    }
    write_atomically(path, save(tensors, metadata={"fedloge": json.dumps(said)}))


def read_chosen(path: Path, run_id: str, fingerprint: str) -> Checkpoint:
    """The chosen round's tensors.

    Raises
    ------
    CheckpointError
        There are none, they are damaged, or they belong to another run.
    """
    if not path.exists():
        raise CheckpointError(
            f"{path} is not there: no round was chosen; run with validation-share, or leave out --chosen"
        )
    try:
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["fedloge"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = said["checksum"] == _checksum(tensors)
        owner = said["run-id"], said["fingerprint"]
        shared = {k: t for k, t in tensors.items() if not k.startswith(_MADE)}
        made = {k.removeprefix(_MADE): t for k, t in tensors.items() if k not in shared}
        found = Checkpoint(int(said["round"]), int(said["attempt"]), shared, {}, made)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        intact, owner = False, ("", "")
    if not intact:
        raise CheckpointError(f"{path} is damaged; restore it from a backup, or leave out --chosen")
    if owner != (run_id, fingerprint):
        raise CheckpointError(f"{path} belongs to run {owner[0]} ({owner[1]}), not to {run_id}")
    return found


def is_later(path: Path, round: int) -> bool:
    """Whether the file is of a round after `round`, or cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return bool(json.loads(file.metadata()["fedloge"])["round"] > round)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError):
        return True


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode())
        total.update(tensors[name].numpy().tobytes())
    return total.hexdigest()
