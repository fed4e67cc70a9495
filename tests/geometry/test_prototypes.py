from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedloge.errors import GeometryError
from fedloge.geometry import prototypes as module
from fedloge.geometry.prototypes import Prototypes, prototypes
from fedloge.geometry.simplex import simplex_etf
from fedloge.geometry.sparse import sparse_etf


@pytest.fixture(autouse=True)
def no_memory() -> None:
    module._made.cache_clear()


def never(*_: object, **__: object) -> torch.Tensor:
    raise AssertionError("built again")


def only_file(folder: Path) -> Path:
    (path,) = [p for p in folder.rglob("*") if p.is_file()]
    return path


def test_the_default_is_sse_c(tmp_path: Path) -> None:
    made = prototypes(10, 64, cache_dir=tmp_path)
    assert torch.equal(made.matrix, sparse_etf(10, 64, sparsity=0.6, gamma=0.1, seed=0))
    assert (made.kind, made.classes, made.dim) == ("sparse-etf", 10, 64)
    assert (made.sparsity, made.gamma, made.seed) == (0.6, 0.1, 0)
    assert "38 zeros among the 64 features" in made.reason
    assert made.digest() == "2a14b3c26c0b6671"


def test_a_plain_simplex(tmp_path: Path) -> None:
    made = prototypes(10, 64, "etf", gamma=2.0, seed=5, cache_dir=tmp_path)
    assert torch.equal(made.matrix, simplex_etf(10, 64, gamma=2.0, seed=5))
    assert made.sparsity == 0 and "as asked" in made.reason


@pytest.mark.parametrize("sparsity", [0.0, 0.001])
def test_sparse_without_zeros_is_the_simplex_and_says_so(tmp_path: Path, sparsity: float) -> None:
    made = prototypes(10, 64, sparsity=sparsity, cache_dir=tmp_path)
    assert made.kind == "etf" and made.sparsity == 0 and "no zeros" in made.reason
    assert made.digest() == prototypes(10, 64, "etf", cache_dir=tmp_path).digest()


def test_quality_of_a_sparse_frame(tmp_path: Path) -> None:
    quality = prototypes(10, 64, cache_dir=tmp_path).quality()
    assert quality["cos_mean"] == pytest.approx(-1 / 9, abs=1e-6)
    assert quality["cos_max"] == pytest.approx(-1 / 9, abs=3e-6)
    assert quality["cos_std"] < 1e-6
    assert quality["norm_min"] == pytest.approx(0.1, rel=1e-6) == quality["norm_max"]
    assert quality["zeros_per_class"] == 38


def test_quality_by_hand() -> None:
    # cosines 0, 1 and 0; norms 1, 2, 3; 1, 1 and 1 zeros.
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    quality = Prototypes(rows, "etf", 0.0, 1.0, 0, "").quality()
    assert quality["cos_mean"] == pytest.approx(1 / 3)
    assert quality["cos_std"] == pytest.approx(2**0.5 / 3)
    assert (
        quality["cos_max"],
        quality["norm_min"],
        quality["norm_max"],
        quality["zeros_per_class"],
    ) == (1, 1, 3, 1)
    rows[0, 1] = 1.0
    assert Prototypes(rows, "etf", 0.0, 1.0, 0, "").quality()["zeros_per_class"] is None


def test_the_digest_is_of_the_matrix() -> None:
    a = Prototypes(torch.eye(2), "etf", 0.0, 1.0, 0, "one reason")
    assert a.digest() == Prototypes(torch.eye(2), "sparse-etf", 0.5, 1.0, 9, "another").digest()
    assert (
        a.digest()
        != Prototypes(torch.eye(2).nextafter(torch.ones(2, 2)), "etf", 0.0, 1.0, 0, "").digest()
    )
    assert a.digest() != Prototypes(torch.eye(2).reshape(1, 4), "etf", 0.0, 1.0, 0, "").digest()


def test_built_once_then_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = prototypes(10, 64, cache_dir=tmp_path)
    monkeypatch.setattr(module, "sparse_etf", never)
    prototypes(10, 64, cache_dir=tmp_path)  # from memory
    module._made.cache_clear()
    assert torch.equal(prototypes(10, 64, cache_dir=tmp_path).matrix, built.matrix)  # from disk
    for change in ({"sparsity": 0.5}, {"gamma": 0.2}, {"seed": 1}, {"dim": 65}, {"num_classes": 9}):
        with pytest.raises(AssertionError, match="built again"):
            prototypes(**{"num_classes": 10, "dim": 64, "cache_dir": tmp_path, **change})


def test_what_a_caller_does_to_its_matrix_stays_there(tmp_path: Path) -> None:
    first = prototypes(10, 64, cache_dir=tmp_path)
    digest = first.digest()
    first.matrix.zero_()
    assert prototypes(10, 64, cache_dir=tmp_path).digest() == digest


def test_the_users_cache_folder_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDLOGE_CACHE", str(tmp_path / "own"))
    prototypes(4, 16)
    assert only_file(tmp_path / "own").suffix == ".safetensors"


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "flipped", "other matrix", "other shape", "no checksum"]
)
def test_a_damaged_cache_is_built_again(tmp_path: Path, damage: str) -> None:
    built = prototypes(10, 64, cache_dir=tmp_path)
    path = only_file(tmp_path)
    sound = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(sound[:-7])
    elif damage == "flipped":
        path.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    elif damage == "other matrix":
        save_file({"prototypes": torch.ones(10, 64)}, path, metadata={"digest": built.digest()})
    elif damage == "other shape":
        eye = Prototypes(torch.eye(3), "etf", 0.0, 1.0, 0, "")
        save_file({"prototypes": eye.matrix}, path, metadata={"digest": eye.digest()})
    else:
        save_file({"prototypes": torch.ones(10, 64)}, path)
    module._made.cache_clear()
    assert torch.equal(prototypes(10, 64, cache_dir=tmp_path).matrix, built.matrix)
    assert path.read_bytes() == sound  # and mended


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("in the way")
    assert prototypes(10, 64, cache_dir=blocked).digest() == "2a14b3c26c0b6671"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert prototypes(10, 64, cache_dir=tmp_path).digest() == "2a14b3c26c0b6671"


def test_to_file_writes_the_matrix_alone(tmp_path: Path) -> None:
    made = prototypes(10, 64, cache_dir=tmp_path / "cache")
    made.to_file(tmp_path / "w.safetensors")
    (name,) = load_file(tmp_path / "w.safetensors")
    assert name == "prototypes"
    assert torch.equal(load_file(tmp_path / "w.safetensors")[name], made.matrix)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cache", "w.safetensors"]
    with pytest.raises(GeometryError, match="cannot be written"):
        made.to_file(tmp_path / "absent" / "w.safetensors")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "sparse-eft"}, "did you mean 'sparse-etf'"),
        ({"num_classes": 66}, "raise dim to 65 or more"),
        ({"sparsity": 1.0}, "0 <= sparsity < 1"),
        ({"sparsity": -0.001}, "0 <= sparsity < 1"),
        ({"gamma": -1.0}, "gamma"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        prototypes(**{"num_classes": 10, "dim": 64, "cache_dir": tmp_path, **arguments})


@pytest.mark.parametrize(
    ("num_classes", "largest", "text"),
    [(8, -1 / 7, "a simplex"), (20, 0.0, "an orthoplex"), (40, 0.4, "equiangular basis vectors")],
)
def test_basis_vectors_hold_any_number_of_classes(
    tmp_path: Path, num_classes: int, largest: float, text: str
) -> None:
    made = prototypes(num_classes, 12, "basis", gamma=0.5, seed=1, cache_dir=tmp_path)
    assert made.matrix.shape == (num_classes, 12) and (made.kind, made.sparsity) == ("basis", 0)
    assert text in made.reason
    measured = made.certificate()
    assert measured.cos_max <= largest + 1e-6
    assert measured.norm_min == pytest.approx(0.5, rel=1e-6) == measured.norm_max
    assert measured.digest == made.digest()
    module._made.cache_clear()
    assert torch.equal(
        prototypes(num_classes, 12, "basis", gamma=0.5, seed=1, cache_dir=tmp_path).matrix,
        made.matrix,
    )


def test_auto_takes_basis_vectors_where_no_simplex_exists(tmp_path: Path) -> None:
    fits = prototypes(10, 64, "auto", cache_dir=tmp_path)
    assert fits.digest() == prototypes(10, 64, cache_dir=tmp_path).digest()
    assert prototypes(14, 12, "auto", cache_dir=tmp_path).kind == "basis"
