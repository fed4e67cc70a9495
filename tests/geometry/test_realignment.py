from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, inf, tensor

from fedloge.geometry.realignment import (
    absent_mask,
    global_realign,
    local_realign,
    local_realign_sum,
    tau_norm,
)

PSI = tensor([[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]])  # norms 5, 2, 0
PHI = tensor([[0.0, 10.0], [6.0, 8.0], [1.0, 0.0]])  # norms 10, 10, 1


def normal(rows: int, columns: int, seed: int) -> Tensor:
    return torch.randn(
        rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


heads = st.builds(normal, st.integers(1, 12), st.just(7), st.integers(0, 2**31))
scales = st.lists(st.floats(1e-6, 1e6), min_size=12, max_size=12).map(
    lambda s: tensor(s, dtype=torch.float64)
)


def test_global_by_hand() -> None:
    assert torch.allclose(global_realign(PSI), tensor([[0.6, 0.8], [0.0, 1.0], [0.0, 0.0]]))


def test_local_by_hand() -> None:
    assert torch.allclose(local_realign(PSI, PHI), tensor([[30.0, 40.0], [0.0, 20.0], [0.0, 0.0]]))


def test_sum_by_hand() -> None:
    assert torch.allclose(
        local_realign_sum(PSI, PHI), tensor([[30.0, 50.0], [6.0, 28.0], [1.0, 0.0]])
    )


def test_tau_by_hand() -> None:
    # sqrt(5) and sqrt(2)
    assert torch.allclose(
        tau_norm(PSI, 0.5), tensor([[1.3416408, 1.7888544], [0.0, 1.4142135], [0.0, 0.0]])
    )
    assert torch.equal(tau_norm(PSI, 0.0), PSI)
    assert torch.equal(tau_norm(PSI, 1.0), global_realign(PSI))


def test_a_tiny_row_keeps_its_direction() -> None:
    # The squares of these entries are zero in float32.
    assert torch.allclose(global_realign(tensor([[3e-30, 4e-30]])), tensor([[0.6, 0.8]]))


def test_the_heads_are_left_as_they_were() -> None:
    psi, phi = PSI.clone(), PHI.clone()
    global_realign(psi), local_realign_sum(psi, phi), tau_norm(psi, 0.7)
    assert torch.equal(psi, PSI) and torch.equal(phi, PHI)


def test_realignment_changes_the_winner() -> None:
    # A head class wins by its norm alone; by direction the tail class is nearer.
    psi, h = tensor([[10.0, 0.0], [0.6, 0.8]]), tensor([0.5, 1.0])
    assert (psi @ h).argmax() == 0
    assert (global_realign(psi) @ h).argmax() == 1
    # A client whose own head weighs the first class 10 times the second turns it back.
    assert (local_realign(global_realign(psi), tensor([[10.0, 0.0], [0.0, 1.0]])) @ h).argmax() == 0


@settings(max_examples=50, deadline=None)
@given(psi=heads, scale=scales)
def test_global_does_not_see_row_scales(psi: Tensor, scale: Tensor) -> None:
    scaled = psi * scale[: len(psi), None]
    assert torch.allclose(global_realign(scaled), global_realign(psi), rtol=1e-9)
    assert torch.allclose(
        global_realign(psi).norm(dim=1), torch.ones(len(psi), dtype=torch.float64)
    )
    assert torch.allclose(global_realign(global_realign(psi)), global_realign(psi))


@settings(max_examples=50, deadline=None)
@given(psi=heads, scale=scales, seed=st.integers(0, 2**31))
def test_local_is_linear_in_the_row_norms_of_both(psi: Tensor, scale: Tensor, seed: int) -> None:
    phi, scale = normal(len(psi), 7, seed), scale[: len(psi), None]
    realigned = local_realign(psi, phi)
    assert torch.allclose(realigned.norm(dim=1), psi.norm(dim=1) * phi.norm(dim=1))
    assert torch.allclose(local_realign(psi, scale * phi), scale * realigned, rtol=1e-9)
    assert torch.allclose(local_realign(scale * psi, phi), scale * realigned, rtol=1e-9)
    assert torch.allclose(local_realign(psi, -phi), realigned)  # only its norms enter


@settings(max_examples=50, deadline=None)
@given(psi=heads, scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**31))
def test_one_scale_for_all_classes_changes_no_prediction(
    psi: Tensor, scale: float, seed: int
) -> None:
    phi, h = normal(len(psi), 7, seed), normal(7, 20, seed + 1)
    expected = (local_realign(psi, phi) @ h).argmax(dim=0)
    assert torch.equal((local_realign(psi, scale * phi) @ h).argmax(dim=0), expected)
    assert torch.equal((local_realign(scale * psi, phi) @ h).argmax(dim=0), expected)
    # Up to rounding, which may turn a near tie over.
    small, large = global_realign(psi) @ h, global_realign(scale * psi) @ h
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(psi=heads, tau=st.floats(0, 1), more=st.floats(0, 1))
def test_tau_takes_norms_to_the_power_of_what_is_left(psi: Tensor, tau: float, more: float) -> None:
    assert torch.allclose(tau_norm(psi, tau).norm(dim=1), psi.norm(dim=1) ** (1 - tau))
    assert torch.allclose(tau_norm(tau_norm(psi, tau), more), tau_norm(psi, tau + more * (1 - tau)))


def test_mask_by_hand() -> None:
    assert absent_mask(tensor([5, 0, 1])).tolist() == [0.0, -inf, 0.0]


def test_a_client_without_an_image_masks_nothing() -> None:
    assert absent_mask(tensor([0, 0])).tolist() == [0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(any),
    seed=st.integers(0, 2**31),
)
def test_masked_classes_are_never_predicted_and_the_others_keep_their_logits(
    counts: list[int], seed: int
) -> None:
    present = tensor(counts) > 0
    logits = normal(30, len(counts), seed)
    masked = logits + absent_mask(tensor(counts))
    assert present[masked.argmax(dim=1)].all()
    assert torch.equal(masked[:, present], logits[:, present])
    probabilities = masked.softmax(dim=1)
    assert torch.isfinite(probabilities).all() and (probabilities[:, ~present] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kind_of_number_is_kept(dtype: torch.dtype) -> None:
    psi, phi = PSI.to(dtype), PHI.to(dtype)
    assert {
        f.dtype for f in (global_realign(psi), local_realign(psi, phi), tau_norm(psi, 0.5))
    } == {dtype}
