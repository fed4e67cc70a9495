"""What privacy excludes: at the client, whatever else would tell of its examples, or mixes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def private_problem(config: Mapping[str, Any]) -> str | None:
    """Why a config with ``local-dp-clip`` or ``dp-clip`` is refused, in a line; None: it is not.

    Parameters
    ----------
    config : kebab-case keys.
    """
    if config["local-dp-clip"] and (problem := _at_the_client(config)):
        return f"local-dp-clip: {problem}"
    if config["dp-clip"] and config["wire-dtype"] != "float32":
        return "dp-clip measures updates exactly: set wire-dtype=float32"
    if config["dp-clip"] and config["aggregation"] != "mean":
        return f"dp-clip: the noise is made for aggregation=mean, got {config['aggregation']!r}"
    return None


def _at_the_client(config: Mapping[str, Any]) -> str | None:
    if config["mixup"]:
        return "mixup mixes examples, so that none has a gradient of its own; leave mixup at 0"
    if config["fast"]:
        return "recorded and stacked steps are plain ones; leave fast at false"
    told = {
        "init-head": config["init-head"] != "none",
        "validation-share": bool(config["validation-share"]),
        "probes": bool(config["probes"]),
        "partitioner-options.share-class-counts": bool(
            config["partitioner-options"].get("share-class-counts")
        ),
    }
    for key, asked in told.items():
        if asked:
            return f"{key} sends sums over a client's examples, which the noise does not cover; leave it out"
    return None
