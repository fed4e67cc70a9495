from __future__ import annotations

import hashlib
import time

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from other_machines import MACHINES, words_printed

from fedloge.errors import GeometryError
from fedloge.geometry.simplex import simplex_etf
from fedloge.geometry.sparse import sparse_etf

# SHA-256 of the float32 bytes at the defaults and seed 0. Golden: other bits are
# another fixed classifier, which old runs would refuse.
GOLDEN = {
    (10, 64): "0b466748d9218f4f",
    (10, 512): "29f2dee930d871d4",
    (100, 512): "d392f22ddf863b8f",
}
GOLDEN_LARGE = "e4ef6bcdb5ed015a"  # 1000 x 2048


def sha(w: torch.Tensor) -> str:
    return hashlib.sha256(w.numpy().tobytes()).hexdigest()[:16]


def cosine_errors(w: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(w.double(), dim=1)
    off = ~torch.eye(len(w), dtype=torch.bool)
    return (unit @ unit.T)[off] + 1 / (len(w) - 1)


def check(w: torch.Tensor, zeros: int, gamma: float) -> None:
    assert w.dtype == torch.float32
    assert (w == 0).sum(dim=1).tolist() == [zeros] * len(w)
    assert (w.double().norm(dim=1) / gamma - 1).abs().max() <= 1e-6
    assert cosine_errors(w).abs().max() < 3e-6


@pytest.mark.parametrize(
    ("num_classes", "dim", "zeros"), [(10, 64, 38), (10, 512, 307), (100, 512, 307)]
)
def test_equal_zeros_exact_norms_equal_angles(num_classes: int, dim: int, zeros: int) -> None:
    w = sparse_etf(num_classes, dim, seed=0)
    check(w, zeros, 0.1)
    assert sha(w) == GOLDEN[num_classes, dim]


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    num_classes=st.integers(2, 24),
    sparsity=st.floats(0, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_shape_with_room_is_solved(
    data: st.DataObject, num_classes: int, sparsity: float, seed: int
) -> None:
    dim = data.draw(st.integers(max(2, num_classes - 1), 100))
    zeros = round(sparsity * dim)
    # Half as many free numbers again as there are angles and norms to set.
    assume(
        num_classes * (dim - zeros) - dim >= 1.5 * num_classes * (num_classes - 1) / 2
        and zeros < dim
    )
    check(sparse_etf(num_classes, dim, sparsity=sparsity, gamma=0.7, seed=seed), zeros, 0.7)


def test_zeros_of_one_class_are_not_those_of_another() -> None:
    support = sparse_etf(100, 512, seed=0) != 0
    shared = (support.double() @ support.double().T)[~torch.eye(100, dtype=torch.bool)]
    assert abs(shared.mean() / 512 - (205 / 512) ** 2) < 0.005  # as independent draws share
    assert shared.min() > 0  # disjoint supports would force a right angle


def test_two_classes_share_their_zeros() -> None:
    w = sparse_etf(2, 10, seed=3)
    assert torch.allclose(w[0], -w[1]) and (w == 0).sum() == 12


def test_no_zeros_is_the_simplex() -> None:
    assert torch.equal(
        sparse_etf(6, 9, sparsity=0.0, gamma=0.1, seed=4), simplex_etf(6, 9, gamma=0.1, seed=4)
    )


def test_seeds_differ_and_repeat() -> None:
    assert torch.equal(sparse_etf(10, 32, seed=2), sparse_etf(10, 32, seed=2))
    assert not torch.equal(sparse_etf(10, 32, seed=2), sparse_etf(10, 32, seed=3))


@pytest.mark.parametrize(
    ("num_classes", "dim", "sparsity", "text"),
    [
        (10, 12, 0.8, "leaves each class 2 of 12 entries, so 11 free numbers for the 45 angles"),
        (10, 12, 0.99, "leaves each class 0 of 12"),
        (11, 14, 0.6, r"came within .* of the cosine -0.1, expected within 2e-06; lower sparsity"),
        (10, 64, 1.0, "0 <= sparsity < 1, got 1.0"),
        (10, 64, float("nan"), "0 <= sparsity < 1"),
        (100, 64, 0.6, "no simplex of 100 classes"),
    ],
)
def test_what_cannot_be_built_is_refused(
    num_classes: int, dim: int, sparsity: float, text: str
) -> None:
    with pytest.raises(GeometryError, match=text):
        sparse_etf(num_classes, dim, sparsity=sparsity, seed=0)


SCRIPT = """
import hashlib
from fedloge.geometry.sparse import sparse_etf
for c, d in [(10, 64), (10, 512), (100, 512)]:
    print(hashlib.sha256(sparse_etf(c, d, seed=0).numpy().tobytes()).hexdigest()[:16])
"""


@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_bits_on_other_processors_and_thread_counts(machine: str) -> None:
    assert words_printed(SCRIPT, machine) == list(GOLDEN.values())


def test_100_classes_take_less_than_3_seconds() -> None:
    began = time.process_time()  # of this process, which has one thread: others may be at work
    sparse_etf(100, 512, seed=1)
    assert time.process_time() - began < 3


@pytest.mark.slow
def test_1000_classes_in_2048_features() -> None:
    began = time.process_time()
    w = sparse_etf(1000, 2048, seed=0)
    assert time.process_time() - began < 90
    check(w, 1229, 0.1)
    assert sha(w) == GOLDEN_LARGE
