from __future__ import annotations

import hashlib
import math
import time

import numpy as np
import pytest
import torch
from other_machines import MACHINES, words_printed
from torch import Tensor

from fedloge.errors import GeometryError
from fedloge.geometry import basis_vectors as module
from fedloge.geometry import certificate as certificate_module
from fedloge.geometry.basis_vectors import basis_vectors
from fedloge.geometry.certificate import certificate, welch_bound
from fedloge.geometry.simplex import simplex_etf

# SHA-256 of the float32 bytes at seed 0.
GOLDEN = {(100, 64, 0.12): "11ff49737ca6a91a", (60, 7, 0.57): "61df4051e2f3c6e9"}


def sha(w: Tensor) -> str:
    return hashlib.sha256(w.numpy().tobytes()).hexdigest()[:16]


def cosines(w: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(w.double(), dim=1)
    first, second = torch.triu_indices(len(w), len(w), offset=1)
    return (unit @ unit.T)[first, second]


@pytest.mark.parametrize(("num_vectors", "dim", "max_cos"), GOLDEN)
def test_no_pair_exceeds_what_was_asked(num_vectors: int, dim: int, max_cos: float) -> None:
    w = basis_vectors(num_vectors, dim, max_cos=max_cos, gamma=0.1, seed=0)
    assert w.dtype == torch.float32 and w.shape == (num_vectors, dim)
    assert cosines(w).abs().max() <= max_cos
    assert (w.double().norm(dim=1) / 0.1 - 1).abs().max() < 1e-6
    assert sha(w) == GOLDEN[num_vectors, dim, max_cos]


def test_a_signed_limit_leaves_opposite_vectors_alone() -> None:
    w = basis_vectors(60, 7, max_cos=0.45, signed=True, seed=0)
    assert cosines(w).max() <= 0.45 < cosines(w).abs().max()


@pytest.mark.parametrize(
    ("num_vectors", "dim", "signed", "largest", "smallest"),
    [
        (5, 9, False, 0, 0),
        (9, 9, False, 0, 0),
        (10, 9, False, -1 / 9, -1 / 9),
        (5, 9, True, -1 / 4, -1 / 4),
        (11, 9, True, 0, -1),
        (18, 9, True, 0, -1),
    ],
)
def test_where_the_best_is_known_it_is_taken(
    num_vectors: int, dim: int, signed: bool, largest: float, smallest: float
) -> None:
    found = cosines(basis_vectors(num_vectors, dim, signed=signed, seed=4))
    assert found.max() == pytest.approx(largest, abs=1e-6)
    assert found.min() == pytest.approx(smallest, abs=1e-6)


def test_without_a_goal_it_beats_chance_and_keeps_above_the_bound() -> None:
    w = basis_vectors(90, 30, seed=1, max_steps=200)
    g = torch.Generator().manual_seed(0)
    chance = cosines(torch.randn(90, 30, generator=g)).abs().max()
    assert welch_bound(90, 30) < cosines(w).abs().max() < 0.45 * chance


def test_what_is_not_reached_is_an_error_that_says_how_far_it_came() -> None:
    with pytest.raises(GeometryError, match=r"came to .* of 0\.\d+ in 20 steps, .*at most 0\.16;"):
        basis_vectors(90, 30, max_cos=0.16, seed=1, max_steps=20)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"max_cos": 0.14}, "of 90 vectors in 30 dimensions is at least 0.1499; .*got 0.14"),
        ({"max_cos": 1.0}, "below 1, got 1"),
        ({"max_cos": math.nan}, "got nan"),
        ({"max_cos": -0.1, "signed": True}, "largest cosine .* at least 0.0000"),
        ({"num_vectors": 4, "max_cos": -0.4, "signed": True}, "at least -0.3333"),
        ({"num_vectors": 1}, "num_vectors of 2 or more, got 1"),
        ({"dim": 1}, "dim of 2 or more, got 1"),
        ({"gamma": 0.0}, "gamma"),
        ({"seed": -1}, "seed of 0 or more"),
        ({"max_steps": 0}, "max_steps of 1 or more"),
    ],
)
def test_wrong_arguments(arguments: dict[str, float], text: str) -> None:
    with pytest.raises(GeometryError, match=text):
        basis_vectors(**{"num_vectors": 90, "dim": 30, "seed": 0, **arguments})


def test_seeds_differ_and_repeat() -> None:
    first, again, other = (basis_vectors(40, 9, seed=s, max_steps=20) for s in (2, 2, 3))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("signed", [False, True])
def test_the_pull_is_the_gradient_of_the_loss(signed: bool) -> None:
    v = module._normalised(module._start(50, 12, 0).astype(np.float32))
    x = torch.from_numpy(v).double().requires_grad_()
    cos = x @ x.T
    excess = ((cos if signed else cos.abs()) - 0.2).relu() * (1 - torch.eye(50))
    ((excess**2).sum() / 4).backward()
    pull = module._pull(v, np.float32(0.2), signed, None, grow=False)
    assert x.grad is not None
    assert np.abs(pull.gradient - x.grad.numpy()).max() < 0.01 * x.grad.abs().max()
    assert pull.largest == pytest.approx(0.2 + float(excess.max().detach()), abs=1e-3)


def test_blocks_change_no_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = basis_vectors(50, 12, seed=0, max_steps=3)
    measured = certificate(whole)
    monkeypatch.setattr(module, "BLOCK_ENTRIES", 350)
    monkeypatch.setattr(certificate_module, "BLOCK_ENTRIES", 350)
    parted = basis_vectors(50, 12, seed=0, max_steps=3)
    # A block has its own grid for the weights.
    assert (whole - parted).abs().max() < 1e-3
    again = certificate(whole)
    assert again.digest == measured.digest
    figures = ("cos_max", "abs_cos_max", "cos_mean", "cos_std", "above_welch")
    assert [getattr(again, f) for f in figures] == pytest.approx(
        [getattr(measured, f) for f in figures], rel=1e-9
    )


def test_a_certificate_by_hand() -> None:
    # Cosines 0, -1 and 0; norms 1, 2, 3; 1, 1 and 1 zeros.
    found = certificate(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -3.0]]))
    assert (found.classes, found.dim) == (3, 2)
    assert (found.cos_max, found.abs_cos_max) == (0, 1)
    assert found.cos_mean == pytest.approx(-1 / 3)
    assert found.cos_std == pytest.approx(2**0.5 / 3)
    assert found.welch == pytest.approx(0.5) and found.above_welch == pytest.approx(0.5)
    assert (found.norm_min, found.norm_max, found.zeros_min, found.zeros_max) == (1, 3, 1, 1)


def test_a_certificate_of_a_simplex() -> None:
    w = simplex_etf(10, 16, gamma=0.3, seed=0)
    found = certificate(w)
    assert found.cos_mean == pytest.approx(-1 / 9, abs=1e-6) == found.cos_max
    assert found.cos_std < 1e-6 and found.norm_max == pytest.approx(0.3, rel=1e-6)
    assert found.digest != certificate(w.nextafter(torch.ones(10, 16))).digest


@pytest.mark.parametrize(
    "rows", [[[1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [math.nan, 1.0]]]
)
def test_what_has_no_certificate(rows: list[list[float]]) -> None:
    with pytest.raises(GeometryError, match="two rows or more"):
        certificate(torch.tensor(rows))


SCRIPT = """
import hashlib
from fedloge.geometry.basis_vectors import basis_vectors
for c, d, a in [(100, 64, 0.12), (60, 7, 0.57)]:
    w = basis_vectors(c, d, max_cos=a, gamma=0.1, seed=0)
    print(hashlib.sha256(w.numpy().tobytes()).hexdigest()[:16])
"""


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_bits_on_other_processors_and_thread_counts(machine: str) -> None:
    assert words_printed(SCRIPT, machine) == list(GOLDEN.values())


@pytest.mark.slow
def test_1203_classes_in_512_features() -> None:
    began = time.process_time()
    w = basis_vectors(1203, 512, max_cos=0.045, seed=0)
    assert time.process_time() - began < 120
    assert certificate(w).abs_cos_max <= 0.045
