"""How far a search for basis vectors is, kept in a file, so that it can go on after an interruption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from numpy import ndarray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedloge.atomic_files import write_atomically
from fedloge.errors import GeometryError

Rows = Float32[ndarray, "vectors features"]
# A multiplier for every pair, signed as the cosine that it pushes down.
Multipliers = Float32[ndarray, "vectors vectors"]


@dataclass
class Search:
    """Everything that the next step depends on.

    Attributes
    ----------
    step : the next one, from 1.
    vectors, moved : where the descent is, and its momentum.
    best, smallest : the vectors with the smallest largest cosine so far, and that cosine.
    multipliers : None if no cosine was asked for.
    """

    step: int
    vectors: Rows
    moved: Rows
    best: Rows
    smallest: float
    multipliers: Multipliers | None


@dataclass(frozen=True)
class Kept:
    """A file that holds a `Search`.

    Parameters
    ----------
    search : what is searched for, by which a file of another search is known.
    """

    path: Path
    search: str

    def read(self, start: Search) -> Search:
        """The search that the file holds; `start` if there is no file.

        Raises
        ------
        GeometryError
            The file is damaged, or of another search.
        """
        if not self.path.exists():
            return start
        try:
            with safe_open(self.path, framework="np") as file:
                said = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if said.get("search") != self.search:
                raise GeometryError(
                    f"{self.path}: holds another search ({said.get('search')}, expected {self.search}); name "
                    "another file, or delete it"
                )
            return Search(
                int(said["step"]),
                tensors["vectors"],
                tensors["moved"],
                tensors["best"],
                float.fromhex(said["smallest"]),
                tensors["multipliers"] if start.multipliers is not None else None,
            )
        except (OSError, SafetensorError, KeyError, ValueError) as exc:
            raise GeometryError(f"{self.path}: damaged ({exc}); delete it") from None

    def write(self, state: Search) -> None:
        """Keep a search, whole or not at all; `GeometryError`: the file cannot be written."""
        tensors = {"vectors": state.vectors, "moved": state.moved, "best": state.best}
        if state.multipliers is not None:
            tensors["multipliers"] = state.multipliers
        said = {
            "search": self.search,
            "step": str(state.step),
            "smallest": float(state.smallest).hex(),
        }
        contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        try:
            write_atomically(self.path, save(contiguous, metadata=said))
        except OSError as exc:
            raise GeometryError(f"{self.path}: cannot be written ({exc.strerror})") from None
