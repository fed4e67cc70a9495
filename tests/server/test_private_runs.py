"""Whole runs with privacy at the client: the record, the bits, and what is refused before a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import harness
import pytest

from fedloge.errors import ConfigError
from fedloge.federation import open_federation
from fedloge.learning.privacy_accountant import Spending, epsilon
from fedloge.methods import METHODS

pytest.importorskip("dp_accounting")
PRIVATE: dict[str, Any] = {"local_dp_clip": 1.0, "norm": "group"}


def test_epsilon_of_a_run_rises_and_a_resume_changes_nothing(tmp_path: Path) -> None:
    config = harness.tiny(tmp_path, "whole", **PRIVATE)
    folder = harness.run_local(config)
    rows = harness.lines(folder, "metrics")
    found = [row["privacy/local-epsilon"] for row in rows]
    sizes = [row["num-train"] for row in harness.lines(folder, "clients") if row["round"] == 1]

    def spent(size: int, rounds: int) -> float:
        return epsilon([Spending(min(1.0, 32 / size), 1.0, rounds * -(-size // 32))], 1e-5)

    # Three of four clients take part in a round: after the third, one of them has trained three times or two.
    assert found[0] in [pytest.approx(spent(size, 1)) for size in sizes]
    assert found[-1] <= max(spent(size, 3) for size in sizes) * (1 + 1e-9)
    assert found == sorted(found)
    parted = harness.run_local(config.replace(name="parted", rounds=1))
    harness.resume_local(parted, rounds=3)
    assert not harness.differences(folder, parted)


def test_masked_sums_have_the_bits_of_the_plain_private_run(tmp_path: Path) -> None:
    plain = harness.run_local(harness.tiny(tmp_path, "plain", rounds=2, **PRIVATE))
    masked = harness.run_local(
        harness.tiny(tmp_path, "masked", rounds=2, secure_aggregation=True, **PRIVATE)
    )
    assert not harness.differences(plain, masked)


FITS = {"fedavg", "fedper", "fedrep", "fedbabu", "fedbn", "fedloge", "ebv", "local-only"}


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_take_more_than_a_mean_over_examples_are_refused(
    method: str, tmp_path: Path
) -> None:
    config = harness.tiny(tmp_path, method=method, **PRIVATE)
    if method in FITS:
        assert open_federation(config).net is not None
    else:
        with pytest.raises(
            ConfigError, match=f"local-dp-clip: with these options method '{method}'"
        ):
            _ = open_federation(config).method


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "counts in a loss": ({"method": "fedavg", "method_options": {"loss": "balanced-softmax"}}, "class counts, sums"),
    "counts in FedLoGe": ({"method_options": {"global-adjustment": 1.0}}, "class counts, sums"),
    "batch norm": ({"norm": "batch"}, "batch norm mixes the examples of a batch"),
    "mixup": ({"mixup": 0.2}, "mixup mixes examples"),
    "stacked clients": ({"fast": True}, "leave fast at false"),
    "closed form": ({"init_head": "closed-form"}, "init-head sends sums"),
    "a probe": ({"probes": "calibration"}, "probes sends sums"),
    "validation": ({"validation_share": 0.2}, "validation-share sends sums"),
    "unread noise": ({"local_dp_clip": 0.0, "local_dp_noise": 2.0}, "local-dp-noise is not read here"),
    "unread delta": ({"local_dp_clip": 0.0, "local_dp_delta": 1e-6}, "local-dp-delta is not read here"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_noise_would_not_cover_is_refused(what: str, tmp_path: Path) -> None:
    changes, words = REFUSED[what]
    with pytest.raises(ConfigError, match=words) as caught:
        _ = open_federation(harness.tiny(tmp_path, **(PRIVATE | changes))).net
    assert "\n" not in str(caught.value)


def test_bfloat16_and_adamw_train_privately(tmp_path: Path) -> None:
    changes = {"precision": "bf16", "optimiser": "adamw", "momentum": 0.5, "lr": 1e-3, "rounds": 1}
    folder = harness.run_local(harness.tiny(tmp_path, **(PRIVATE | changes)))
    assert math.isfinite(harness.lines(folder, "metrics")[0]["train/loss"])
