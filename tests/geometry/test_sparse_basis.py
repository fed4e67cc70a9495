from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedloge.errors import GeometryError
from fedloge.geometry.basis_vectors import basis_vectors, orthoplex
from fedloge.geometry.certificate import certificate, matrix_digest
from fedloge.geometry.prototypes import prototypes


def test_every_vector_has_the_zeros_that_were_asked(tmp_path: Path) -> None:
    w = prototypes(100, 64, "sparse-basis", sparsity=0.6, seed=0, cache_dir=tmp_path)
    found = w.certificate()
    assert found.zeros_min == found.zeros_max == 38
    assert found.norm_min == pytest.approx(0.1) and found.norm_max == pytest.approx(0.1)
    # A random draw of as sparse vectors has pairs above 0.5.
    assert found.abs_cos_max < 0.2
    assert w.reason == "basis vectors with 38 zeros among the 64 features of every class, as asked"


def test_without_zeros_it_is_the_dense_kind(tmp_path: Path) -> None:
    sparse = prototypes(20, 8, "sparse-basis", sparsity=0.0, cache_dir=tmp_path)
    dense = prototypes(20, 8, "basis", cache_dir=tmp_path)
    assert sparse.kind == "basis" and torch.equal(sparse.matrix, dense.matrix)


def test_a_search_that_goes_on_ends_with_the_same_bits(tmp_path: Path) -> None:
    kept = tmp_path / "search.safetensors"

    def search(steps: int, file: Path | None, seed: int = 1) -> str:
        found = basis_vectors(40, 12, seed=seed, max_steps=steps, kept_in=file)
        return matrix_digest(found)

    search(70, kept)
    assert search(130, kept) == search(130, None)
    with pytest.raises(GeometryError, match="holds another search"):
        search(130, kept, seed=2)
    kept.write_bytes(b"half")
    with pytest.raises(GeometryError, match="damaged"):
        search(130, kept)


def test_a_search_with_multipliers_goes_on_too(tmp_path: Path) -> None:
    kept = tmp_path / "search.safetensors"
    with pytest.raises(GeometryError, match="in 60 steps"):
        basis_vectors(30, 10, max_cos=0.32, seed=0, max_steps=60, kept_in=kept)
    found = basis_vectors(30, 10, max_cos=0.32, seed=0, max_steps=2000, kept_in=kept)
    whole = basis_vectors(30, 10, max_cos=0.32, seed=0, max_steps=2000)
    assert torch.equal(found, whole) and certificate(found).abs_cos_max <= 0.32


def test_orthoplex() -> None:
    found = certificate(orthoplex(10, 5, seed=0))
    assert found.cos_max == pytest.approx(0, abs=1e-6)
    assert found.abs_cos_max == pytest.approx(1)  # an axis and its opposite
    assert prototypes(6, 5, "orthoplex").kind == "orthoplex"
    with pytest.raises(GeometryError, match="up to 10 classes"):
        prototypes(11, 5, "orthoplex")
