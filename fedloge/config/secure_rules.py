"""What secure aggregation excludes, because the server sees no single update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FEWEST_CLIENTS = 3
MOST_CLIENTS = 2000


def secure_problem(config: Mapping[str, Any]) -> str | None:
    """Why a config with ``secure-aggregation`` is refused, in a line; None: it is not.

    Parameters
    ----------
    config : kebab-case keys.
    """
    if config["aggregation"] != "mean":
        return (
            f"aggregation={config['aggregation']} compares single updates, which the server does not see; "
            "set aggregation=mean"
        )
    if config["dp-clip"]:
        return (
            "dp-clip clips single updates at the server, which does not see them; leave dp-clip out"
        )
    if config["wire-dtype"] != "float32":
        return (
            f"updates are sent as integers, so wire-dtype={config['wire-dtype']} saves nothing; set "
            "wire-dtype=float32"
        )
    if not config["clients-per-round"] >= FEWEST_CLIENTS:
        return (
            f"a sum over {config['clients-per-round']} clients says too much of each; set clients-per-round to "
            f"{FEWEST_CLIENTS} or more"
        )
    if config["num-clients"] > MOST_CLIENTS:
        return f"sums hold {MOST_CLIENTS} clients at most, num-clients is {config['num-clients']}"
    return None
