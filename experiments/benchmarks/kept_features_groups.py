"""Linear heads on kept features: gradients written out, against autograd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_up_features
import noise_data
from interleaved_timing import Case, Group, Ratio
from local_training import LocalTraining


def heads(quick: bool) -> Iterator[Group]:
    """A round of 40 clients of CIFAR-10-LT's size, one epoch of batches of 32 on 1,280 features each."""
    data = made_up_features.long_tailed(noise_data.config_of(Path()))
    images = len(data.train)
    for method, options in (
        ("fedavg", {"loss": "balanced-softmax"}),
        ("fedrod", {}),
        ("fedloge", {}),
    ):
        settings: dict[str, Any] = {"method": method, "method_options": options, "batch_size": 32}
        settings |= {
            "model": "identity",
            "feature_scale": "standard",
            "local_epochs": 1,
            "momentum": 0.0,
        }
        settings |= {"num_clients": 40, "clients_per_round": 8, "partitioner": "dirichlet"}
        with (
            noise_data.federation(data, **settings) as fed,
            noise_data.federation(data, **settings, seed=1) as by_autograd,
        ):
            by_autograd.method.linear_losses = lambda *_: None  # type: ignore[method-assign]
            cases = (
                Case("written out", LocalTraining(fed), images),
                Case("autograd", LocalTraining(by_autograd), images),
            )
            # What both share, gathering and scaling the features, is more than half of it.
            ratio = Ratio("written out", "autograd", None if quick else 0.9)
            yield Group(f"heads on kept features, {method}", "s/image", cases, (ratio,), 3)
