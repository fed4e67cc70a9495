"""The fixed classifier: which one, why, how good it is, and where it is kept."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedloge.digest import digest
from fedloge.errors import GeometryError, unknown_name
from fedloge.folders import cache_folder
from fedloge.geometry.basis_vectors import basis_vectors, orthoplex
from fedloge.geometry.certificate import Certificate, certificate, matrix_digest
from fedloge.geometry.simplex import check_arguments, simplex_etf
from fedloge.geometry.sparse import sparse_etf, zeros_per_class

KINDS = ("etf", "sparse-etf", "orthoplex", "basis", "sparse-basis")
_AUTO = "auto"
Kind = Literal["etf", "sparse-etf", "orthoplex", "basis", "sparse-basis", "auto"]
"""What a method's options may name; see `prototypes`."""

# Basis vectors are not asked for a largest cosine here; later steps gain little.
_BASIS_STEPS = 300

# Part of every cache key: raise it when the same arguments give other bits.
_ALGORITHM = 1


@dataclass(frozen=True, eq=False)
class Prototypes:
    """A fixed classifier W and what it was made from.

    Parameters
    ----------
    matrix : rows w_c, float32.
    kind : ``"sparse-etf"`` (SSE-C), ``"etf"`` (a simplex without zeros), ``"orthoplex"`` (a cross-
        polytope, no two rows closer than a right angle), ``"basis"`` (equiangular basis vectors, for
        any number of classes) or ``"sparse-basis"`` (such with zeros).
    sparsity : share of zeros asked for; 0 but for a sparse kind.
    gamma : norm of every row.
    seed : what the matrix was drawn from.
    reason : what was chosen and why, in one sentence.
    """

    matrix: Float[Tensor, "classes features"]
    kind: str
    sparsity: float
    gamma: float
    seed: int
    reason: str

    @property
    def classes(self) -> int:
        """C, the number of rows."""
        return self.matrix.shape[0]

    @property
    def dim(self) -> int:
        """d, the number of features."""
        return self.matrix.shape[1]

    def digest(self) -> str:
        """Hash of the matrix, bit by bit: equal wherever the same classifier was built."""
        return matrix_digest(self.matrix)

    def certificate(self) -> Certificate:
        """What the matrix is, measured, with the distance to the Welch bound."""
        return certificate(self.matrix)

    def quality(self) -> dict[str, float | int | None]:
        """What the matrix is, measured.

        ``cos_mean``, ``cos_std``, ``cos_max`` over all pairs of classes (a simplex has
        -1/(C-1), 0 and -1/(C-1)); ``norm_min``, ``norm_max`` over classes;
        ``zeros_per_class``, None where classes differ.
        """
        rows = self.matrix.double()
        norms = rows.norm(dim=1)
        unit = rows / norms[:, None]
        first, second = torch.triu_indices(self.classes, self.classes, offset=1)
        cosines = (unit @ unit.T)[first, second]
        zeros = set((self.matrix == 0).sum(dim=1).tolist())
        return {
            "cos_mean": cosines.mean().item(),
            "cos_std": cosines.std(correction=0).item(),
            "cos_max": cosines.max().item(),
            "norm_min": norms.min().item(),
            "norm_max": norms.max().item(),
            "zeros_per_class": zeros.pop() if len(zeros) == 1 else None,
        }

    def to_file(self, path: Path) -> None:
        """Write the matrix as safetensors, under the name ``prototypes``.

        Raises
        ------
        GeometryError
            The path cannot be written.
        """
        try:
            _write(path, self.matrix)
        except OSError as exc:
            raise GeometryError(
                f"{path}: the fixed classifier cannot be written ({exc.strerror}); name a file in a folder that exists"
            ) from None


def prototypes(
    num_classes: int,
    dim: int,
    kind: str = "sparse-etf",
    *,
    sparsity: float = 0.6,
    gamma: float = 0.1,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> Prototypes:
    """The fixed classifier for C classes and d features, with the same bits on every machine.

    Parameters
    ----------
    num_classes, dim : C >= 2 and d; an etf needs d >= C - 1, an orthoplex d >= C/2.
    kind : one of `KINDS`, or ``"auto"``: SSE-C where a simplex exists, else basis vectors. A sparse
        kind without zeros is the one without.
    sparsity : share of zeros in every row of a sparse kind, 0 <= sparsity < 1.
    gamma : norm of every row, > 0.
    seed : decides the orientation and the places of the zeros, >= 0.
    cache_dir : where built matrices are kept; None: the user's cache folder. If the cache
        cannot be read or written, the matrix is built again each time.

    Raises
    ------
    GeometryError
        An argument is out of range, or no such classifier exists or was found.
    """
    if kind not in (*KINDS, _AUTO):
        raise GeometryError(unknown_name("kind of fixed classifier", kind, (*KINDS, _AUTO)))
    if kind == _AUTO:
        kind = "sparse-etf" if num_classes <= dim + 1 else "basis"
    if kind == "sparse-basis" and not zeros_per_class(dim, sparsity):
        kind = "basis"
    if kind in ("basis", "sparse-basis", "orthoplex"):
        share = float(sparsity) if kind == "sparse-basis" else 0.0
        why = _why_sparse_basis(dim, share) if share else _why_basis(num_classes, dim)
        if kind == "orthoplex":
            why = _why_orthoplex(num_classes, dim)
        matrix = _made(num_classes, dim, kind, share, float(gamma), seed, cache_dir).clone()
        return Prototypes(matrix, kind, share, float(gamma), seed, why)
    check_arguments(num_classes, dim, gamma, seed)
    if kind == "etf":
        zeros, why = 0, "a plain simplex, as asked"
    elif zeros := zeros_per_class(dim, sparsity):
        why = f"SSE-C, {zeros} zeros among the {dim} features of every class"
    else:
        why = f"a plain simplex, as a sparsity of {sparsity:g} leaves no zeros among {dim} features"
    if zeros == 0:
        kind, sparsity = "etf", 0.0
    made = _made(num_classes, dim, kind, float(sparsity), float(gamma), seed, cache_dir)
    reason = (
        f"{why}; {num_classes} classes fit, as a simplex in {dim} dimensions has up to {dim + 1}"
    )
    # A copy, because the caller may change its matrix, and the next one gets the original.
    return Prototypes(made.clone(), kind, float(sparsity), float(gamma), seed, reason)


def _why_basis(num_classes: int, dim: int) -> str:
    if num_classes <= dim + 1:
        return f"a simplex, the best that basis vectors can be: {num_classes} classes fit into {dim} dimensions"
    if num_classes <= 2 * dim:
        return (
            f"an orthoplex, no pair closer than a right angle, as {num_classes} classes are too many "
            f"for a simplex in {dim} dimensions and no more than {2 * dim}"
        )
    return (
        f"equiangular basis vectors, as a simplex in {dim} dimensions has up to {dim + 1} classes and "
        f"an orthoplex {2 * dim}, fewer than {num_classes}"
    )


def _why_sparse_basis(dim: int, sparsity: float) -> str:
    zeros = zeros_per_class(dim, sparsity)
    return f"basis vectors with {zeros} zeros among the {dim} features of every class, as asked"


def _why_orthoplex(num_classes: int, dim: int) -> str:
    if not 2 <= num_classes <= 2 * dim:
        raise GeometryError(
            f"orthoplex: it has up to {2 * dim} classes in {dim} dimensions, got {num_classes}; "
            "take kind basis, or raise dim"
        )
    return (
        f"an orthoplex, as asked: {num_classes} classes on the axes of {dim} dimensions, both ways"
    )


@functools.lru_cache(maxsize=8)
def _made(
    num_classes: int,
    dim: int,
    kind: str,
    sparsity: float,
    gamma: float,
    seed: int,
    cache_dir: Path | None,
) -> Float[Tensor, "classes features"]:
    arguments = json.dumps([_ALGORITHM, num_classes, dim, kind, sparsity, gamma, seed])
    try:
        folder = cache_folder() if cache_dir is None else cache_dir
    except RuntimeError:  # a user without a home folder
        folder = None
    path = folder and folder / "prototypes" / f"{kind}-{digest(arguments.encode())}.safetensors"
    if path is not None and (kept := _read(path, num_classes, dim)) is not None:
        return kept
    if kind == "orthoplex":
        matrix = orthoplex(num_classes, dim, gamma=gamma, seed=seed)
    elif kind in ("basis", "sparse-basis"):
        signed = num_classes <= 2 * dim and not sparsity
        matrix = basis_vectors(
            num_classes,
            dim,
            signed=signed,
            gamma=gamma,
            seed=seed,
            max_steps=_BASIS_STEPS,
            sparsity=sparsity,
        )
    elif kind == "etf":
        matrix = simplex_etf(num_classes, dim, gamma=gamma, seed=seed)
    else:
        matrix = sparse_etf(num_classes, dim, sparsity=sparsity, gamma=gamma, seed=seed)
    if path is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, matrix)
        except OSError:
            pass  # the matrix is in memory, so a full or read-only disk need not stop the run
    return matrix


def _read(path: Path, num_classes: int, dim: int) -> Float[Tensor, "classes features"] | None:
    try:
        with safe_open(path, framework="pt") as file:
            expected = (file.metadata() or {}).get("digest")
            matrix: Tensor = file.get_tensor("prototypes")
    except (OSError, SafetensorError):
        return None
    sound = (
        matrix.shape == (num_classes, dim)
        and matrix.dtype == torch.float32
        and matrix_digest(matrix) == expected
    )
    return matrix if sound else None


def _write(path: Path, matrix: Float[Tensor, "classes features"]) -> None:
    data = save(
        {"prototypes": matrix.contiguous().cpu()}, metadata={"digest": matrix_digest(matrix)}
    )
    # Whole or not at all, also when several processes write the same file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        part = Path(folder) / path.name
        part.write_bytes(data)
        part.replace(path)
