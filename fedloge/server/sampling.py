"""Which clients train in a round."""

from __future__ import annotations

import numpy as np

from fedloge.config import Config
from fedloge.partition import held_out_clients
from fedloge.rng import rng


def drawn_clients(config: Config, round: int) -> list[int]:
    """The partition ids of the clients asked in a round, ascending; they depend on seed and round only.

    Clients that are held out from training are never drawn. With ``clients-drawn`` they are more than count.
    """
    training = np.setdiff1d(np.arange(config.num_clients), held_out_clients(config))
    drawn = rng(config.seed, "sample-clients", round).choice(
        training, size=config.clients_drawn or config.clients_per_round, replace=False
    )
    return sorted(drawn.tolist())
