from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import GeometryError
from fedloge.geometry.exact import gram, inner, product, row_norms, tree_sum
from fedloge.geometry.simplex import simplex_etf


def off_diagonal(rows: torch.Tensor) -> torch.Tensor:
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T)[~torch.eye(len(rows), dtype=torch.bool)]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), num_classes=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_all_pairs_stand_at_the_widest_equal_angle(
    data: st.DataObject, num_classes: int, seed: int
) -> None:
    # From d = 2: on a line, a seed in many thousands draws its two points at one place.
    dim = data.draw(st.integers(max(2, num_classes - 1), 80))
    w = simplex_etf(num_classes, dim, gamma=0.5, seed=seed)
    assert w.shape == (num_classes, dim) and w.dtype == torch.float32
    assert torch.allclose(w.double().norm(dim=1), torch.tensor(0.5, dtype=torch.float64), rtol=1e-6)
    assert (off_diagonal(w) + 1 / (num_classes - 1)).abs().max() < 1e-6
    assert w.double().sum(dim=0).abs().max() < 1e-6


def test_three_classes_in_the_plane_stand_at_120_degrees() -> None:
    w = simplex_etf(3, 2, seed=0).double()
    assert torch.allclose(
        w @ w.T,
        torch.tensor([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]]).double(),
        atol=1e-6,
    )


def test_two_classes_are_opposite() -> None:
    w = simplex_etf(2, 1, gamma=3.0, seed=1)
    assert sorted(w.flatten().tolist()) == [-3.0, 3.0]


def test_orientation_is_uniform_and_leans_on_no_direction() -> None:
    # Four rows of norm 1 in 6 features: over seeds, an entry has mean 0 and mean square 1/6.
    seeds = 150
    frames = torch.stack([simplex_etf(4, 6, seed=s) for s in range(seeds)])
    assert frames.mean(dim=0).abs().max() < 4.5 * (1 / 6 / seeds) ** 0.5
    assert torch.allclose(frames.square().mean(dim=(0, 1)), torch.full((6,), 1 / 6), rtol=0.2)


def test_seeds_differ_and_repeat() -> None:
    assert torch.equal(simplex_etf(5, 8, seed=2), simplex_etf(5, 8, seed=2))
    assert not torch.equal(simplex_etf(5, 8, seed=2), simplex_etf(5, 8, seed=3))


def test_bits_do_not_change() -> None:
    # Golden: other bits are another fixed classifier, which old runs would refuse.
    assert (
        hashlib.sha256(simplex_etf(100, 512, seed=0).numpy().tobytes()).hexdigest()[:16]
        == "5cbef7e980344f8a"
    )


@pytest.mark.parametrize(
    ("num_classes", "dim", "gamma", "seed", "text"),
    [
        (66, 64, 1.0, 0, "raise dim to 65 or more, or take at most 65 classes"),
        (1, 64, 1.0, 0, "at least 2 classes, got 1"),
        (10, 64, 0.0, 0, "gamma"),
        (10, 64, float("nan"), 0, "gamma"),
        (10, 64, 1.0, -1, "seed"),
    ],
)
def test_what_cannot_be_built_is_refused(
    num_classes: int, dim: int, gamma: float, seed: int, text: str
) -> None:
    with pytest.raises(GeometryError, match=text):
        simplex_etf(num_classes, dim, gamma=gamma, seed=seed)


class TestExact:
    @settings(max_examples=30, deadline=None)
    @given(
        m=st.integers(1, 30),
        k=st.integers(1, 300),
        n=st.integers(1, 30),
        scale=st.integers(-40, 40),
        seed=st.integers(0, 99),
    )
    def test_order_of_summation_does_not_matter(
        self, m: int, k: int, n: int, scale: int, seed: int
    ) -> None:
        g = np.random.default_rng(seed)
        a, b = g.standard_normal((m, k)) * 2.0**scale, g.standard_normal((k, n))
        order = g.permutation(k)
        assert np.array_equal(
            product(a, b),
            product(np.ascontiguousarray(a[:, order]), np.ascontiguousarray(b[order])),
        )
        assert np.array_equal(gram(a), gram(np.ascontiguousarray(a[:, order])))

    @settings(max_examples=30, deadline=None)
    @given(m=st.integers(1, 20), k=st.integers(1, 200), seed=st.integers(0, 99))
    def test_products_are_those_of_linear_algebra(self, m: int, k: int, seed: int) -> None:
        g = np.random.default_rng(seed)
        a, b = g.standard_normal((m, k)), g.standard_normal((k, 7))
        bound = row_norms(a).max() * row_norms(np.ascontiguousarray(b.T)).max()
        assert np.abs(product(a, b) - a @ b).max() <= 2.0**-24 * np.sqrt(k) * bound
        assert np.allclose(tree_sum(a), a.sum(axis=0))
        assert np.isclose(inner(a, a), (a**2).sum())

    def test_ordinary_products_do_hang_on_the_order(self) -> None:
        # Otherwise the test above could not fail.
        g = np.random.default_rng(0)
        a, order = g.standard_normal((20, 300)), g.permutation(300)
        assert not np.array_equal(a @ a.T, a[:, order] @ a[:, order].T)

    def test_zeros(self) -> None:
        assert np.array_equal(gram(np.zeros((2, 3))), np.zeros((2, 2)))
