"""A sum of vectors says to the bit what the plain sums say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import UpdateError
from fedloge.messages import DifferenceSum, ExactSum, WeightedSum
from fedloge.messages.masked_vector import VectorLayout

SHARED = {"a": torch.zeros(3, 2), "b": torch.zeros(5)}
SUMS = {"counts": torch.zeros(4)}
FIGURES = ["train/loss", "train/tiny"]
finite = st.floats(-999_999, 999_999, allow_nan=False)


def layout(total: int = 1000, figures: list[str] = FIGURES) -> VectorLayout:
    return VectorLayout(SHARED, SUMS, figures, total)


def tensors(seed: int, template: dict[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {k: torch.randn(t.shape, generator=draw) * scale for k, t in template.items()}


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**31),
            st.integers(1, 50),
            st.sampled_from([1e-7, 1.0, 3e3]),
            finite,
            st.floats(-1e-300, 1e-300),
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=40, deadline=None)
def test_the_sum_of_vectors_is_the_plain_sum(clients: list[tuple]) -> None:
    total = sum(weight for _, weight, *_ in clients)
    mean, exact, vector = WeightedSum(SHARED, total), ExactSum(SUMS), None
    for seed, weight, scale, loss, tiny in clients:
        shared, sums = tensors(seed, SHARED, scale), tensors(seed + 1, SUMS, scale * 1e4)
        mean.add(shared, weight)
        exact.add(sums)
        figures = {"train/loss": loss, "train/tiny": tiny}
        words = layout(total).pack(shared, weight, sums, figures)
        vector = words if vector is None else vector + words
    assert vector is not None and len(vector) == layout(total).words
    read = layout(total).unpack(vector, total, len(clients))
    assert read.shared is not None
    for name, tensor in mean.mean().items():
        assert torch.equal(read.shared.mean()[name], tensor)
    assert torch.equal(read.sums["counts"], exact.total()["counts"])
    assert read.figures["train/loss"] == math.fsum(row[3] for row in clients)
    assert read.figures["train/tiny"] == math.fsum(row[4] for row in clients)


@pytest.mark.parametrize(
    ("shared", "sums", "figure", "words"),
    [
        (40_000.0, 0.0, 0.0, "a value of 32768 or more"),
        (math.nan, 0.0, 0.0, "not finite"),
        (0.0, 2.0**41, 0.0, "'counts' holds a value of"),
        (0.0, 0.0, 1e7, "'train/loss' is 10000000.0"),
        (0.0, 0.0, math.nan, "'train/loss' is nan"),
    ],
)
def test_a_client_keeps_to_its_bounds_before_it_masks(
    shared: float, sums: float, figure: float, words: str
) -> None:
    with pytest.raises(UpdateError, match=words):
        layout().pack(
            {k: torch.full_like(t, shared) for k, t in SHARED.items()},
            1,
            {k: torch.full_like(t, sums) for k, t in SUMS.items()},
            {"train/loss": figure, "train/tiny": 0.0},
        )


@pytest.mark.parametrize(
    ("place", "what"), [(0, "'a'"), (11, "counts"), (15, "counts"), (19, "train")]
)
def test_a_sum_with_a_mask_left_in_it_is_out_of_range(place: int, what: str) -> None:
    zeros = {k: torch.zeros_like(t) for k, t in SHARED.items()}
    nothing = dict.fromkeys(FIGURES, 0.0)
    words = layout().pack(zeros, 1, {"counts": torch.zeros(4)}, nothing)
    words[place] += np.uint64(2**63)
    with pytest.raises(UpdateError, match=what):
        layout().unpack(words, 1, 1)


@given(
    st.lists(st.tuples(st.integers(0, 2**31), st.integers(1, 2**20)), min_size=1, max_size=12),
    st.sampled_from([1e-7, 0.3, 3.999]),
)
@settings(max_examples=40, deadline=None)
def test_two_values_in_a_word_add_up_as_each_alone(
    clients: list[tuple[int, int]], scale: float
) -> None:
    before, total = tensors(1, SHARED, 100.0), sum(weight for _, weight in clients)
    halves = VectorLayout(SHARED, {}, [], total, before)
    plain, vector = DifferenceSum(before, total), np.zeros(halves.words, np.uint64)
    for seed, weight in clients:
        moved = {name: t.sign() * scale for name, t in tensors(seed, SHARED, 1.0).items()}
        shared = {name: before[name] + moved[name] for name in SHARED}
        plain.add(shared, weight)
        vector = vector + halves.pack(shared, weight, {}, {})
    assert len(vector) == 6  # eleven values
    read = halves.unpack(vector, total, len(clients)).shared
    assert read is not None
    for name, tensor in plain.mean().items():
        assert torch.equal(read.mean()[name], tensor)


def test_masks_that_are_left_in_halves_are_noticed() -> None:
    halves = VectorLayout(SHARED, {}, [], 10, SHARED)
    noise = np.random.default_rng(0).integers(0, 2**64, halves.words, dtype=np.uint64)
    with pytest.raises(UpdateError, match="'update' is out of its range"):
        halves.unpack(noise, 10, 3)
