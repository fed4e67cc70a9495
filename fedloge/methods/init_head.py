"""What clients are asked before round 1 for heads in closed form: config ``init-head``."""

from __future__ import annotations

from typing import Any

from fedloge.errors import ConfigError
from fedloge.learning.probes import ClosedForm, ProbeTask
from fedloge.methods.method import Method


def init_head_probe(method: Method[Any]) -> ClosedForm | None:
    """The sums to collect; None: heads start as the method builds them.

    `ConfigError`: the method shares no head, or dp-clip does not cover the sums.
    """
    config = method.config
    if config.init_head == "none":
        return None
    if not method.heads or method.pooled:
        raise ConfigError(
            f"init-head: clients of method {config.method!r} do not share a linear head to begin with; "
            "leave the key out"
        )
    if config.dp_clip:
        raise ConfigError(
            "init-head: it sends sums, which dp-clip's noise does not cover; leave one of the two out"
        )
    if config.secure_aggregation:
        raise ConfigError(
            "init-head: the sums before round 1 are not masked, as secure-aggregation promises; leave one of "
            "the two out"
        )
    return ClosedForm(ProbeTask(config, method.task.num_classes, method))
