"""A network that knows its examples by heart gives them away; one trained with noise does not."""

from __future__ import annotations

import pytest
from membership import attacked


@pytest.mark.slow
def test_an_over_trained_model_is_given_away_and_with_noise_the_attack_guesses() -> None:
    pytest.importorskip("dp_accounting")
    plain = attacked(0.0, 0)
    assert plain.fitted > 0.95 and plain.auc > 0.9
    private = attacked(10.0, 0)
    # Three deviations of a guess by chance, 0.053 each: the root of 121 over 12 times 60 times 60.
    assert private.epsilon is not None and abs(private.auc - 0.5) < 0.16
