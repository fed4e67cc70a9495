"""Whether a run's nodes are this machine's own, and whether Flower simulates enough of them."""

from __future__ import annotations

import time

from flwr.serverapp import Grid

from fedloge.errors import RunError

_FLOWERS_SIMULATION = "flwr.superlink.grid.inmemory_grid"
"""Where Flower keeps its simulation's grid; to import it takes two seconds that only its own run pays."""
_POLL_SECONDS = 0.1


def simulated(grid: Grid) -> bool:
    """Whether no node is another's: on our own engines and in Flower's simulation."""
    return bool(getattr(grid, "nodes_are_fixed", False)) or _flowers_own(grid)


def require_nodes(grid: Grid, num_clients: int, settled: float = 3.0) -> None:
    """See to it that Flower simulates as many SuperNodes as the run has clients.

    In a simulation no node comes later, so waiting for one until ``startup-timeout`` would be in vain.

    Parameters
    ----------
    settled : seconds in which no node has been added, after which none will be. Flower starts the
        ServerApp while it adds them, one after another.

    Raises
    ------
    RunError
        There are fewer.
    """
    if not _flowers_own(grid):
        return
    found, since = 0, time.monotonic()
    while found < num_clients and time.monotonic() < since + settled:
        now = len(list(grid.get_node_ids()))
        if now != found:
            found, since = now, time.monotonic()
        time.sleep(_POLL_SECONDS)
    if found < num_clients:
        raise RunError(
            f"Flower simulates {found} SuperNodes, and the run has {num_clients} clients; "
            f"give flwr run --federation-config num-supernodes={num_clients}"
        )


def _flowers_own(grid: Grid) -> bool:
    return type(grid).__module__ == _FLOWERS_SIMULATION
