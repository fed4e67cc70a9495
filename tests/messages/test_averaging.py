from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import UpdateError
from fedloge.messages.averaging import DifferenceSum, ExactSum, WeightedSum, check_update


def one(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def test_weights_are_right_by_hand() -> None:
    total = WeightedSum(one(0.0), total_weight=4)
    total.add(one(1.0), 1)
    total.add(one(5.0), 3)
    assert total.mean()["w"].item() == 4.0


def test_a_missing_client_does_not_change_the_others_weights() -> None:
    total = WeightedSum(one(0.0), total_weight=100)
    total.add(one(1.0), 1)
    total.add(one(2.0), 1)
    assert total.mean()["w"].item() == 1.5


@st.composite
def updates(draw: st.DrawFn) -> list[tuple[dict[str, torch.Tensor], int]]:
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-6, 1e-3, 1.0, 3e4]))
    return [
        (
            {
                "a": torch.from_numpy(generator.uniform(-1, 1, (3, 4)).astype(np.float32)) * scale,
                "b": torch.from_numpy(generator.normal(size=()).astype(np.float32)),
            },
            int(generator.integers(1, 5000)),
        )
        for _ in range(draw(st.integers(1, 12)))
    ]


def summed(parts: list[tuple[dict[str, torch.Tensor], int]], total: int) -> WeightedSum:
    result = WeightedSum(parts[0][0], total)
    for tensors, weight in parts:
        result.add(tensors, weight)
    return result


@settings(max_examples=60, deadline=None)
@given(updates(), st.randoms(use_true_random=False), st.integers(0, 12))
def test_order_and_grouping_do_not_change_a_bit(parts, random, cut) -> None:
    total = sum(weight for _, weight in parts)
    expected = summed(parts, total).mean()
    shuffled = list(parts)
    random.shuffle(shuffled)
    merged = WeightedSum(parts[0][0], total)
    for group in (shuffled[:cut], shuffled[cut:]):
        if group:
            part = summed(group, total)
            merged.merge_partial(part.partial(), part.weight)
    for name, value in expected.items():
        assert torch.equal(merged.mean()[name], value)


@settings(max_examples=60, deadline=None)
@given(updates())
def test_the_mean_is_numpys_in_double(parts) -> None:
    total = sum(weight for _, weight in parts)
    mean = summed(parts, total).mean()
    for name, value in mean.items():
        exact = sum(t[name].double() * w for t, w in parts) / total
        # Half a unit in the last place of float32, and the one rounding of each client.
        bound = exact.abs() * 2**-24 + len(parts) * 2.0**-47
        assert bool(((value.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"w": torch.tensor([float("nan")])}, "not finite"),
        ({"w": torch.tensor([float("inf")])}, "not finite"),
        ({"w": torch.tensor([40000.0])}, "32768 or more"),
        ({"w": torch.zeros(2)}, r"shape \(2,\), expected \(1,\)"),
        ({"w": torch.zeros(1, dtype=torch.float64)}, "dtype"),
        ({}, "'w' is missing"),
        ({"w": torch.zeros(1), "x": torch.zeros(1)}, "'x' is not part"),
    ],
)
def test_what_cannot_be_averaged_is_refused(tensors, words) -> None:
    with pytest.raises(UpdateError, match=words):
        check_update(tensors, one(0.0))


def test_weights_beyond_the_announced_total_are_refused() -> None:
    total = WeightedSum(one(0.0), total_weight=2)
    with pytest.raises(ValueError, match="exceed"):
        total.add(one(1.0), 3)


def test_nothing_to_average_is_an_error() -> None:
    with pytest.raises(UpdateError, match="no client"):
        WeightedSum(one(0.0), 1).mean()


def test_a_large_tensor_is_summed_like_its_parts() -> None:
    values = torch.randn(300, 500, generator=torch.Generator().manual_seed(0))
    whole, rows = WeightedSum({"w": values}, 7), WeightedSum({"w": values[0]}, 7)
    whole.add({"w": values}, 3)
    rows.add({"w": values[299]}, 3)
    assert torch.equal(whole.mean()["w"][299], rows.mean()["w"])


def test_tensors_of_all_sizes_and_types_are_summed_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3,), "b": (), "c": (400, 200), "d": (0, 4), "e": (5, 2), "f": (70_000,)}
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    tensors["g"] = torch.tensor([1 / 3], dtype=torch.float64)
    tensors["h"] = torch.tensor([0.25, -2.0])
    total = WeightedSum(tensors, 9)
    total.add(tensors, 4)
    total.add({name: -2 * t for name, t in tensors.items()}, 2)
    other = WeightedSum(tensors, 9)
    other.merge_partial(total.partial(), total.weight)
    for mean in (total.mean(), other.mean()):
        assert list(mean) == list(tensors)
        for name, value in mean.items():
            assert value.shape == tensors[name].shape and value.dtype == tensors[name].dtype
            assert value.abs().max() < 1e-9 if value.numel() else True
    alone = WeightedSum(tensors, 9)
    alone.add(tensors, 7)
    for name, value in alone.mean().items():
        torch.testing.assert_close(value, tensors[name], rtol=0, atol=1e-9)


values = st.floats(-(2.0**40), 2.0**40, width=32, exclude_min=True, exclude_max=True)


@settings(max_examples=100, deadline=None)
@given(st.lists(values, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_a_plain_sum_is_exact_and_free_of_order(numbers: list[float], order) -> None:
    def total(those: list[float]) -> float:
        made = ExactSum({"s": torch.zeros(1, dtype=torch.float64)})
        for number in those:
            made.add({"s": torch.tensor([number], dtype=torch.float64)})
        return made.total()["s"].item()

    expected = float(sum(map(Fraction, numbers)))
    # Each number is rounded to 2^-52, and the total once more to float64.
    assert abs(total(numbers) - expected) <= len(numbers) * 2.0**-52 + abs(expected) * 2.0**-51
    shuffled = list(numbers)
    order.shuffle(shuffled)
    assert total(shuffled) == total(numbers)


def test_a_sum_has_the_dtype_and_shape_that_were_asked_for() -> None:
    template = {"a": torch.zeros(2, 3), "n": torch.zeros((), dtype=torch.float64)}
    made = ExactSum(template)
    assert not any(tensor.any() for tensor in made.total().values())
    # What float32 alone would lose: 2^30 + 2^-10, a hundred times.
    for _ in range(100):
        made.add(
            {
                "a": torch.full((2, 3), -0.5),
                "n": torch.tensor(2.0**30 + 2.0**-10, dtype=torch.float64),
            }
        )
    got = made.total()
    assert got["a"].dtype == torch.float32 and got["a"].tolist() == [[-50.0] * 3] * 2
    assert got["n"].dtype == torch.float64 and got["n"].item() == 100 * 2.0**30 + 100 * 2.0**-10


def test_a_mean_of_differences_by_hand() -> None:
    # Three at weight 1 that move by 1, 2 and 3, one that stays at weight 5: 6 / 8 on average.
    before = {"w": torch.full((3,), 100.0)}
    total = DifferenceSum(before, 8)
    for moved in (1.0, 2.0, 3.0):
        total.add({"w": before["w"] + moved}, 1)
    total.add(before, 5)
    assert total.mean()["w"].tolist() == [100.75] * 3
    assert int(total.partial()["w"].max()) == 6 * 2**25  # 30 bits, less 2 for 4 and 3 for 8


def test_a_mean_of_differences_is_near_the_mean() -> None:
    draw = torch.Generator().manual_seed(0)
    before = {"w": torch.randn(1000, generator=draw)}
    plain, small = WeightedSum(before, 8 * 350), DifferenceSum(before, 8 * 350)
    for _ in range(8):
        moved = {"w": before["w"] + torch.randn(1000, generator=draw) / 2}
        plain.add(moved, 350)
        small.add(moved, 350)
    off = (plain.mean()["w"] - small.mean()["w"]).abs().max()
    assert float(off) <= 8 * 2.0**-29 + 2.0**-22  # and float32's own rounding below 4


def test_the_most_that_sums_of_differences_hold() -> None:
    before = {"w": torch.zeros(2)}
    for weights in ([2**29], [1] * 2000, [3, 5, 7]):
        total = DifferenceSum(before, sum(weights))
        for weight in weights:
            total.add({"w": torch.tensor([3.9999998, -3.9999998])}, weight)
        assert int(total.partial()["w"].abs().max()) <= total.largest(len(weights)) < 2**31
    with pytest.raises(
        UpdateError, match="'w' has moved by 4 or more in a round, which average-bits=32"
    ):
        DifferenceSum(before, 1).add({"w": torch.tensor([0.0, 4.0])}, 1)
