from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloge.errors import GeometryError
from fedloge.geometry.imbalanced import imbalanced_law
from fedloge.geometry.law_fit import fit_law, law_divisors, law_tau
from fedloge.geometry.law_realignment import at_law_norms, global_realign_by_law
from fedloge.geometry.realignment import global_realign

COUNTS = np.array([200, 100, 50, 20, 4])
# METHOD.md's check case: what the law has for these counts, and what training reached.
TRAINED = np.array([2.9162, 2.3612, 1.8719, 1.2908, 0.0])


def test_the_law_is_found_in_norms_that_follow_it() -> None:
    fit = fit_law(COUNTS, TRAINED)
    np.testing.assert_allclose(fit.norms, TRAINED, atol=2e-3)
    assert fit.r_squared > 0.9999
    assert fit.under(COUNTS) == [4] and 4 <= fit.threshold < 20
    assert law_tau(fit, TRAINED) == pytest.approx(1, abs=1e-2)


@settings(max_examples=15, deadline=None)
@given(st.floats(1e-4, 5e-3), st.floats(1e-4, 5e-3))
def test_threshold_and_features_of_the_closed_form(
    weight_decay: float, feature_decay: float
) -> None:
    counts = np.array([2000, 900, 300, 120, 60, 30, 10, 3])
    law = imbalanced_law(torch.from_numpy(counts), [weight_decay], feature_decay)
    if int(law.survives.sum()) < 4:
        return
    rows = fit_law(counts, law.w_norms.numpy())
    assert rows.r_squared > 0.999
    assert rows.under(counts) == law.collapsed
    features = fit_law(counts, law.h_norms.numpy(), "features")
    assert features.r_squared > 0.99
    # Trained on a tenth of everything, under the same penalties.
    tenth = imbalanced_law(torch.from_numpy(counts // 10 + 1), [weight_decay], feature_decay)
    examples = float((counts // 10 + 1).sum())
    expected = rows.threshold * (tenth.threshold / law.threshold)
    assert rows.threshold_of(examples, float(counts.sum())) == pytest.approx(expected, rel=1e-6)


def test_norms_that_sizes_do_not_explain() -> None:
    assert fit_law(COUNTS, TRAINED[::-1].copy()).r_squared < 0
    assert math.isnan(fit_law(COUNTS, np.ones(5)).r_squared)
    # An absent class enters nothing.
    with_absent = fit_law(np.append(COUNTS, 0), np.append(TRAINED, 77.0))
    np.testing.assert_allclose(with_absent.norms, np.append(fit_law(COUNTS, TRAINED).norms, 0))
    with pytest.raises(GeometryError, match="three classes"):
        fit_law(np.array([5, 3, 0]), np.ones(3))


def test_tau_takes_out_only_what_sizes_explain() -> None:
    fit = fit_law(COUNTS, TRAINED)
    # Norms twice as spread, in logarithms, as the law's: half of them is what sizes explain.
    assert law_tau(fit, TRAINED**2) == pytest.approx(0.5, abs=0.01)


def test_realignment_towards_the_law() -> None:
    directions = torch.nn.functional.normalize(torch.randn(5, 8, dtype=torch.float64))
    counts = torch.from_numpy(COUNTS)
    norms = torch.from_numpy(np.where(TRAINED > 0, TRAINED, 0.3))
    psi = directions * norms[:, None]
    by_law = global_realign_by_law(psi, counts)
    law = torch.from_numpy(law_divisors(fit_law(COUNTS, norms.numpy()), norms.numpy()))
    torch.testing.assert_close(by_law, psi / law[:, None])
    torch.testing.assert_close(at_law_norms(psi, counts).norm(dim=1), law)
    # Nothing to fit to: the norms that rows have.
    torch.testing.assert_close(
        global_realign_by_law(psi, torch.tensor([3, 2, 0, 0, 0])), global_realign(psi)
    )
    assert not global_realign_by_law(torch.zeros(5, 8, dtype=torch.float64), counts).any()
