"""Which clients train in a round."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from fedloge.config import Config
from fedloge.partition import held_out_clients
from fedloge.rng import rng


def drawn_clients(config: Config, round: int, present: Collection[int] | None = None) -> list[int]:
    """The partition ids of the clients asked in a round, ascending; they depend on seed and round only.

    Clients that are held out from training are never drawn. With ``clients-drawn`` they are more than count.

    Parameters
    ----------
    present : who is there, where sites come and go; all of them are drawn if they are no more than asked.
        None: all partitions.
    """
    everybody = range(config.num_clients) if present is None else sorted(present)
    training = np.setdiff1d(np.array(everybody), held_out_clients(config))
    size = config.clients_drawn or config.clients_per_round
    if present is not None:
        size = min(size, len(training))
    drawn = rng(config.seed, "sample-clients", round).choice(training, size=size, replace=False)
    return sorted(drawn.tolist())
